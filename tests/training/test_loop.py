"""The loop's end when numbers leave float32, and checkpoints that are bad."""

import json

import jax
import numpy as np
import pytest
import tiny
import tiny_run
from refusals import refused

from spnas_jax import cli
from spnas_jax.config import spaces
from spnas_jax.config.workdir import Workdir
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.search.search_setup import create_state, make_search
from spnas_jax.stages import evaluate, search
from spnas_jax.training.checkpoint import Checkpoints


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
  space = spaces.make_space(config)
  table = tiny.table(space, config.dataset.image_size)
  search = make_search(config, SearchProblem.of(config, table))
  state = create_state(search, config)
  path = Workdir(folder) / 'search' / 'checkpoints'
  with Checkpoints(path) as checkpoints:
    return checkpoints.restore(state)


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
