"""The command line: what is refused, how, and what is left untouched.

Wrong input ends with exit code 2 and one line on stderr that names the field;
a run that diverges with 1 and one line; a mistake of the program with 1 and its
traceback. None of them changes anything in the workdir.
"""

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny
import tiny_run

from spnas_jax import cli, stage_runs, startup
from spnas_jax.config import defaults as config_lib
from spnas_jax.config import rules as config_rules
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.data import datasets
from spnas_jax.search.search_setup import create_state, make_search
from spnas_jax.stages import evaluate, search, train
from spnas_jax.training.checkpoint import Checkpoints

NOBODY = 65534
# Smallest network of the tiny space.
ARCHITECTURE = (
  'stem_k3_s2_i1_c8 ir_r1_k3_s2_e2_c8 ir_r1_k3_s1_e2_c12 head_c16 fc_c10'
)


def run_python(code: str, *arguments: str):
  return tiny_run.run([sys.executable, '-c', code, *arguments])


def refused(call, capsys) -> str:
  """The line with which a call is refused, exit code 2."""
  capsys.readouterr()
  with pytest.raises(SystemExit) as stop:
    cli.guarded(call)
  assert stop.value.code == 2
  return one_line(capsys.readouterr().err)


def one_line(err: str) -> str:
  lines = err.splitlines()
  assert len(lines) == 1 and lines[0].startswith('error: '), err
  return lines[0]


@pytest.fixture
def workdir(tmp_path):
  """A copy of a workdir in which search, train and evaluate are finished."""
  folder = tmp_path / 'run'
  shutil.copytree(tiny_run.finished(), folder)
  return folder


@pytest.fixture
def light_workdir(tmp_path):
  """A folder with somebody's files; no stage has to have run for it."""
  (tmp_path / 'run' / 'search').mkdir(parents=True)
  for name in ('results.json', 'architecture.json', 'search/inputs.json'):
    (tmp_path / 'run' / name).write_text('{"precious": 1}')
  return tmp_path / 'run'


# --- flags and config file ----------------------------------------------------

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
  arguments, words, light_workdir, tmp_path
):
  """What absl, ml_collections, a config file or a check refuses: exit code 2,
  the field and what is allowed, and nobody's files are touched."""
  for name, text in BROKEN_CONFIGS.items():
    (tmp_path / f'{name}.py').write_text(text)
  before = tiny_run.snapshot(light_workdir)
  done = tiny_run.run(
    [
      sys.executable,
      'main.py',
      '--stage=search',
      *([] if '--config=' in arguments[0] else ['--config=configs/digits.py']),
      f'--workdir={light_workdir}',
      *(a.replace('BROKEN', str(tmp_path)) for a in arguments),
    ]
  )
  line = one_line(done.stderr)
  assert done.returncode == 2, line
  assert done.stdout == ''
  for word in words:
    assert word in line
  assert tiny_run.snapshot(light_workdir) == before


def test_a_missing_config_flag_is_refused():
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


def test_a_workdir_in_use_is_refused(tmp_path):
  """Two runs would write over each other's files. The lock goes with its
  process and leaves nothing behind."""
  before = tiny_run.snapshot(tmp_path)
  command = tiny_run.command('report', tmp_path)
  # Held by a child, so that the lock ends for certain.
  with subprocess.Popen(
    [
      *(sys.executable, '-c'),
      'import sys; from spnas_jax.config.workdir import Workdir\n'
      'w = Workdir(sys.argv[1]); w.lock(); print("locked", flush=True)\n'
      'sys.stdin.read()',
      str(tmp_path),
    ],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    cwd=tiny_run.ROOT,
    text=True,
  ) as holder:
    assert holder.stdout.readline() == 'locked\n'
    done = tiny_run.run(command)
    assert done.returncode == 2
    assert 'is in use by another run' in one_line(done.stderr)
    holder.kill()
  Workdir(tmp_path).lock()
  assert tiny_run.snapshot(tmp_path) == before


def test_ctrl_c_ends_in_one_line(capsys):
  def interrupted():
    raise KeyboardInterrupt

  with pytest.raises(SystemExit) as stop:
    cli.guarded(interrupted)
  assert stop.value.code == 130
  error = capsys.readouterr().err
  assert error == 'stopped; the same command goes on from here\n'


