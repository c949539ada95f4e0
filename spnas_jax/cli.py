"""The command line: picks a stage and hands it the config and the workdir.

  spnas --stage=all --config=digits --workdir=runs/digits

Any key of the config can be changed: --config.search.target_ms=80
"""

import ast
import contextlib
import os
import platform
import sys

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from spnas_jax.config.files import config_path
from spnas_jax.core import disk
from spnas_jax.core.errors import Diverged, Preempted, UserError, Waiting
from spnas_jax.stage_runs import ALL, STAGES
from spnas_jax.stage_runs import run as run_stage

# TensorFlow's and XLA's start-up chatter would bury the first useful line.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

_STAGE = flags.DEFINE_string(
  'stage',
  'all',
  f'What to do: all (= {", ".join(ALL)}) or one of {", ".join(STAGES)}.',
)


class _NumberOrNone(flags.FloatParser):
  """Also takes None, which unsets a key that a config file has set.

  Keys that may not be unset are refused with the other checks on the config.
  """

  def parse(self, argument):
    return None if argument == 'None' else super().parse(argument)


config_flags.register_flag_parser_for_type(float, _NumberOrNone())
_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'Configuration file, or the name of one that comes with the project, as in '
  'digits. Every key can be changed: --config.search.target_ms=80.',
  lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of this run, or a bucket path (gs://...).'
)


def parse_flags(argv: list[str]) -> list[str]:
  """Parses the command line.

  Raises:
    UserError: a flag, the config file or one of its keys is wrong.
  """
  try:
    return flags.FLAGS(_with_config_paths(argv))
  except UserError:
    raise
  except flags.Error as e:
    raise UserError(f'{e} (see --help)') from e
  except OSError as e:
    raise _not_a_config(argv) from e
  except Exception as e:  # Whatever the config file or its parser raises.
    text = str(e)
    while text[:1] in ('"', "'") and text[-1:] == text[:1]:
      text = ast.literal_eval(text)  # A KeyError quotes the text it is given.
    unknown = isinstance(e, KeyError) or text.isidentifier()
    kind = 'no key' if unknown or 'Did you mean' in text else type(e).__name__
    raise UserError(f'--config: {kind}: {text}') from e


def _with_config_paths(argv: list[str]) -> list[str]:
  """The arguments, with names of shipped configurations replaced by paths."""
  words = list(argv)
  for i, word in enumerate(words):
    flag, equals, value = word.partition('=')
    if flag in ('--config', '-config') and equals:
      words[i] = f'{flag}={config_path(value)}'
    elif i and words[i - 1] in ('--config', '-config'):
      words[i] = config_path(word)
  return words


def _not_a_config(argv: list[str]) -> UserError:
  words = ' '.join(argv).replace('--config ', '--config=').split()
  given = ['--config', *(w for w in words if w.startswith('--config='))]
  return UserError(
    f'{given[-1]}: must be a Python file whose get_config() returns a config, '
    'as in configs/digits.py'
  )


def run(argv: list[str]) -> None:
  """Runs the chosen stage or stages."""
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}: flags start with --')
  if _STAGE.value not in ('all', *STAGES):
    raise UserError(
      f'--stage is {_STAGE.value!r}, allowed: all, {", ".join(STAGES)}'
    )
  if _CONFIG.value is None:
    raise UserError('--config is missing, as in --config=configs/digits.py')
  if not isinstance(_CONFIG.value, ConfigDict):
    raise _not_a_config(sys.argv)
  if not _WORKDIR.value:
    raise UserError('--workdir is missing, as in --workdir=runs/digits')
  from spnas_jax.core import preemption  # JAX: a wrong flag needs none.

  preemption.watch()
  run_stage(_STAGE.value, _CONFIG.value, _WORKDIR.value)


def guarded(call, *args):
  """Ends in one line: wrong input with exit code 2, a diverged run or a full
  disk with 1, Ctrl-C with 130, SIGTERM with 143, one that waits for somebody
  with 0."""
  try:
    return call(*args)
  except Waiting as e:
    print(' '.join(str(e).split()))
    sys.exit(0)
  except (UserError, Diverged) as e:
    print(f'error: {" ".join(str(e).split())}', file=sys.stderr)
    sys.exit(2 if isinstance(e, UserError) else 1)
  except KeyboardInterrupt:
    print('stopped; the same command continues from here', file=sys.stderr)
    sys.exit(130)
  except Preempted as e:
    print(' '.join(str(e).split()), file=sys.stderr)
    sys.exit(143)
  except Exception as e:
    reason = disk.trouble(e)
    if reason is None:
      raise
    print(
      f'error: {reason}. Results and checkpoints that were written before are '
      'whole; once that is mended, the same command continues from there',
      file=sys.stderr,
      flush=True,
    )
    sys.stdout.flush()
    os._exit(1)  # A save that goes on would complain of what is torn down.


def use_huge_pages() -> None:
  """Starts this process again with glibc asking for huge pages.

  A step allocates and frees hundreds of MB on a CPU. With larger pages it took
  a quarter less time on two cores, two fifths less on one core
  (docs/lab/speed_log.md). The switch is read before a process starts. If the
  variable is already set, to any value, and on other systems nothing happens.
  """
  if platform.libc_ver()[0] == 'glibc' and 'GLIBC_TUNABLES' not in os.environ:
    os.environ['GLIBC_TUNABLES'] = 'glibc.malloc.hugetlb=1'
    with contextlib.suppress(OSError):  # Then it is slower.
      os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main() -> None:
  use_huge_pages()
  for name in ('stage', 'config', 'workdir'):
    # --help lists the program's flags, whatever file they are in.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
  app.run(
    lambda argv: guarded(run, argv),
    flags_parser=lambda argv: guarded(parse_flags, argv),
  )
