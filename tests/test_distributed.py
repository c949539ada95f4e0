"""Several processes are one run: the same network, one set of files."""

import shutil
import socket
import subprocess

import numpy as np
import pytest
import tiny_run
from conftest import ROOT

from spnas_jax.checkpoint import Checkpoints
from spnas_jax.config import make_space
from spnas_jax.search_record import load_supernet
from spnas_jax.workdir import Workdir


def run_together(commands_and_environments, timeout=400):
  """Runs processes side by side; returns their (code, stdout, stderr)."""
  processes = [
    subprocess.Popen(
      command,
      cwd=ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for command, environment in commands_and_environments
  ]
  try:
    return [(p.communicate(timeout=timeout), p.returncode) for p in processes]
  finally:
    for p in processes:
      p.kill()


def two_processes(stage, workdir, *arguments):
  """One stage by 2 processes x 2 devices over loopback."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  return run_together(
    [
      (
        tiny_run.command(stage, workdir, *arguments),
        tiny_run.environment(
          devices=2,
          JAX_COORDINATOR_ADDRESS=f'127.0.0.1:{port}',
          JAX_NUM_PROCESSES='2',
          JAX_PROCESS_ID=str(i),
        ),
      )
      for i in range(2)
    ]
  )


def parameters(workdir):
  """Final parameters of a workdir's search."""
  state = load_supernet(tiny_run.config(), Workdir(workdir))
  assert make_space(tiny_run.config()).layers  # The config is the run's own.
  return state.params


@pytest.fixture(scope='module')
def together(tmp_path_factory):
  """A search and an evaluation by two processes."""
  workdir = tmp_path_factory.mktemp('together') / 'run'
  ends = [
    two_processes(stage, workdir) for stage in ('search', 'train', 'evaluate')
  ]
  for stage in ends:
    for (_, err), code in stage:
      assert code == 0, err[-2000:]
  return workdir, ends


def assert_same(a, b):
  """Equal up to the order in which sums over devices are taken.

  16 steps of RMSProp carry float32 rounding of those sums (1e-7) into the
  weights; its root of small accumulators enlarges it some hundred times.
  """
  import jax

  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


def test_two_processes_find_what_one_finds(together, tmp_path):
  """2 processes x 2 devices = 1 process x 4 devices = 1 x 1."""
  workdir, _ = together
  ours = parameters(workdir)
  assert_same(ours, parameters(tiny_run.finished()))
  ((_, code),) = run_together(
    [
      (
        tiny_run.command('search', tmp_path / 'one'),
        tiny_run.environment(devices=1),
      )
    ]
  )
  assert code == 0
  assert_same(ours, parameters(tmp_path / 'one'))


def test_one_process_writes_and_speaks(together):
  """Process 1 leaves results and progress to process 0."""
  workdir, ends = together
  results = tiny_run.results(workdir)
  assert results['search']['platform']['num_processes'] == 2
  assert results['search']['platform']['num_devices'] == 4
  for stage in ends:
    (out, err), _ = stage[1]
    assert 'search:' not in out and 'images/s' not in err
  assert not list(workdir.glob('.*'))  # No half-written file is left.


def test_every_example_is_scored_once(together):
  """Over both processes, 50 test images and no padding."""
  workdir, _ = together
  assert tiny_run.results(workdir)['evaluate']['num_examples'] == 50


def test_both_processes_resume(together, tmp_path):
  """An interrupted search of two processes ends in the same parameters."""
  workdir, _ = together
  again = tmp_path / 'run'
  shutil.copytree(workdir, again)
  (again / 'results.json').unlink()
  with Checkpoints(Workdir(again) / 'search' / 'checkpoints') as checkpoints:
    last = checkpoints.latest
  shutil.rmtree(again / 'search' / 'checkpoints' / str(last))
  for (_, err), code in two_processes('search', again):
    assert code == 0, err[-2000:]
  import jax

  for x, y in zip(
    jax.tree.leaves(parameters(workdir)),
    jax.tree.leaves(parameters(again)),
    strict=True,
  ):
    np.testing.assert_array_equal(x, y)