def test_a_mistake_of_the_program_exits_1_with_its_traceback():
  done = run_python(
    'from spnas_jax import cli\n'
    'def run(argv): raise RuntimeError("a mistake")\n'
    'cli.run = run\n'
    'cli.main()',
    '--config=configs/digits.py',
  )
  assert done.returncode == 1
  assert 'Traceback' in done.stderr and 'a mistake' in done.stderr


# --- dispatch -----------------------------------------------------------------


def test_every_stage_has_a_module_and_all_runs_them_in_order(
  monkeypatch, tmp_path
):
  """A name that is listed but cannot be run would only show when it is used."""
  for module in stage_runs.STAGES:
    assert importlib.util.find_spec(f'spnas_jax.stages.{module}'), module
  ran = []

  class Stage:
    def __init__(self, name):
      self.name = name

    def run(self, config, workdir):
      ran.append((self.name, config, workdir))

  monkeypatch.setattr(stage_runs.importlib, 'import_module', Stage)
  monkeypatch.setattr(
    startup, 'start', lambda config, path: (config, Workdir(tmp_path / path))
  )
  argv = ['main.py', '--config=tests/tiny_run.py', '--workdir=somewhere']
  monkeypatch.setattr(sys, 'argv', argv)
  monkeypatch.chdir(tiny_run.ROOT)
  cli.run(cli.parse_flags(argv))
  stages = ['search', 'train', 'evaluate', 'export', 'profile', 'report']
  assert [name for name, _, _ in ran] == [
    f'spnas_jax.stages.{s}' for s in stages
  ]
  assert {workdir.path.name for _, _, workdir in ran} == {'somewhere'}


# --- the configuration --------------------------------------------------------


@pytest.mark.parametrize('field', sorted(config_rules.RANGES))
def test_every_range_is_enforced(field):
  """Just inside both ends is accepted, just outside is refused by name."""
  low, high = config_rules.RANGES[field]
  section, _, key = field.rpartition('.')

  def check(value):
    config = tiny_run.get_config()
    target = config_rules.get(config, section) if section else config
    target[key] = value
    config_rules.check(config)

  kind = config_lib.default_config()
  kind = (config_rules.get(kind, section) if section else kind).get_type(key)
  step = 1 if kind is int else 1e-3
  wrong = [kind(low - step)]
  if np.isfinite(high):
    wrong.append(kind(high + step))
  if kind is float:
    wrong += [float('nan'), float('inf')]
  for value in wrong:
    with pytest.raises(UserError, match=rf'^{field} is .*allowed: '):
      check(value)
  # Must not be below the warm-up, or the temperature at the end, either.
  if field not in ('search.epochs', 'search.temperature_start'):
    check(kind(low))


@pytest.mark.parametrize('field', sorted(config_rules.CHOICES))
def test_every_choice_is_enforced(field):
  section, _, key = field.rpartition('.')
  for value in (*config_rules.CHOICES[field], 'something else'):
    config = tiny_run.get_config()
    (config_rules.get(config, section) if section else config)[key] = value
    if value == 'something else':
      with pytest.raises(UserError, match=rf'^{field} is .*allowed: '):
        config_rules.check(config)
    else:
      config_rules.check(config)


@pytest.mark.parametrize(
  ('field', 'value', 'words'),
  [
    ('search.temperature_fall', (0.9, 0.2), 'ascending'),
    ('search.temperature_fall', (0.1, 0.2, 0.3), 'two'),
    ('space.layers', (0, 2), 'above 0'),
    ('space.channels', (-8, 12), 'above 0'),
    ('space.strides', (), 'one or more'),
    ('ablate.parts', ('everything',), "'kernels'"),
    ('compare.methods', ('magic',), "'single_path'"),
    ('compare_zoo.networks', ('mobilnet',), 'mobilenet_v2'),
    ('compare_zoo.widths', (0.0,), '0.05 to 20'),
    ('search.warmup_epochs', 5.0, 'search.epochs, 4.0'),
    ('dataset.holdout', 1.0, '0 to below 1'),
    ('dataset.image_size', 0, '1 or more'),
    ('dataset.train_examples', -1, '0 or more'),
    ('dataset.interpolation', 'cubic', 'bicubic'),
  ],
)
def test_other_rules_are_enforced(field, value, words):
  config = tiny_run.get_config()
  section, _, key = field.rpartition('.')
  config_rules.get(config, section)[key] = value
  with pytest.raises(UserError, match=words) as e:
    config_rules.check(config)
    datasets.check(config.dataset)
  assert field in str(e.value)


