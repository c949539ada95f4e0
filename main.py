"""Entry point: picks a stage and hands it the config and the workdir.

  python main.py --stage=all --config=configs/digits.py --workdir=runs/digits

Any key of the config can be changed: --config.search.target_ms=80
"""

import ast
import contextlib
import importlib
import os
import platform
import sys
from collections.abc import Iterable

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from spnas_jax.errors import Diverged, UserError

# TensorFlow's and XLA's start-up chatter would bury the first useful line.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# stage -> module of spnas_jax with its run(config, workdir).
STAGES = {
  'search': 'search',
  'train': 'train',
  'evaluate': 'evaluate',
  'export': 'export',
  'profile': 'profile',
  'build_table': 'build_table',
  'validate_table': 'validate_table',
  'random_search': 'random_search',
  'compare_zoo': 'compare_zoo',
  'compare': 'compare',
  'compile': 'compile',
  'ablate': 'ablate',
  'zoo': 'zoo_listing',
  'report': 'report',
}
# What needs the statistics of the images.
_READ_PIXELS = {
  'search',
  'train',
  'evaluate',
  'export',
  'random_search',
  'compare_zoo',
  'compare',
  'ablate',
}
ALL = ('search', 'train', 'evaluate', 'export', 'profile', 'report')

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
  'Configuration file, as in configs/digits.py. Every key can be changed on '
  'the command line: --config.search.target_ms=80.',
  lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of this run; a bucket path (gs://...) will do.'
)


def parse_flags(argv: list[str]) -> list[str]:
  """Parses the command line.

  Raises:
    UserError: a flag, the config file or one of its keys is wrong.
  """
  try:
    return flags.FLAGS(argv)
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
  from spnas_jax import startup

  config, workdir = startup.start(_CONFIG.value, _WORKDIR.value)
  workdir.lock()
  run_stages(ALL if _STAGE.value == 'all' else (_STAGE.value,), config, workdir)


def run_stages(names: Iterable[str], config: ConfigDict, workdir) -> None:
  """Runs stages in a row.

  What a later stage will refuse is said before an earlier one trains for hours:
  those that train, or come after one that does, have a `check`.
  """
  from spnas_jax import input_pipeline

  # Imported only when chosen: a report needs no TensorFlow.
  stages = [importlib.import_module(f'spnas_jax.{STAGES[s]}') for s in names]
  if _READ_PIXELS & set(names):
    input_pipeline.fill_statistics(config.dataset)
  for stage in stages:
    getattr(stage, 'check', lambda *_: None)(config, workdir)
  for stage in stages:
    stage.run(config, workdir)


def guarded(call, *args):
  """Ends in one line: wrong input with exit code 2, a diverged run with 1,
  Ctrl-C with 130."""
  try:
    return call(*args)
  except (UserError, Diverged) as e:
    print(f'error: {" ".join(str(e).split())}', file=sys.stderr)
    sys.exit(2 if isinstance(e, UserError) else 1)
  except KeyboardInterrupt:
    print('stopped; the same command goes on from here', file=sys.stderr)
    sys.exit(130)


def use_huge_pages() -> None:
  """Starts this process again with glibc asking for huge pages.

  A step allocates and frees some hundred MB on a CPU; with larger pages it took
  a quarter less time on two cores, two fifths less on one (docs/search.md). The
  switch is read before a process starts. Where the variable is set already,
  whatever to, and on other systems nothing happens.
  """
  if platform.libc_ver()[0] == 'glibc' and 'GLIBC_TUNABLES' not in os.environ:
    os.environ['GLIBC_TUNABLES'] = 'glibc.malloc.hugetlb=1'
    with contextlib.suppress(OSError):  # Then it is slower.
      os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main() -> None:
  app.run(
    lambda argv: guarded(run, argv),
    flags_parser=lambda argv: guarded(parse_flags, argv),
  )


if __name__ == '__main__':
  use_huge_pages()
  main()
