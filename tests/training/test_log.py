"""What is seen of a run of steps: on a terminal, in a log, in event files.

The steps are those of one number, which compile in no time.
"""

import json
import signal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from ml_collections import ConfigDict
from refusals import refused
from terminal import on_terminal

from spnas_jax.config.workdir import Workdir
from spnas_jax.core import live_line, preemption
from spnas_jax.core.errors import Diverged, Preempted
from spnas_jax.core.parallel import mapped_step
from spnas_jax.stages import search, train
from spnas_jax.training import events, log, trace
from spnas_jax.training.events import Drawn
from spnas_jax.training.log import Log, Pace
from spnas_jax.training.loop import run_steps
from spnas_jax.training.schedules import Length

TOTAL = 20


class OneNumber(flax.struct.PyTreeNode):
  step: jax.Array
  number: jax.Array


def steps(workdir, step=None, total=TOTAL, draw=None, **changes):
  """Runs the steps of stage `train` of one number."""
  recipe = ConfigDict(
    {
      'batch_size': 8,
      'log_every_steps': 5,
      'checkpoint_epochs': 100.0,
      'skip_damaged_checkpoint': False,
      'trace_step': 0,
      'trace_steps': 3,
      **changes,
    }
  )

  def one(state, batch):
    number = state.number + batch['x'].mean()
    metrics = {
      'loss': number,
      'cross_entropy': number,
      'accuracy': jnp.float32(0.5),
      'lambda': jnp.float32(0.25),
      'undropped_ms': jnp.float32(1.01),
      'target_ms': jnp.float32(1.0),
    }
    return OneNumber(state.step + 1, number), metrics

  def batches(first):
    shape = (jax.local_device_count(), 1)
    return ({'x': np.ones(shape, np.float32)} for _ in range(first, total))

  return run_steps(
    'train',
    Workdir(workdir),
    OneNumber(jnp.int32(0), jnp.float32(0)),
    mapped_step(step or one),
    batches,
    length=Length(10, total),
    recipe=recipe,
    describe=lambda m: f'CE {m["cross_entropy"]:.3f}',
    draw=draw,
  )


# --- the line and the log -----------------------------------------------------


def test_a_pipe_gets_lines_and_compile_time_once(tmp_path, capfd):
  steps(tmp_path)
  out, err = capfd.readouterr()
  lines = err.splitlines()
  assert lines[0] == 'train  compiling the step'
  assert lines[1].startswith('train  the step was compiled in ')
  assert [line.split('  ')[1] for line in lines[2:]] == [
    'step 5/20', 'step 10/20', 'step 15/20', 'step 20/20'
  ]  # fmt: skip
  first = lines[2].split('  ')
  assert first[:4] == ['train', 'step 5/20', 'epoch 0.5', 'CE 5.000']
  assert first[4].endswith(' images/s') and first[5].startswith('ETA ')
  assert not out and '\x1b' not in err and '\r' not in err


def test_what_compiling_took_is_said_the_next_time(tmp_path, capfd):
  steps(tmp_path, total=10)
  (tmp_path / 'train/compiled.json').write_text('{"seconds": 61.5}')
  capfd.readouterr()
  steps(tmp_path)
  _, err = capfd.readouterr()
  words = 'train  compiling the step (61.5 s the last time)'
  assert err.splitlines()[0] == words
  found = json.loads((tmp_path / 'train/compiled.json').read_text())
  assert 0 < found['seconds'] != 61.5


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"seconds": "x"}'])
def test_a_damaged_note_of_it_is_not_believed(tmp_path, capfd, text):
  for name in ('compiled', 'spent'):
    Workdir(tmp_path).write(f'train/{name}.json', text)
  steps(tmp_path)
  assert 0 < Workdir(tmp_path).spent('train') < 600
  assert capfd.readouterr().err.splitlines()[0] == 'train  compiling the step'


def test_a_terminal_gets_one_line_that_stays(tmp_path, monkeypatch):
  """Stage, bar, step, epoch, loss, accuracy, ms, λ, speed, ETA."""
  monkeypatch.setattr(live_line, '_PAINT_SECONDS', -1.0)
  with on_terminal(monkeypatch, columns=140) as terminal:
    steps(tmp_path)
  compiled, line, empty = terminal.lines()
  assert compiled.startswith('train  the step was compiled in ') and not empty
  words = line.split('  ')
  assert words[:8] == [
    'train', '━' * 10, '20/20', 'epoch 2.0', 'CE 20.000', 'acc 50%',
    '1.01/1 ms', 'λ 0.25',
  ]  # fmt: skip
  assert words[8].endswith(' images/s') and words[9].startswith('in 0:')
  seen = terminal.paintings()
  assert seen[0].startswith('train  preparing weights and data  0:0')
  assert any(text.startswith('train  compiling the step  0:0') for text in seen)
  # One step says little of the others.
  assert any('  1/20  ' in text and '  ETA -:--' in text for text in seen)
  assert any('  10/20  ' in text and '  ETA 0:' in text for text in seen)
  assert '\x1b[32m1.01/1 ms\x1b[0m' in terminal.text  # Within 2%: green.