@pytest.mark.parametrize(
  ('field', 'value', 'words'),
  [
    ('train.epoch', 3.0, 'did you mean train.epochs?'),
    ('search', 3, 'type config section'),
    ('search.epochs', '3', 'type float'),
    ('search.target_ms', True, 'type float'),
    ('seed', 1.0, 'type int'),
    ('seed', None, 'type int'),
    ('device', 1, 'type str'),
    ('space.layers', 3, 'type tuple'),
    ('space.layers', (3, 3.5), 'an element of space.layers is 3.5'),
    ('space.kernels', ((3, 5), (3, '7')), 'an element of space.kernels'),
  ],
)
def test_a_config_file_cannot_set_what_is_not_there(field, value, words):
  """A config file may set any attribute; a typo must not pass silently."""
  config = config_lib.default_config().copy_and_resolve_references()
  section, _, key = field.rpartition('.')
  target = config_rules.get(config, section) if section else config
  with target.ignore_type():
    target[key] = value
  with pytest.raises(UserError) as e:
    startup.check_keys(config, config_lib.default_config())
  assert words in str(e.value) and field in str(e.value)


def test_a_config_file_must_have_every_key():
  config = config_lib.default_config()
  startup.check_keys(config, config_lib.default_config())
  del config.train['epochs']
  with pytest.raises(UserError, match=r'train\.epochs is missing'):
    startup.check_keys(config, config_lib.default_config())


# --- inputs of a stage --------------------------------------------------------


def corrupted_table(**fields) -> str:
  path = tiny_run.scratch() / 'corrupted.json'
  table = json.loads(tiny_run.table_path().read_text())
  path.write_text(json.dumps({**table, **fields}))
  return str(path)


def garbage(name: str) -> str:
  path = tiny_run.scratch() / name
  path.write_text('{"half a')
  return str(path)


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'search__target_ms': 0.1}, ['target_ms is 0.1', ' to ', 'ms, the fast']),
    ({'search__target_ms': 99.0}, ['target_ms is 99', ' to ', 'ms, the fast']),
    ({'search__target_ms': float('nan')}, ['search.target_ms is nan']),
    (
      {'search__target_ms': 2.0, 'search__lambda_': 1.0},
      ['search.lambda_ is 1', 'search.target_ms is 2', 'one of them'],
    ),
    ({'dataset__name': 'cifar999'}, ['dataset.name', 'cifar999', 'digits']),
    ({'search__batch_size': 30}, ['search.batch_size is 30', '4 devices']),
    ({'search__batch_size': 512}, ['search.batch_size is 512', '128']),
    ({'latency_table': ''}, ["latency_table is ''", 'build_table']),
    ({'latency_table': 'no.json'}, ['latency_table', 'no.json', 'build_table']),
    ({'latency_table': garbage}, ['latency_table', 'half', 'JSON']),
    (
      {'latency_table': lambda _: corrupted_table(image_size=14)},
      ['14 px', 'dataset.image_size is 12'],
    ),
    (
      {'latency_table': lambda _: corrupted_table(entries={})},
      ['latency_table', 'has no entry', 'stem_k3'],
    ),
    (
      {
        'latency_table': lambda _: corrupted_table(
          entries={'stem': {'ms': float('nan')}}
        )
      },
      ['latency_table', 'entries.stem.ms is nan'],
    ),
    (
      {'latency_table': lambda _: corrupted_table(schema=99)},
      ['latency_table', 'schema'],
    ),
    ({'space__layers': (2,)}, ['space.layers', '2 entries']),
    ({'space__kernels': (3, 4)}, ['kernel', '4']),
    ({'space__kernels': (5, 3)}, ['kernels', '(5, 3)', 'ascending']),
    ({'space__first': 'nonsense_x9'}, ['space.first', 'nonsense_x9']),
  ],
)
def test_a_search_refuses_wrong_input(changes, words, light_workdir, capsys):
  """Before anything is compiled or written."""
  (light_workdir / 'results.json').write_text('{"train": {"precious": 1}}')
  (light_workdir / 'search' / 'inputs.json').unlink()
  before = tiny_run.snapshot(light_workdir)
  config = tiny_run.config()
  for name, value in changes.items():
    section, _, key = name.rpartition('__')
    target = config[section] if section else config
    target[key] = value('half.json') if callable(value) else value
  line = refused(lambda: search.run(config, Workdir(light_workdir)), capsys)
  for word in words:
    assert word in line
  assert tiny_run.snapshot(light_workdir) == before


