"""SIGTERM: a checkpoint, an exit code of its own, the same bits afterwards."""

import json
import signal
import time

import tiny_run


def terminate(command, line: str):
  """Sends SIGTERM once a line of the log holds the words; (code, stderr)."""
  process = tiny_run.start(command)
  seen = []
  for text in process.stderr:
    seen.append(text)
    if line in text:
      process.send_signal(signal.SIGTERM)
      break
  rest = process.stderr.read()
  process.stdout.read()
  return process.wait(timeout=tiny_run.PATIENCE), ''.join(seen) + rest


def test_a_search_goes_on_from_the_step_it_was_stopped_at(tmp_path):
  """Stopped between two checkpoints: the step that ran is saved, and the end
  has the bits of a search that nothing disturbed."""
  command = tiny_run.command(
    'search', tmp_path / 'run', '--config.search.checkpoint_epochs=100'
  )
  code, said = terminate(command, 'step 4/16')
  assert code == 143
  last = said.strip().splitlines()[-1]
  assert 'stopped by SIGTERM after step' in last and 'Traceback' not in said
  step = int(last.partition('after step ')[2].split()[0])
  assert 4 <= step < 16
  saved = tmp_path / 'run/search/checkpoints'
  assert [path.name for path in saved.iterdir()] == [str(step)]
  spent = tmp_path / 'run/search/spent.json'
  assert json.loads(spent.read_text())['seconds'] > 0
  spent.write_text('{"seconds": 1000}')
  done = tiny_run.run(command)
  assert f'resuming at step {step} of 16' in done.stdout
  whole = tiny_run.results(tiny_run.finished())['search']
  result = tiny_run.results(tmp_path / 'run')['search']
  assert result['params_sha256'] == whole['params_sha256']
  # What the search cost has both parts.
  assert 1000 < result['seconds'] < result['wall_seconds'] < 2000


def test_outside_of_a_loop_it_ends_at_once(tmp_path):
  """Times of operations: what was measured is kept, as after Ctrl-C."""
  command = tiny_run.command(
    'build_table', tmp_path / 'run', '--config.build_table.rounds=1000'
  )
  process = tiny_run.start(command)
  folder = tmp_path / 'run/build_table'
  end = time.monotonic() + 240
  while not (folder / 'samples.json').exists() and time.monotonic() < end:
    time.sleep(0.2)
  process.send_signal(signal.SIGTERM)
  _, said = process.communicate(timeout=tiny_run.PATIENCE)
  assert process.returncode == 143
  assert said.strip().splitlines()[-1].startswith('stopped by SIGTERM')
  assert 'Traceback' not in said
  assert (folder / 'samples.json').exists()
