"""Kill it anywhere: it resumes to the same bits; nothing is half-written."""

import contextlib
import json
import random
import shutil
import signal
import threading
import time

import jax
import pytest
import tiny_run

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.stages import evaluate, search, train
from spnas_jax.training.trained import load_trained

# A checkpoint behind every step: many places to die.
DENSE = (
  '--config.search.checkpoint_epochs=0.25',
  '--config.train.checkpoint_epochs=0.25',
)
PARTIAL = '*.orbax-checkpoint-tmp*'


def kill(stage: str, workdir, after: str, seconds: float = 0.0) -> None:
  """Starts a stage and kills it.

  Args:
    stage: which one.
    workdir: where it runs.
    after: 'begun' or 'written', what it has done with a checkpoint by then.
    seconds: how long after that.
  """
  folder = workdir / stage / 'checkpoints'
  before = entries(folder)
  process = tiny_run.start(tiny_run.command(stage, workdir, *DENSE))
  try:
    while process.poll() is None:
      new = {name for name, _ in entries(folder) - before}
      if any(name.isdigit() or after == 'begun' for name in new):
        break
      time.sleep(0.001)
    time.sleep(seconds)
  finally:
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
  assert process.returncode == -signal.SIGKILL, err[-2000:]
  assert stage not in Workdir(workdir).results()


def entries(folder) -> set[tuple[str, int]]:
  """Names in a folder, with a time that tells new from old."""
  found = set()
  for path in folder.glob('*'):
    with contextlib.suppress(FileNotFoundError):
      found.add((path.name, path.stat().st_ctime_ns))
  return found


def steps_of(folder) -> set[int]:
  """Steps of the whole checkpoints in a folder."""
  return {int(p.name) for p in folder.glob('*') if p.name.isdigit()}


def test_a_killed_search_ends_in_the_same_bits(tmp_path, capsys):
  """Killed while a checkpoint is written, and again at a random moment.

  What it finds and reports must equal the uninterrupted search, to the bit: the
  hash of every parameter is among it.
  """
  folder = tmp_path / 'search' / 'checkpoints'
  # Writing takes some hundred times as long as noticing it does.
  for _ in range(3):
    kill('search', tmp_path, 'begun')
    if list(folder.glob(PARTIAL)):
      break
  assert list(folder.glob(PARTIAL))
  kill('search', tmp_path, 'written', random.uniform(0.0, 0.3))
  before = steps_of(folder)
  assert before
  capsys.readouterr()
  search.run(tiny_run.config(), Workdir(tmp_path))
  assert f'resuming at step {max(before)} of 16' in capsys.readouterr().out
  assert not list(folder.glob(PARTIAL))
  whole = tiny_run.finished()
  resumed, expected = (tiny_run.results(w)['search'] for w in (tmp_path, whole))
  clocks = {'seconds', 'wall_seconds'}
  for key in set(expected) - clocks:
    assert resumed[key] == expected[key], key
  for name in ('architecture.json', 'search/found.npy', 'search/supernet.npz'):
    assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_killed_training_ends_in_the_same_bits(tmp_path):
  """Every weight and statistic of the averaged network, and its score."""
  whole = tiny_run.finished()
  shutil.copy(whole / 'architecture.json', tmp_path)
  kill('train', tmp_path, 'written', random.uniform(0.0, 0.3))
  assert steps_of(tmp_path / 'train' / 'checkpoints')
  config = tiny_run.config()
  for stage in (train, evaluate):
    stage.run(config, Workdir(tmp_path))
  _, resumed = load_trained(config, Workdir(tmp_path))
  _, expected = load_trained(config, Workdir(whole))
  assert_same_bits(resumed, expected)
  scores, expected = (
    tiny_run.results(w)['evaluate'] for w in (tmp_path, whole)
  )
  assert {**scores, 'wall_seconds': 0} == {**expected, 'wall_seconds': 0}


def assert_same_bits(a, b) -> None:
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.tobytes() == y.tobytes()


# --- what a dead process leaves -----------------------------------------------


@pytest.fixture
def unfinished(tmp_path):
  """A training that died between its last checkpoint and its result."""
  folder = tmp_path / 'run'
  shutil.copytree(tiny_run.finished(), folder)
  Workdir(folder).write('results.json', '{}')
  return folder


def test_half_a_checkpoint_is_ignored(unfinished):
  """What Orbax leaves where it was killed while writing is removed, and the run
  goes on from the checkpoint before."""
  checkpoints = unfinished / 'train' / 'checkpoints'
  last = checkpoints / str(tiny_run.STEPS)
  partial = last.with_name(f'{last.name}.orbax-checkpoint-tmp')
  last.rename(partial)
  for path in [p for p in partial.rglob('*') if p.is_file()][::2]:
    path.unlink()
  config = tiny_run.config()
  train.run(config, Workdir(unfinished))
  assert not partial.exists()
  _, resumed = load_trained(config, Workdir(unfinished))
  _, expected = load_trained(config, Workdir(tiny_run.finished()))
  assert_same_bits(resumed, expected)