@pytest.mark.parametrize(
  ('stage', 'changes', 'words'),
  [
    (search, {'search__epochs': 5.0}, ['finished search', '4.0 there, 5.0']),
    (train, {'seed': 7}, ['finished train', 'seed: 0 there, 7 here']),
    (
      evaluate,
      {'dataset__test_examples': 40},
      ['finished evaluate', 'test_examples: 50 there, 40 here'],
    ),
  ],
)
def test_finished_results_are_never_overwritten(
  stage, changes, words, workdir, capsys
):
  """Another configuration in a finished workdir is refused, and named."""
  before = tiny_run.snapshot(workdir)
  config = tiny_run.config()
  for name, value in changes.items():
    *sections, key = name.split('__')
    target = config[sections[0]] if sections else config
    target[key] = value('arch.json') if callable(value) else value
  line = refused(lambda: stage.run(config, Workdir(workdir)), capsys)
  for word in words:
    assert word in line
  assert tiny_run.snapshot(workdir) == before


@pytest.mark.parametrize('stage', ['search', 'train'])
def test_an_unfinished_stage_is_not_continued_with_another_config(
  stage, workdir, capsys
):
  """Its checkpoints belong to the configuration it was started with."""
  results = tiny_run.results(workdir)
  del results[stage]
  (workdir / 'results.json').write_text(json.dumps(results))
  before = tiny_run.snapshot(workdir)
  config = tiny_run.config(seed=7)
  run = {'search': search.run, 'train': train.run}[stage]
  line = refused(lambda: run(config, Workdir(workdir)), capsys)
  assert f'unfinished {stage}' in line and 'seed: 0 there, 7 here' in line
  assert tiny_run.snapshot(workdir) == before


@pytest.mark.parametrize(
  ('stage', 'changes', 'words'),
  [
    (train, {}, ['architecture', 'does not exist', '--stage=search']),
    (evaluate, {}, ['no trained network', '--stage=train']),
    (
      train,
      {'architecture': 'mobilnet'},
      ["architecture is 'mobilnet'", 'mobilenet_v2', 'block string'],
    ),
    (train, {'architecture': 'stem_c8 ir_k3'}, ['ir_k3']),
    (train, {'architecture': garbage}, ['architecture', 'arch.json']),
    (train, {'architecture': '.'}, ["architecture '.'", 'directory']),
    (
      train,
      {'architecture': ARCHITECTURE, 'train__batch_size': 30},
      ['train.batch_size is 30', '4 devices'],
    ),
    (
      train,
      {'architecture': ARCHITECTURE, 'train__batch_size': 512},
      ['train.batch_size is 512', '128'],
    ),
    (
      train,
      {'architecture': ARCHITECTURE, 'train__init': 'inherit'},
      ['no finished search', '--stage=search'],
    ),
    (
      train,
      {
        'architecture': ARCHITECTURE.replace('i1', 'i3'),
        'dataset__name': 'cifar10',
        'dataset__data_dir': '/nowhere',
      },
      ['dataset.name', 'cifar10', "dataset.data_dir='/nowhere'"],
    ),
  ],
)
def test_a_training_refuses_wrong_input(
  stage, changes, words, tmp_path, capsys
):
  """And leaves nothing: what is left would bind the next try to the mistake."""
  config = tiny_run.config()
  for name, value in changes.items():
    section, _, key = name.rpartition('__')
    target = config[section] if section else config
    target[key] = value('arch.json') if callable(value) else value
  line = refused(lambda: stage.run(config, Workdir(tmp_path)), capsys)
  for word in words:
    assert word in line
  assert not list(tmp_path.iterdir())


# --- the workdir --------------------------------------------------------------


