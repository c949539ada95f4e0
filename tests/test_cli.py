"""The command line: what is refused, how, and what is left untouched.

Wrong input ends with exit code 2 and one line on stderr that names the field;
a run that diverges with 1 and one line; a mistake of the program with 1 and its
traceback. None of them changes anything in the workdir.
"""

import json
import os
import platform
import subprocess
import sys

import pytest
import tiny_run
from refusals import one_line

from spnas_jax import cli, stage_runs

# Forks for every command line that it reads: importing takes seconds.
SERVER = """
import json, os, sys, tempfile, traceback
from spnas_jax import cli, startup
import jax
for line in sys.stdin:
  code, *arguments = json.loads(line)
  files = tempfile.TemporaryFile(), tempfile.TemporaryFile()
  if not (child := os.fork()):
    for number, file in enumerate(files, start=1):
      os.dup2(file.fileno(), number)
    sys.argv, status = ['main.py', *arguments], 0
    try:
      exec(code)
    except SystemExit as e:
      status = e.code or 0
    except BaseException:
      traceback.print_exc()
      status = 1
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status)
  status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  said = []
  for file in files:
    file.seek(0)
    said.append(file.read().decode())
  print(json.dumps([status, *said]), flush=True)
"""


def run_python(code: str, *arguments: str):
  return tiny_run.run([sys.executable, '-c', code, *arguments])


@pytest.fixture(scope='module')
def command_line():
  """(arguments, code='cli.main()') -> the completed process, as if started."""
  server = subprocess.Popen(
    [sys.executable, '-c', SERVER],
    cwd=tiny_run.ROOT,
    env=tiny_run.environment(GLIBC_TUNABLES=''),
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )

  def run(*arguments, code='cli.main()'):
    server.stdin.write(json.dumps([code, *arguments]) + '\n')
    server.stdin.flush()
    return subprocess.CompletedProcess(
      arguments, *json.loads(server.stdout.readline())
    )

  with server:
    yield run
    server.stdin.close()


BROKEN_CONFIGS = {
  'syntax': 'def get_config(:\n  pass\n',
  'no_function': 'x = 1\n',
  'not_a_config': 'def get_config():\n  return 3\n',
  'import': 'import no_such_module\n',
  'raises': 'def get_config():\n  raise RuntimeError("two\\nlines")\n',
  'typo': (
    'from spnas_jax.config.defaults import default_config\n'
    'def get_config():\n'
    '  c = default_config()\n'
    '  c.search.targt_ms = 80.0\n'
    '  return c\n'
  ),
}


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['--config.search.targt_ms=80'], ['targt_ms', 'mean "target_ms"']),
    (['--config.serch.target_ms=80'], ['serch', 'mean "search"']),
    (['--config.zzz=1'], ['no key', 'zzz']),
    (['--config.seed.deeper=1'], ['seed.deeper']),
    (['--config.search.epochs=abc'], ['config.search.epochs=abc', 'float']),
    (['--config.search.log_every_steps=1.5'], ['log_every_steps=1.5', 'int']),
    (['--config.dataset.cache=perhaps'], ['dataset.cache=perhaps']),
    (['--config.search=3'], ['config.search=3', 'ConfigDict']),
    (['--config.space.channels=(8,"a")'], ['space.channels', "'a'", 'int']),
    (['--config.seed=-1'], ['seed is -1', '0 to 2147483647']),
    (['--config.search.gates=hard'], ["search.gates is 'hard'", "'sampled'"]),
    (['--config.dataset.augment=blur'], ['dataset.augment', 'blur', 'crop']),
    (['--workdir='], ['--workdir is missing']),
    (['--workdir'], ['workdir']),
    (['--stage=serch'], ["--stage is 'serch'", 'search, train, evaluate']),
    (['--nonsense=3'], ["'nonsense'"]),
    (['nonsense'], ["'nonsense'"]),
    (['--config=nowhere.py'], ['nowhere.py', 'get_config']),
    (['--config=LICENSE'], ['--config', 'LICENSE, line 2']),
    *(
      ([f'--config=BROKEN/{name}.py'], words)
      for name, words in (
        ('syntax', ['--config', 'syntax.py, line 1']),
        ('no_function', ['--config', 'get_config']),
        ('not_a_config', ['--config', 'get_config() returns a config']),
        ('import', ['--config', 'no_such_module']),
        ('raises', ['--config', 'two lines']),
        ('typo', ['search.targt_ms', 'did you mean search.target_ms?']),
      )
    ),
  ],
)
def test_wrong_command_lines_are_refused_in_one_line(
  arguments, words, light_workdir, tmp_path, command_line
):
  """What absl, ml_collections, a config file or a check refuses: exit code 2,
  the field and what is allowed, and nobody's files are touched."""
  for name, text in BROKEN_CONFIGS.items():
    (tmp_path / f'{name}.py').write_text(text)
  before = tiny_run.snapshot(light_workdir)
  done = command_line(
    '--stage=search',
    *([] if '--config=' in arguments[0] else ['--config=configs/digits.py']),
    f'--workdir={light_workdir}',
    *(a.replace('BROKEN', str(tmp_path)) for a in arguments),
  )
  line = one_line(done.stderr)
  assert done.returncode == 2, line
  assert done.stdout == ''
  for word in words:
    assert word in line
  assert tiny_run.snapshot(light_workdir) == before


