"""What a run logged, across interruptions."""

import numpy as np
import pytest

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.training.history import History


def log(workdir, *steps, **metrics):
  history = History(workdir, 'train')
  for step in steps:
    history.add(step, {'loss': np.float32(1 / step), **metrics})
  return history


def test_scalars_and_arrays_are_kept_over_the_steps(tmp_path):
  log(Workdir(tmp_path), 10, 20, logit=np.arange(3.0))
  arrays = History(Workdir(tmp_path), 'train').arrays()
  assert arrays.keys() == {'loss', 'logit', 'step'}
  np.testing.assert_array_equal(arrays['step'], [10, 20])
  np.testing.assert_array_equal(arrays['loss'], np.float32([0.1, 0.05]))
  np.testing.assert_array_equal(arrays['logit'], [[0, 1, 2]] * 2)


def test_what_was_logged_last_counts_after_a_resume(tmp_path):
  """A killed run logged steps after its last checkpoint; they come again."""
  workdir = Workdir(tmp_path)
  log(workdir, 10, 20, 30, run=1.0)
  log(workdir, 20, 30, 40, run=2.0)
  arrays = History(workdir, 'train').arrays()
  np.testing.assert_array_equal(arrays['step'], [10, 20, 30, 40])
  np.testing.assert_array_equal(arrays['run'], [1, 2, 2, 2])


def test_nothing_was_logged(tmp_path):
  assert History(Workdir(tmp_path), 'train').arrays() == {}


@pytest.mark.parametrize('keep', [0, 10, -20])
def test_a_damaged_file_is_named(tmp_path, keep):
  workdir = Workdir(tmp_path)
  log(workdir, 10)
  path = workdir / 'train/history.npz'
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(UserError, match=r'history\.npz is damaged'):
    History(workdir, 'train')