@pytest.mark.parametrize('content', ['{"half a', '[1, 2]', '7', ''])
@pytest.mark.parametrize('name', ['results.json', 'search/inputs.json'])
def test_a_damaged_file_in_the_workdir_is_named(
  name, content, light_workdir, capsys
):
  """And kept: it may be all that somebody has of a long run."""
  (light_workdir / 'results.json').write_text('{}')
  (light_workdir / name).write_text(content)
  before = tiny_run.snapshot(light_workdir)
  line = refused(
    lambda: search.run(tiny_run.config(), Workdir(light_workdir)), capsys
  )
  assert str(light_workdir / name) in line and 'cannot be read' in line
  assert tiny_run.snapshot(light_workdir) == before


@pytest.mark.parametrize('kind', ['file', 'below a file', 'broken link'])
def test_a_workdir_that_cannot_be_a_folder_is_refused(kind, tmp_path, capsys):
  path = tmp_path / 'run'
  if kind == 'broken link':
    path.symlink_to(tmp_path / 'gone')
  else:
    path.write_text('precious')
    if kind == 'below a file':
      path = path / 'deeper'
  before = tiny_run.snapshot(tmp_path)
  line = refused(lambda: Workdir(path), capsys)
  assert '--workdir is' in line and str(path) in line
  assert tiny_run.snapshot(tmp_path) == before


@pytest.mark.parametrize('mode', [0o000, 0o400, 0o500, 0o600])
def test_a_workdir_without_permission_is_refused(mode, tmp_path, capsys):
  """Permissions do not bind root, so a test run by root gives its rights up
  for the call."""
  folder = tmp_path / 'run'
  folder.mkdir()
  (folder / 'results.json').write_text('{"precious": 1}')
  root = os.geteuid() == 0
  if root:
    for parent in (tmp_path, *tmp_path.parents):
      if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
        parent.chmod(parent.stat().st_mode | 0o011)
    os.chown(folder, NOBODY, NOBODY)
  folder.chmod(mode)
  try:
    if root:
      os.seteuid(NOBODY)
    line = refused(lambda: Workdir(folder), capsys)
  finally:
    if root:
      os.seteuid(0)
    folder.chmod(0o700)
  assert '--workdir is' in line and 'read and written' in line
  assert (folder / 'results.json').read_text() == '{"precious": 1}'


def test_a_damaged_checkpoint_is_named(workdir, capsys):
  """With what to do: without its folder the run goes on from the one before."""
  newest = workdir / 'train' / 'checkpoints' / str(tiny_run.STEPS)
  for path in newest.rglob('*'):
    if path.is_file() and path.parent.name == 'd':
      path.write_bytes(b'')
  results = tiny_run.results(workdir)
  del results['evaluate']
  (workdir / 'results.json').write_text(json.dumps(results))
  line = refused(
    lambda: evaluate.run(tiny_run.config(), Workdir(workdir)), capsys
  )
  assert str(newest) in line and 'damaged' in line


# --- divergence ---------------------------------------------------------------


def diverge(config, folder, capsys) -> str:
  """The line with which a search stops, exit code 1."""
  with pytest.raises(SystemExit) as stop:
    cli.guarded(search.run, config, Workdir(folder))
  assert stop.value.code == 1
  assert not (folder / 'results.json').exists()
  assert not (folder / 'architecture.json').exists()
  return capsys.readouterr().err.splitlines()[-1]


def test_divergence_stops_the_run_and_leaves_good_checkpoints(tmp_path, capsys):
  """One line with the step and the last good checkpoint, whose every number is
  finite: a state that has diverged is never saved over a good one."""
  config = tiny_run.config(
    search__learning_rate=1e24,  # Squares of weights overflow float32.
    search__lr_warmup_epochs=1.0,  # The first step still has rate 0.
    search__log_every_steps=1,
    search__checkpoint_epochs=0.25,
  )
  line = diverge(config, tmp_path, capsys)
  assert line.startswith('error: search: the loss is ')
  assert 'nan at step' in line or 'inf at step' in line
  assert 'learning_rate' in line
  state = restored(config, tmp_path)
  assert int(state.step) > 0
  assert f'the last is of step {int(state.step)})' in line
  for leaf in jax.tree.leaves(state):
    assert np.isfinite(np.asarray(leaf)).all()


