"""A whole training from a folder of pictures: the same bits, however it ran.

Real digits as PNG files in class folders. Three runs of one command: in one
process, in two that share the batches, and killed on the way.
"""

from __future__ import annotations

import random
import signal
import time

import jax
import numpy as np
import pytest
import tiny_run
from PIL import Image
from sklearn.datasets import load_digits
from test_distributed import run_together

from spnas_jax.config.workdir import Workdir
from spnas_jax.networks.architecture import Architecture
from spnas_jax.training.trained import restore_trained

NETWORK = (
  'stem_k3_s1_i1_c8 ir_r1_k5_s2_e4_c8 ir_r1_k3_s1_e2_c12 head_c16 fc_c10'
)


def write_digits(root, count: int) -> None:
  """The first `count` digits, as ROOT/CLASS/NUMBER.png."""
  digits = load_digits()
  for i in range(count):
    path = root / str(digits.target[i]) / f'{i:04d}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.minimum(digits.images[i] * 16, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope='module')
def settings(tmp_path_factory):
  """Config keys of a training on one folder of 300 pictures."""
  root = tmp_path_factory.mktemp('own')
  write_digits(root / 'digits', 300)
  return {
    'architecture': NETWORK,
    'dataset.folder': str(root / 'digits'),
    'dataset.data_dir': str(root / 'data'),
    'dataset.train_examples': 128,
    'dataset.test_examples': 20,
    'train.checkpoint_epochs': 0.25,
  }


def command_of(settings, stage, workdir) -> list[str]:
  options = [f'--config.{key}={value}' for key, value in settings.items()]
  return tiny_run.command(stage, workdir, *options)


@pytest.fixture(scope='module')
def whole(settings, tmp_path_factory):
  """The workdir of an undisturbed run: one process, two devices."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  go_on(settings, workdir)
  return workdir


def go_on(settings, workdir) -> None:
  """Trains and evaluates what is not there yet, in one process."""
  for stage in ('train', 'evaluate'):
    done = tiny_run.run(command_of(settings, stage, workdir), devices=2)
    assert done.returncode == 0, done.stderr[-2000:]


def assert_same_run(settings, one, other) -> None:
  """Weights, averages, statistics, optimizer and scores are equal bits."""
  config = tiny_run.config(
    **{key.replace('.', '__'): value for key, value in settings.items()}
  )

  def state_of(path):
    workdir = Workdir(path)
    result = tiny_run.results(path)['train']
    arch = Architecture.from_string(NETWORK)
    return jax.device_get(restore_trained(config, workdir, result, arch))

  ours, theirs = state_of(one), state_of(other)
  assert int(ours.step) == tiny_run.STEPS
  for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    assert x.tobytes() == y.tobytes()
  scores, others = (tiny_run.results(w)['evaluate'] for w in (one, other))
  assert scores['num_examples'] == 20
  for key in ('top1', 'cross_entropy', 'confusion_matrix'):
    assert scores[key] == others[key], key


@pytest.mark.slow
def test_two_processes_end_in_the_bits_of_one(settings, whole, tmp_path):
  """2 processes x 1 device = 1 process x 2 devices.

  The sum of two devices' gradients does not depend on its order; of more it
  does, in the last bit (test_distributed has those, with a tolerance).
  """
  for stage in ('train', 'evaluate'):
    command = command_of(settings, stage, tmp_path)
    for code, _, err in run_together(command, devices=1):
      assert code == 0, err[-2000:]
  assert tiny_run.results(tmp_path)['train']['platform']['num_processes'] == 2
  assert_same_run(settings, tmp_path, whole)


@pytest.mark.slow
def test_a_killed_training_from_a_folder_ends_in_the_same_bits(
  settings, whole, tmp_path
):
  folder = tmp_path / 'train' / 'checkpoints'
  process = tiny_run.start(command_of(settings, 'train', tmp_path), devices=2)
  while process.poll() is None:
    if any(path.name.isdigit() for path in folder.glob('*')):
      break
    time.sleep(0.001)
  time.sleep(random.uniform(0.0, 0.3))
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  assert 'train' not in Workdir(tmp_path).results()
  go_on(settings, tmp_path)
  assert_same_run(settings, tmp_path, whole)
