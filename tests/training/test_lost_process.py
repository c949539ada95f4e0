"""One of two processes is killed in the middle of a search."""

import contextlib
import os
import signal
import socket
import time

import pytest
import tiny_run

# Long enough that a kill meets it at work, on a slow machine too.
LONGER = ('--config.search.epochs=40', '--config.search.checkpoint_epochs=5')


def start(command):
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  return [
    tiny_run.start(
      command,
      devices=2,
      JAX_COORDINATOR_ADDRESS=f'127.0.0.1:{port}',
      JAX_NUM_PROCESSES='2',
      JAX_PROCESS_ID=str(i),
    )
    for i in range(2)
  ]


@contextlib.contextmanager
def no_survivors(processes):
  try:
    yield
  finally:
    for process in processes:
      process.kill()


def finish(command):
  """Both to their end; their (exit code, stdout, stderr)."""
  processes = start(command)
  with no_survivors(processes):
    said = [p.communicate(timeout=tiny_run.PATIENCE) for p in processes]
  return [(p.returncode, *s) for p, s in zip(processes, said, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_the_other_ends_and_both_resume_to_the_same_bits(tmp_path, victim):
  """Within a minute, in one line, with exit code 75; then the same command
  ends with the bits of a run that nothing disturbed.

  Without process 0 JAX's C++ aborts the others at once; then the line is the
  last of what is said, by `last_words.py`.
  """
  command = tiny_run.command('search', tmp_path / 'run', *LONGER)
  processes = start(command)
  survivor = processes[1 - victim]
  with no_survivors(processes):
    for line in processes[0].stderr:
      if 'step 40/' in line:
        break
    else:
      pytest.fail(f'no step 40: {processes[0].stderr.read()[-2000:]}')
    os.kill(processes[victim].pid, signal.SIGKILL)
    killed = time.monotonic()
    _, said = survivor.communicate(timeout=tiny_run.PATIENCE)
  assert time.monotonic() - killed < 60
  last = said.strip().splitlines()[-1]
  if victim:
    assert survivor.returncode == 75
    assert last.startswith('error: process 1 of 2 has ended')
    assert 'Traceback' not in said
  else:
    assert survivor.returncode == -signal.SIGABRT
    assert last.startswith('error: process 1 of 2 was ended from outside')
  assert 'in search after step' in last and 'The same command' in last
  ends = finish(command)
  assert [code for code, *_ in ends] == [0, 0], ends[0][2][-2000:]
  assert 'resuming at step' in ends[0][1]
  whole = tiny_run.command('search', tmp_path / 'whole', *LONGER)
  assert [code for code, *_ in finish(whole)] == [0, 0]
  ours, theirs = (
    tiny_run.results(tmp_path / name)['search'] for name in ('run', 'whole')
  )
  assert ours['params_sha256'] == theirs['params_sha256']