def test_weights_that_diverge_behind_a_good_loss_are_not_saved(
  tmp_path, capsys
):
  """A step's loss is that of the weights before it, and nothing is logged
  here: the checkpoint itself must look at what it saves."""
  config = tiny_run.config(
    search__learning_rate=1e41,
    search__log_every_steps=100,
    search__checkpoint_epochs=0.25,
  )
  line = diverge(config, tmp_path, capsys)
  assert line.startswith('error: search: the largest weight is ')
  assert 'at step 1' in line and 'there is none yet' in line


def restored(config, folder):
  space = config_lib.make_space(config)
  table = tiny.table(space, config.dataset.image_size)
  state = create_state(make_search(config, space, table, 2.0), config)
  path = Workdir(folder) / 'search' / 'checkpoints'
  with Checkpoints(path) as checkpoints:
    return checkpoints.restore(state)


# --- refused before anything is trained ---------------------------------------


NO_VALIDATION = {'evaluate__split': 'validation'}
NO_TABLE = {'latency_table': 'no.json'}


@pytest.mark.parametrize(
  ('stage', 'changes', 'words'),
  [
    *(
      (stage, *case)
      for stage in ('all', 'search', 'random_search', 'ablate')
      for case in (
        (NO_VALIDATION, ['evaluate.split', 'dataset.holdout']),
        (NO_TABLE, ['latency_table', 'no.json']),
      )
    ),
    ('compare_zoo', NO_VALIDATION, ['evaluate.split', 'dataset.holdout']),
    ('all', {'train__batch_size': 512}, ['train.batch_size is 512', '128']),
    ('all', {'train__batch_size': 30}, ['train.batch_size is 30', '4 devices']),
    ('all', {'search__batch_size': 512}, ['search.batch_size is 512', '128']),
    ('all', {'search__warmup_epochs': 4.0}, ['warmup_epochs', 'all 16 steps']),
    # Rounds to no step at all, which only the data tell.
    ('all', {'search__warmup_epochs': 3.9}, ['warmup_epochs', 'all 16 steps']),
    ('all', {'device': 'adb'}, ['profile.benchmark_model']),
    (
      'all',
      {'train__init': 'no.npz', 'architecture': ARCHITECTURE},
      ['no.npz'],
    ),
  ],
)
def test_what_a_later_stage_refuses_is_said_first(
  stage, changes, words, tmp_path, capsys
):
  """`all` must not search for hours and then refuse to evaluate."""
  config = tiny_run.config(**changes)
  chosen = stage_runs.ALL if stage == 'all' else (stage,)
  line = refused(
    lambda: stage_runs.run_stages(chosen, config, Workdir(tmp_path)), capsys
  )
  for word in words:
    assert word in line
  assert not list(tmp_path.iterdir()), 'a corrected run starts afresh'


def test_a_finished_stage_needs_no_data(workdir, monkeypatch):
  """Years later, on a machine without the images, it still says so."""
  monkeypatch.setattr('spnas_jax.training.run_setup.check_data', _never)
  for stage in (search, train):
    stage.run(tiny_run.config(), Workdir(workdir))


def _never(*_):
  raise AssertionError('called')


# --- unset keys ---------------------------------------------------------------


def test_none_on_the_command_line_unsets_what_a_config_file_set(tmp_path):
  """imagenet_search.py has target_ms=80, its ':official' variant a fixed
  lambda: neither could be taken back. The last word on a key holds; a key that
  may not be unset is refused by name."""

  def parsed(*arguments, variant=''):
    code = (
      'import sys; from spnas_jax import cli\n'
      'cli.guarded(cli.parse_flags, sys.argv)\n'
      'c = cli._CONFIG.value.search\n'
      'print(c.target_ms, c.lambda_)'
    )
    config = f'--config=configs/imagenet_search.py{variant}'
    done = run_python(code, config, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

  target, fixed = '--config.search.target_ms', '--config.search.lambda_'
  assert parsed() == '80.0 None'
  assert parsed(f'{target}=None') == 'None None'
  assert parsed(target, 'None') == 'None None'
  assert parsed(f'{target}=None', f'{target}=81') == '81.0 None'
  assert parsed(f'{target}=81', f'{target}=None') == 'None None'
  assert parsed(f'{fixed}=None', variant=':official') == 'None None'
  with_none = '--config.search.epochs=None'
  done = tiny_run.run(tiny_run.command('search', tmp_path, with_none))
  assert done.returncode == 2
  assert 'search.epochs is None' in one_line(done.stderr)