def test_a_missing_config_flag_is_refused():
  """Through main.py itself."""
  done = tiny_run.run([sys.executable, 'main.py', '--workdir=nowhere'])
  assert done.returncode == 2
  assert '--config is missing' in one_line(done.stderr)
  assert not (tiny_run.ROOT / 'nowhere').exists()


def test_overrides_reach_the_stage_and_nothing_heavy_is_imported(tmp_path):
  """The message says that the override was read (an int for a float that is
  unset, too), with both limits. TensorFlow, which takes seconds to import, is
  not needed to say so."""
  done = run_python(
    'import sys; from spnas_jax import cli\n'
    'try: cli.main()\n'
    'finally: print("tensorflow" in sys.modules)',
    *tiny_run.command('search', tmp_path, '--config.search.target_ms=80')[2:],
  )
  assert done.returncode == 2
  line = one_line(done.stderr)
  assert 'search.target_ms is 80, allowed: 0.' in line
  assert done.stdout.split() == ['False']


def test_none_on_the_command_line_unsets_what_a_config_file_set(
  tmp_path, command_line
):
  """imagenet_search.py has target_ms=80, its ':official' variant a fixed
  lambda: neither could be taken back. The last word on a key holds; a key that
  may not be unset is refused by name."""

  def parsed(*arguments, variant=''):
    done = command_line(
      f'--config=configs/imagenet_search.py{variant}',
      *arguments,
      code=(
        'cli.guarded(cli.parse_flags, sys.argv)\n'
        'c = cli._CONFIG.value.search\n'
        'print(c.target_ms, c.lambda_)'
      ),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

  target, fixed = '--config.search.target_ms', '--config.search.lambda_'
  assert parsed() == '80.0 None'
  assert parsed(f'{target}=None') == 'None None'
  assert parsed(target, 'None') == 'None None'
  assert parsed(f'{target}=None', f'{target}=81') == '81.0 None'
  assert parsed(f'{target}=81', f'{target}=None') == 'None None'
  assert parsed(f'{fixed}=None', variant=':official') == 'None None'
  with_none = '--config.search.learning_rate=None'
  done = command_line(*tiny_run.command('search', tmp_path, with_none)[2:])
  assert done.returncode == 2
  assert 'search.learning_rate is None' in one_line(done.stderr)


def test_help_is_readable_and_needs_no_jax():
  """Names every flag and stage, and an example that can be copied."""
  done = run_python(
    'import runpy, sys\n'
    'try: runpy.run_path("main.py", run_name="__main__")\n'
    'finally: print("jax" in sys.modules)',
    '--help',
  )
  assert 'Traceback' not in done.stdout + done.stderr
  for word in ('--config', '--stage', '--workdir', 'configs/digits.py'):
    assert word in done.stdout
  for stage in ('all', *stage_runs.STAGES):
    assert stage in done.stdout
  assert done.stdout.split()[-1] == 'False'


@pytest.mark.skipif(
  platform.libc_ver()[0] != 'glibc', reason='a switch of glibc'
)
def test_a_process_starts_again_with_huge_pages_once(monkeypatch):
  """With the same command line, and only where nobody chose otherwise."""
  started = []
  monkeypatch.setattr(cli.os, 'execv', lambda *args: started.append(args))
  monkeypatch.setattr(sys, 'orig_argv', ['python', 'main.py', '--stage=zoo'])
  monkeypatch.setenv('GLIBC_TUNABLES', '')  # So that it is put back.
  monkeypatch.delenv('GLIBC_TUNABLES')
  cli.use_huge_pages()
  assert os.environ['GLIBC_TUNABLES'] == 'glibc.malloc.hugetlb=1'
  cli.use_huge_pages()
  assert started == [
    (sys.executable, [sys.executable, 'main.py', '--stage=zoo'])
  ]


def test_ctrl_c_ends_in_one_line(capsys):
  def interrupted():
    raise KeyboardInterrupt

  with pytest.raises(SystemExit) as stop:
    cli.guarded(interrupted)
  assert stop.value.code == 130
  error = capsys.readouterr().err
  assert error == 'stopped; the same command continues from here\n'


def test_a_mistake_of_the_program_exits_1_with_its_traceback(command_line):
  done = command_line(
    '--config=configs/digits.py',
    code=(
      'def run(argv): raise RuntimeError("a mistake")\n'
      'cli.run = run\ncli.main()'
    ),
  )
  assert done.returncode == 1
  assert 'Traceback' in done.stderr and 'a mistake' in done.stderr
