"""Several processes are one run: the same network, one set of files.

Two processes of two devices each, or four of one, over loopback, share a
workdir. What they compute must not depend on how devices are shared out to
processes, nor on how many of them left the checkpoint.
"""

import shutil
import signal
import socket
import subprocess

import jax
import numpy as np
import pytest
import tiny_run

from spnas_jax import startup
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.search.search_record import finished_search

# `all`, without the stages that need no devices.
THREE_STAGES = (
  'from spnas_jax import cli, stage_runs\n'
  "stage_runs.ALL = ('search', 'train', 'evaluate')\ncli.main()\n"
)


def start_together(
  command, devices=2, processes=2
) -> list[subprocess.Popen[str]]:
  """The command in processes of `devices` each."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  return [
    tiny_run.start(
      command,
      devices=devices,
      JAX_COORDINATOR_ADDRESS=f'127.0.0.1:{port}',
      JAX_NUM_PROCESSES=str(processes),
      JAX_PROCESS_ID=str(i),
    )
    for i in range(processes)
  ]


def run_together(command, devices=2, processes=2) -> list[tuple[int, str, str]]:
  """The command in processes of `devices` each, to its end.

  Returns:
    Their (exit code, stdout, stderr).
  """
  started = start_together(command, devices, processes)
  try:
    said = [p.communicate(timeout=tiny_run.PATIENCE) for p in started]
  finally:
    for p in started:
      p.kill()
  return [(p.returncode, *t) for p, t in zip(started, said, strict=True)]


def parameters(workdir):
  """Final parameters of a workdir's search."""
  return finished_search(tiny_run.config(), Workdir(workdir))[1].params


@pytest.fixture(scope='module')
def together(tmp_path_factory):
  """A search, training and evaluation by two processes in one go, so that each
  stage reads what the one before it has just left."""
  workdir = tmp_path_factory.mktemp('together') / 'run'
  command = tiny_run.command('all', workdir)
  ends = run_together([command[0], '-c', THREE_STAGES, *command[2:]])
  for code, _, err in ends:
    assert code == 0, err[-2000:]
  return workdir, ends


def assert_same(a, b):
  """Equal but for the order in which a batch's sums are taken.

  Gates, dropout and the order of the data are the same to the bit, and batch
  norm is over the global batch. But 2 x 2, 4 and 1 devices add up gradients and
  statistics in different orders, which float32 rounds differently, by about
  1e-7; 16 steps that divide by roots of small accumulators enlarge that some
  hundred times.
  """
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


def test_two_processes_find_what_one_finds(together):
  """2 processes x 2 devices = 1 process x 4 devices."""
  workdir, _ = together
  whole = tiny_run.finished()
  assert_same(parameters(workdir), parameters(whole))
  ours, theirs = tiny_run.results(workdir), tiny_run.results(whole)
  assert ours['search']['architecture'] == theirs['search']['architecture']
  for stage, key in (
    ('search', 'final_cross_entropy'),
    ('search', 'expected_ms'),
    ('evaluate', 'cross_entropy'),
  ):
    assert ours[stage][key] == pytest.approx(theirs[stage][key], rel=1e-3)


@pytest.mark.slow
def test_one_device_finds_the_same(together, tmp_path):
  """2 processes x 2 devices = 1 process x 1 device."""
  workdir, _ = together
  done = tiny_run.run(tiny_run.command('search', tmp_path), devices=1)
  assert done.returncode == 0, done.stderr[-2000:]
  assert tiny_run.results(tmp_path)['search']['platform']['num_devices'] == 1
  assert_same(parameters(workdir), parameters(tmp_path))