def test_forty_columns_keep_what_matters(tmp_path, monkeypatch):
  monkeypatch.setattr(live_line, '_PAINT_SECONDS', -1.0)
  with on_terminal(monkeypatch, columns=40) as terminal:
    steps(tmp_path)
  seen = terminal.paintings()
  assert all(len(text) < 40 for text in seen)
  running = [text for text in seen if 'ETA' in text]
  assert running and all('1.01/1 ms' in text for text in running)
  assert all(text.startswith('train  ') for text in running)


@pytest.mark.parametrize('end', ['sigterm', 'interrupt', 'diverged'])
def test_whatever_ends_a_run_leaves_the_terminal_clean(
  tmp_path, monkeypatch, end
):
  monkeypatch.setattr(live_line, '_PAINT_SECONDS', -1.0)
  error = {'sigterm': Preempted, 'interrupt': KeyboardInterrupt}.get(
    end, Diverged
  )

  def stop(state, metrics):
    del state, metrics
    if end == 'interrupt':
      raise KeyboardInterrupt
    signal.raise_signal(signal.SIGTERM)
    return Drawn()

  def diverge(state, batch):
    number = state.number + jnp.where(state.step > 11, jnp.nan, 1.0)
    metrics = {'loss': number, 'cross_entropy': number}
    return OneNumber(state.step + 1, number), metrics

  before = signal.getsignal(signal.SIGTERM)
  preemption.watch()
  try:
    with on_terminal(monkeypatch) as terminal, pytest.raises(error):
      if end == 'diverged':
        steps(tmp_path, diverge)
      else:
        steps(tmp_path, draw=stop)
  finally:
    signal.signal(signal.SIGTERM, before)
  compiled, last = terminal.lines()
  assert compiled.startswith('train  the step was compiled') and not last
  assert '/20' in terminal.text


def test_only_process_0_speaks_and_writes(tmp_path, monkeypatch, capfd):
  """On a terminal too; checkpoints apart, for which all processes meet."""
  monkeypatch.setattr(jax, 'process_index', lambda *_: 1)
  with events.event_writer('train', Workdir(tmp_path)) as writer:
    writer.scalars(1, {'loss': 1.0})
    writer.draw(1, lambda: pytest.fail('drawn'))
  with on_terminal(monkeypatch) as terminal:
    own = log.LiveLine()
    with own:
      logs = Log(
        'train', Workdir(tmp_path), 0, Length(10, 20),
        ConfigDict({'batch_size': 8, 'log_every_steps': 5}),
        str, log.History(Workdir(tmp_path), 'train'), writer, own,
      )  # fmt: skip
      with logs.first_step() as called:
        called()
      logs.write(5, {'loss': np.float32(1)})
  assert terminal.text == '' and capfd.readouterr() == ('', '')
  assert list(tmp_path.iterdir()) == []


def test_a_log_of_every_step_does_not_guess_from_the_first(tmp_path, capfd):
  steps(tmp_path, total=3, log_every_steps=1)
  lines = capfd.readouterr().err.splitlines()[2:]
  assert lines[0].endswith(' images/s  ETA -:--')
  assert lines[1].endswith(' images/s  ETA 0:00')


# --- time to go ---------------------------------------------------------------


@pytest.fixture
def hands(monkeypatch):
  """A clock that tests set: {'now': seconds}."""
  hands = {'now': 0.0}
  monkeypatch.setattr(log.time, 'monotonic', lambda: hands['now'])
  return hands


def test_the_first_speed_is_without_compilation(hands):
  """5 s for data, 60 s of compilation, then 2 s a step."""
  pace = Pace(100)
  hands['now'] = 65.0
  pace.start()
  hands['now'] = 67.0
  pace.first_done()
  assert not pace.known(101) and pace.now(101) == 0
  hands['now'] = 83.0
  assert pace.known(102)
  assert pace.now(109) == pytest.approx(0.5)
  assert pace.mark(109) == pytest.approx(0.5)


def test_what_compiles_later_is_taken_out(hands):
  """A second kind of step, after three of the first: 30 s."""
  pace = Pace(0)
  pace.start()
  hands['now'] = 1.0
  pace.first_done()
  hands['now'] = 39.0
  pace.skip(30.0)
  assert pace.now(9) == pytest.approx(1.0)
  assert pace.mark(9) == pytest.approx(1.0)


