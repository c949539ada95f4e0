"""Kill it anywhere: it resumes to the same bits."""

import hashlib
import pathlib
import random
import shutil
import signal
import subprocess
import time

import pytest
import tiny_run
from conftest import ROOT

from spnas_jax import search, train
from spnas_jax.workdir import Workdir

# More, and denser, checkpoints than the shared tiny run: many places to die.
DENSE = ('--config.search.checkpoint_epochs=0.25',)


def start(stage, workdir):
  return subprocess.Popen(
    tiny_run.command(stage, workdir, *DENSE),
    cwd=ROOT,
    env=tiny_run.environment(),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_sigkill_at_random_moments(tmp_path):
  """A search killed again and again ends like the uninterrupted one.

  The delays after the first checkpoint are random: some deaths fall into a
  step, some into the writing of a checkpoint. All shared results must be equal
  to the bit, the hash of every parameter among them.
  """
  rng = random.Random(7)
  workdir = tmp_path / 'run'
  kills = 0
  for _ in range(3):
    process = start('search', workdir)
    folder = workdir / 'search' / 'checkpoints'
    before = set(folder.iterdir()) if folder.exists() else set()
    while process.poll() is None:
      now = set(folder.iterdir()) if folder.exists() else set()
      if now - before:
        break
      time.sleep(0.002)
    time.sleep(rng.uniform(0.0, 0.05))
    if process.poll() is None:
      process.send_signal(signal.SIGKILL)
      kills += 1
    process.communicate()
    if (workdir / 'results.json').exists():
      break
  assert kills >= 1
  process = start('search', workdir)
  _, err = process.communicate(timeout=300)
  assert process.returncode == 0, err[-2000:]
  resumed = tiny_run.results(workdir)['search']
  whole = tiny_run.results(tiny_run.finished())['search']
  for key in (
    'params_sha256',
    'final_cross_entropy',
    'architecture',
    'predicted_ms',
    'expected_ms',
    'supernet_top1',
    'steps',
  ):
    assert resumed[key] == whole[key], key


def hash_of(folder: pathlib.Path) -> str:
  digest = hashlib.sha256()
  for path in sorted(folder.rglob('*')):
    if path.is_file():
      digest.update(str(path.relative_to(folder)).encode())
      digest.update(path.read_bytes())
  return digest.hexdigest()


@pytest.mark.parametrize('stage', [search, train])
def test_a_finished_stage_does_nothing_twice(stage, tmp_path):
  """No file changes, none is added, and the same result comes back."""
  folder = tmp_path / 'run'
  shutil.copytree(tiny_run.finished(), folder)
  before = hash_of(folder)
  name = stage.__name__.rpartition('.')[2]
  result = stage.run(tiny_run.config(), Workdir(folder))
  assert result == tiny_run.results(folder)[name]
  assert hash_of(folder) == before


def test_training_goes_on_from_its_last_checkpoint(tmp_path):
  """Without the final checkpoint and result, the same weights come again."""
  folder = tmp_path / 'run'
  shutil.copytree(tiny_run.finished(), folder)
  from spnas_jax.train import load_trained

  config = tiny_run.config()
  _, before = load_trained(config, Workdir(folder))
  results = tiny_run.results(folder)
  steps = results['train']['steps']
  checkpoints = folder / 'train' / 'checkpoints'
  kept = sorted(int(p.name) for p in checkpoints.iterdir() if p.name.isdigit())
  assert kept[-1] == steps and len(kept) > 1
  shutil.rmtree(checkpoints / str(steps))
  # What Orbax leaves where it was killed while writing.
  (checkpoints / f'{steps}.orbax-checkpoint-tmp').mkdir()
  Workdir(folder).write('results.json', '{}')
  train.run(config, Workdir(folder))
  _, after = load_trained(config, Workdir(folder))
  import jax

  for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
    assert x.tobytes() == y.tobytes()


def test_results_are_never_half_written(tmp_path, monkeypatch):
  """A crash between writing and renaming leaves the old file whole."""
  workdir = Workdir(tmp_path)
  workdir.record('first', {'a': 1})
  before = (tmp_path / 'results.json').read_bytes()
  kind = type(workdir / 'results.json')

  def crash(self, target):
    raise KeyboardInterrupt

  monkeypatch.setattr(kind, 'replace', crash)
  with pytest.raises(KeyboardInterrupt):
    workdir.record('second', {'b': 2})
  assert (tmp_path / 'results.json').read_bytes() == before