def test_one_process_writes_and_speaks(together):
  """Process 1 leaves results, events and progress to process 0."""
  workdir, ends = together
  results = tiny_run.results(workdir)
  for stage in ('search', 'train', 'evaluate'):
    assert results[stage]['platform']['num_processes'] == 2
    assert results[stage]['platform']['num_devices'] == 4
  (_, out0, err0), (_, out1, err1) = ends
  assert 'search: found' in out0 and 'images/s' in err0
  assert 'search:' not in out1 and 'images/s' not in err1
  for stage in ('search', 'train'):
    # events.out.tfevents.TIME.HOST.PROCESS.NUMBER.v2
    names = [path.name for path in (workdir / stage / 'events').iterdir()]
    assert len({name.split('.')[-3] for name in names}) == 1
  assert not list(workdir.rglob('.*'))  # No half-written file is left.


def test_every_example_is_scored_once(together):
  """50 images in batches of 24, of which each process takes a half: neither the
  filling of the last batch nor an image twice is counted."""
  workdir, _ = together
  examples = tiny_run.get_config().dataset.test_examples
  assert tiny_run.results(workdir)['evaluate']['num_examples'] == examples


@pytest.mark.slow
def test_both_processes_resume(together, tmp_path):
  """From the checkpoint they wrote together, to the same bits."""
  workdir, _ = together
  again = tmp_path / 'run'
  shutil.copytree(workdir, again)
  (again / 'results.json').unlink()
  checkpoints = again / 'search' / 'checkpoints'
  shutil.rmtree(checkpoints / str(tiny_run.STEPS))
  before = max(int(path.name) for path in checkpoints.iterdir())
  ends = run_together(tiny_run.command('search', again))
  for code, _, err in ends:
    assert code == 0, err[-2000:]
  assert f'resuming at step {before} of' in ends[0][1]
  ours, theirs = (tiny_run.results(w)['search'] for w in (again, workdir))
  for key in ('params_sha256', 'final_cross_entropy', 'architecture'):
    assert ours[key] == theirs[key], key


@pytest.mark.slow
def test_shard_map_finds_the_same_bits(together, tmp_path):
  """In two processes: its search, training and evaluation are pmap's."""
  workdir, _ = together
  option = '--config.processes.mapping=shard_map'
  command = tiny_run.command('all', tmp_path, option)
  ends = run_together([command[0], '-c', THREE_STAGES, *command[2:]])
  for code, _, err in ends:
    assert code == 0, err[-2000:]
  ours, theirs = (tiny_run.results(w) for w in (tmp_path, workdir))
  for stage, key in (
    ('search', 'params_sha256'),
    ('search', 'architecture'),
    ('evaluate', 'cross_entropy'),
    ('evaluate', 'confusion_matrix'),
  ):
    assert ours[stage][key] == theirs[stage][key], (stage, key)


@pytest.mark.slow
def test_two_processes_find_the_curve_of_one(tmp_path):
  """One supernet for several targets: process 0 decides for both."""
  options = (
    '--config.search.method=worth',
    '--config.search.curve_points=3',
    '--config.search.worth.networks=20',
    '--config.search.worth.images=100',
  )
  two = run_together(tiny_run.command('search', tmp_path / 'two', *options))
  for code, _, err in two:
    assert code == 0, err[-2000:]
  one = tiny_run.run(tiny_run.command('search', tmp_path / 'one', *options))
  assert one.returncode == 0, one.stderr[-2000:]
  ours, theirs = (
    tiny_run.results(tmp_path / name)['search']['curve']
    for name in ('two', 'one')
  )
  assert len(ours) == 3
  for key in ('name', 'target_ms', 'predicted_ms', 'architecture'):
    assert [p[key] for p in ours] == [p[key] for p in theirs], key


@pytest.fixture(scope='module')
def four(tmp_path_factory):
  """A search by four processes of one device."""
  workdir = tmp_path_factory.mktemp('four') / 'run'
  for code, _, err in run_together(tiny_run.command('search', workdir), 1, 4):
    assert code == 0, err[-2000:]
  return workdir