def test_the_speed_follows_within_two_logged_steps(hands):
  """The terminal's covers one to two intervals of the log, the log's one."""
  pace = Pace(0)
  pace.start()
  hands['now'] = 1.0
  pace.first_done()
  rates = []
  for step, now in ((11, 11.0), (21, 31.0), (31, 51.0)):
    hands['now'] = now
    rates.append(pace.mark(step))
  assert rates == pytest.approx([1.0, 0.5, 0.5])
  hands['now'] = 53.0
  assert pace.now(32) == pytest.approx(0.5)


# --- event files --------------------------------------------------------------


def test_a_few_drawings_in_a_run(tmp_path):
  """Of 200 logged steps; the last is among them."""
  drawn = []

  def draw(state, metrics):
    assert int(state.step) == round(float(metrics['loss']))
    drawn.append(int(state.step))
    return Drawn()

  steps(tmp_path, total=200, draw=draw, log_every_steps=1)
  assert len(drawn) == log.DRAWN and drawn[-1] == 200
  assert np.diff(drawn).max() <= 200 / log.DRAWN + 1


def test_drawing_changes_no_number_and_compiles_nothing(tmp_path):
  """The state after the steps, to the bit, and the step compiled once."""
  compiled = []

  def listen(event, duration_secs, **_):
    del duration_secs
    compiled.append(event == '/jax/core/compile/backend_compile_duration')

  def draw(state, metrics):
    number = np.asarray(jax.device_get(state.number))
    return Drawn({'number': number}, {'image': np.zeros((9, 9, 1), np.uint8)})

  plain = steps(tmp_path / 'plain')
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    first = steps(tmp_path / 'again')
    once = sum(compiled)
    second = steps(tmp_path / 'drawn', draw=draw)
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert sum(compiled) == 2 * once
  for state in (first, second):
    for x, y in zip(
      jax.tree.leaves(plain), jax.tree.leaves(state), strict=True
    ):
      assert x.tobytes() == y.tobytes()


# --- trace --------------------------------------------------------------------


def traces(folder):
  return list(folder.glob('train/events/plugins/profile/*/*.xplane.pb'))


@pytest.mark.parametrize('trace_steps', [2, 1000])
def test_a_trace_lies_where_tensorboard_looks(tmp_path, capfd, trace_steps):
  """Of the steps that were asked for, by name; one that would end behind the
  last step ends there."""
  steps(tmp_path, trace_step=19, trace_steps=trace_steps)
  (path,) = traces(tmp_path)
  assert f'the trace is in {tmp_path}/train/events' in capfd.readouterr().out
  found = jax.profiler.ProfileData.from_file(str(path))
  numbers = {
    value
    for plane in found.planes
    for row in plane.lines
    for event in row.events
    if event.name == 'train'
    for key, value in event.stats
    if key == 'step_num'
  }
  assert numbers == {19, 20}


def test_no_trace_unless_asked(tmp_path):
  steps(tmp_path)
  assert not traces(tmp_path)


def test_a_trace_that_fails_is_one_line(tmp_path, monkeypatch, capfd):
  def refuse(*_):
    raise RuntimeError('no profiler\nhere')

  monkeypatch.setattr(trace.jax.profiler, 'start_trace', refuse)
  assert int(steps(tmp_path, trace_step=2).step) == TOTAL
  out = capfd.readouterr().out
  assert out == 'train: continues without a trace: no profiler here\n'


@pytest.mark.parametrize(
  ('stage', 'key', 'value', 'allowed'),
  [
    ('search', 'trace_step', tiny_run.STEPS + 1, '0 to 16, the last step'),
    ('train', 'trace_step', tiny_run.STEPS + 1, '0 to 16, the last step'),
    ('search', 'trace_step', -1, '0 to 2147483647'),
    ('train', 'trace_steps', 0, '1 to 1000'),
  ],
)
def test_a_trace_that_cannot_be_is_refused(
  tmp_path, capsys, stage, key, value, allowed
):
  """Before anything is compiled: nothing is left in the workdir."""
  from spnas_jax.config import rules

  config = tiny_run.config(**{f'{stage}__{key}': value})
  config.architecture = 'mobilenet_v2'

  def check():
    rules.check(config)
    {'search': search, 'train': train}[stage].check(config, Workdir(tmp_path))

  line = refused(check, capsys)
  assert line == f'error: {stage}.{key} is {value}, allowed: {allowed}'
  assert list(tmp_path.iterdir()) == []