def test_a_damaged_checkpoint_stops_with_advice_that_works(unfinished):
  """Bytes that a broken disk lost cannot be ignored: the user decides."""
  last = unfinished / 'train' / 'checkpoints' / str(tiny_run.STEPS)
  for path in last.rglob('d/*'):
    path.write_bytes(b'')
  config = tiny_run.config()
  advice = '--config.train.skip_damaged_checkpoint=True'
  with pytest.raises(UserError, match=advice) as e:
    train.run(config, Workdir(unfinished))
  assert str(last) in str(e.value) and last.exists()
  config.train.skip_damaged_checkpoint = True
  assert train.run(config, Workdir(unfinished))['steps'] == tiny_run.STEPS
  # The damaged one is kept, and the end has the bits of an undisturbed run.
  (aside,) = (unfinished / 'train' / 'checkpoints_damaged').iterdir()
  assert aside.name.startswith(f'{tiny_run.STEPS}-')
  _, resumed = load_trained(config, Workdir(unfinished))
  _, expected = load_trained(tiny_run.config(), Workdir(tiny_run.finished()))
  assert_same_bits(resumed, expected)


def test_without_a_sound_checkpoint_nothing_is_moved(unfinished):
  """It may be the configuration that fits none of them."""
  checkpoints = unfinished / 'train' / 'checkpoints'
  for path in checkpoints.rglob('d/*'):
    path.write_bytes(b'')
  before = sorted(path.name for path in checkpoints.iterdir())
  config = tiny_run.config(train__skip_damaged_checkpoint=True)
  with pytest.raises(UserError, match='does not fit this configuration'):
    train.run(config, Workdir(unfinished))
  assert sorted(path.name for path in checkpoints.iterdir()) == before
  assert not (unfinished / 'train' / 'checkpoints_damaged').exists()


def test_a_stage_that_died_before_its_result_only_writes_it(unfinished):
  """All steps were taken: none is taken again."""
  before = tiny_run.snapshot(unfinished / 'search' / 'checkpoints')
  result = search.run(tiny_run.config(), Workdir(unfinished))
  expected = tiny_run.results(tiny_run.finished())['search']
  assert result['params_sha256'] == expected['params_sha256']
  assert result['final_cross_entropy'] == expected['final_cross_entropy']
  assert tiny_run.snapshot(unfinished / 'search' / 'checkpoints') == before


@pytest.mark.parametrize('stage', [search, train, evaluate])
def test_a_finished_stage_says_so_and_does_nothing(stage, tmp_path, capsys):
  """No file changes, none is added, and the same result comes back."""
  folder = tmp_path / 'run'
  shutil.copytree(tiny_run.finished(), folder)
  before = tiny_run.snapshot(folder)
  name = stage.__name__.rpartition('.')[2]
  capsys.readouterr()
  result = stage.run(tiny_run.config(), Workdir(folder))
  assert capsys.readouterr().out == f'{name}: already complete in {folder}\n'
  assert result == tiny_run.results(folder)[name]
  assert tiny_run.snapshot(folder) == before


# --- results.json -------------------------------------------------------------


def test_a_reader_never_sees_half_of_results_json(tmp_path):
  """It is replaced, never written in place; nothing is left beside it."""
  workdir = Workdir(tmp_path)
  workdir.record('stage', {'rows': []})
  stop = threading.Event()

  def write():
    for count in range(300):
      workdir.record('stage', {'rows': list(range(20 * count))})
    stop.set()

  writer = threading.Thread(target=write)
  writer.start()
  lengths = set()
  while not stop.is_set():
    rows = json.loads((tmp_path / 'results.json').read_text())['stage']['rows']
    assert rows == list(range(len(rows)))
    lengths.add(len(rows))
  writer.join()
  assert len(lengths) > 1
  assert [p.name for p in tmp_path.iterdir()] == ['results.json']


@pytest.mark.parametrize('moment', ['write_bytes', 'replace'])
def test_a_write_that_fails_leaves_the_old_file(moment, tmp_path, monkeypatch):
  """A full disk or an interrupt, while writing or before renaming."""
  workdir = Workdir(tmp_path)
  workdir.record('first', {'a': 1})
  before = tiny_run.snapshot(tmp_path)

  def crash(self, *_):
    raise KeyboardInterrupt

  monkeypatch.setattr(type(workdir / 'results.json'), moment, crash)
  with pytest.raises(KeyboardInterrupt):
    workdir.record('second', {'b': 2})
  monkeypatch.undo()
  assert tiny_run.snapshot(tmp_path) == before