def halfway(finished, workdir):
  """A copy of a search as if it had been killed before its last checkpoint."""
  shutil.copytree(finished, workdir)
  (workdir / 'results.json').unlink()
  checkpoints = workdir / 'search/checkpoints'
  shutil.rmtree(checkpoints / str(tiny_run.STEPS))
  return f'resuming at step {max(int(p.name) for p in checkpoints.iterdir())} '


@pytest.mark.slow
def test_four_processes_find_what_one_finds(four):
  """4 processes x 1 device = 1 process x 4 devices."""
  whole = tiny_run.finished()
  assert_same(parameters(four), parameters(whole))
  ours, theirs = (tiny_run.results(w)['search'] for w in (four, whole))
  assert ours['architecture'] == theirs['architecture']
  assert ours['platform']['num_processes'] == 4


@pytest.mark.slow
def test_one_process_goes_on_from_a_checkpoint_of_four(four, tmp_path):
  resuming = halfway(four, tmp_path / 'run')
  done = tiny_run.run(tiny_run.command('search', tmp_path / 'run'), devices=4)
  assert done.returncode == 0, done.stderr[-2000:]
  assert resuming in done.stdout
  assert_same(parameters(tmp_path / 'run'), parameters(four))


@pytest.mark.slow
def test_four_processes_go_on_from_a_checkpoint_of_one(tmp_path):
  whole = tiny_run.finished()
  resuming = halfway(whole, tmp_path / 'run')
  command = tiny_run.command('search', tmp_path / 'run')
  ends = run_together(command, devices=1, processes=4)
  for code, _, err in ends:
    assert code == 0, err[-2000:]
  assert resuming in ends[0][1]
  assert_same(parameters(tmp_path / 'run'), parameters(whole))


@pytest.mark.slow
@pytest.mark.parametrize('whom', [(0,), (1,), (0, 1)])
def test_sigterm_stops_all_after_the_same_step(tmp_path, whom):
  """Whoever gets it, both end with code 143 and one line, and go on to the bits
  of a search that nothing disturbed."""
  options = (
    '--config.search.epochs=40',
    '--config.search.checkpoint_epochs=90',
  )
  command = tiny_run.command('search', tmp_path / 'run', *options)
  started = start_together(command)
  try:
    for line in started[0].stderr:
      if 'step 40/' in line:
        break
    for i in whom:
      started[i].send_signal(signal.SIGTERM)
    ends = [
      (*p.communicate(timeout=tiny_run.PATIENCE), p.returncode) for p in started
    ]
  finally:
    for p in started:
      p.kill()
  assert [code for *_, code in ends] == [143, 143], [
    err[-2000:] for _, err, _ in ends
  ]
  for _, said, _ in ends:
    assert 'Traceback' not in said
  last = ends[0][1].strip().splitlines()[-1]
  assert 'stopped by SIGTERM after step' in last
  step = last.partition('after step ')[2].split()[0]
  saved = tmp_path / 'run/search/checkpoints'
  assert [path.name for path in saved.iterdir()] == [step]
  ends = run_together(command)
  assert f'resuming at step {step} of' in ends[0][1]
  whole = run_together(tiny_run.command('search', tmp_path / 'whole', *options))
  assert [code for code, *_ in (*ends, *whole)] == [0] * 4
  ours, theirs = (
    tiny_run.results(tmp_path / name)['search'] for name in ('run', 'whole')
  )
  assert ours['params_sha256'] == theirs['params_sha256']


@pytest.mark.parametrize('missing', ['JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'])
def test_incomplete_variables_are_named(missing, monkeypatch):
  """Without them this process would wait for others that never come."""
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', '127.0.0.1:1')
  monkeypatch.setenv('JAX_NUM_PROCESSES', '2')
  monkeypatch.setenv('JAX_PROCESS_ID', '0')
  for value in (None, 'two'):
    if value is None:
      monkeypatch.delenv(missing)
    else:
      monkeypatch.setenv(missing, value)
    with pytest.raises(UserError, match='JAX_COORDINATOR_ADDRESS is set') as e:
      startup.prepare_jax()
    assert (value or missing) in str(e.value)
