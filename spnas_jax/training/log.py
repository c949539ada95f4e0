"""Where a training's steps are seen: a line, history.npz, event files."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.live_line import GREEN, ORANGE, LiveLine, Part, bar, clock
from spnas_jax.training.events import Drawn, Events
from spnas_jax.training.history import History
from spnas_jax.training.schedules import Length

Describe = Callable[[dict[str, float]], str]
Draw = Callable[[Any, dict[str, np.ndarray]], Drawn]

# Histograms and pictures are made at most so often in a run; TensorBoard itself
# keeps ten pictures of a kind. One time costs 70 ms of a core, the shortest
# search that is worth looking at 70 s.
DRAWN = 8
# What the terminal's line says of a step's metrics.
_SHOWN = (
  'cross_entropy',
  'accuracy',
  'lambda',
  'undropped_ms',
  'runtime_ms',
  'target_ms',
)
# Steps behind the first which a speed is taken of at least. In a search on two
# cores the first step took eight times as long as those after it.
_FEW = 8
# A runtime so near its target counts as on it, fraction.
_NEAR = 0.02


class Log:
  """The log of one run of steps.

  On a terminal a line that is rewritten says step, loss, speed and time to go;
  elsewhere a line on stderr for every logged step does.

  Args:
    stage: its name and folder.
    workdir: where it leaves its compile time and how long it has run.
    first: step at which the run starts.
    length: where it ends.
    recipe: config section with `batch_size` and `log_every_steps`.
    describe: scalars of a step -> the middle of a log's line.
    history: what was logged so far.
    events: the stage's event files.
    line: the terminal's line.
  """

  def __init__(
    self,
    stage: str,
    workdir: Workdir,
    first: int,
    length: Length,
    recipe: Any,
    describe: Describe,
    history: History,
    events: Events,
    line: LiveLine,
  ):
    self._stage, self._workdir, self._length = stage, workdir, length
    self._batch, self._every = recipe.batch_size, recipe.log_every_steps
    self._describe, self._history = describe, history
    self._events, self._line = events, line
    self._pace = Pace(first)
    self._start = time.monotonic()
    self._spent = workdir.spent(stage)

  @contextlib.contextmanager
  def first_step(self) -> Iterator[Callable[[], None]]:
    """Around the first step, of whose call most is compilation.

    The context gives a function to call when the call has returned: what comes
    after it is the step itself.
    """
    name = f'{self._stage}/compiled.json'
    words = 'compiling the step'
    if before := _seconds(self._workdir, name):
      words += f' ({before:.3g} s the last time)'
    if not self._line.on:
      self._print(f'{self._stage}  {words}')

    start, compiled = time.monotonic(), 0.0

    def called() -> None:
      nonlocal compiled
      self._pace.start()
      compiled = time.monotonic() - start

    with self._line.ticking(self._stage, words):
      yield called
    self._pace.first_done()
    text = json.dumps({'seconds': round(compiled, 3)})
    self._workdir.write(name, text + '\n')
    self._print(f'{self._stage}  the step was compiled in {compiled:.3g} s')

  def skip(self, seconds: float) -> None:
    """Takes time out of the speed: another step was compiled."""
    self._pace.skip(seconds)

  def write(self, step: int, metrics: dict[str, np.ndarray]) -> None:
    """Notes the metrics of a step; those that are not scalars in history.npz
    only."""
    rate = self._pace.mark(step)
    scalars = {k: float(v) for k, v in metrics.items() if np.ndim(v) == 0}
    images = rate * self._batch
    self._events.scalars(step, {**scalars, 'images_per_second': images})
    self._history.add(step, metrics)
    here = time.monotonic() - self._start
    self._workdir.spend(self._stage, round(self._spent + here, 3))
    if not self._line.on:
      left = self._eta(step, rate if self._pace.known(step) else 0.0)
      self._print(
        f'{self._stage}  step {step}/{self._length.total}'
        f'  epoch {step / self._length.steps_per_epoch:.1f}'
        f'  {self._describe(scalars)}  {images:.0f} images/s  {left}'
      )

  def draws(self, step: int) -> bool:
    """Whether a logged step is one of the few that are drawn."""
    total = max(self._length.total, 1)
    share, before = (DRAWN * s // total for s in (step, step - self._every))
    return share > before or step == total

  def show(self, step: int, metrics: dict[str, Any]) -> None:
    """Rewrites the terminal's line, if it is time to.

    Args:
      step: that is done.
      metrics: of it, on the devices.
    """
    if self._line.due():
      rate = self._pace.now(step)
      self._line.draw(*self._parts(step, metrics, rate, self._eta(step, rate)))

  def end(self, step: int, metrics: dict[str, Any]) -> None:
    """The terminal's line stays, with the time that the run took."""
    took = f'in {clock(time.monotonic() - self._start)}'
    self._line.leave(*self._parts(step, metrics, self._pace.now(step), took))

  def _eta(self, step: int, rate: float) -> str:
    """Time to go at steps a second; 0 = not known yet."""
    if not rate:
      return 'ETA -:--'
    return f'ETA {clock((self._length.total - step) / rate)}'

  def _parts(
    self, step: int, metrics: dict[str, Any], rate: float, last: str
  ) -> list[Part]:
    total = self._length.total
    wanted = {key: metrics[key] for key in _SHOWN if key in metrics}
    m = {key: float(value) for key, value in jax.device_get(wanted).items()}
    accuracy = f'acc {100 * m["accuracy"]:.0f}%' if 'accuracy' in m else ''
    lambda_ = f'λ {m["lambda"]:.3g}' if 'lambda' in m else ''
    epoch = f'epoch {step / self._length.steps_per_epoch:.1f}'
    speed = f'{rate * self._batch:.0f} images/s' if rate else ''
    return [
      Part(self._stage),
      Part(bar(step, total), 5),
      Part(f'{step}/{total}', 1),
      Part(epoch, 8),
      Part(f'CE {m["cross_entropy"]:.3f}', 3),
      Part(accuracy, 4),
      _runtime(m),
      Part(lambda_, 7),
      Part(speed, 6),
      Part(last),
    ]

  def _print(self, text: str) -> None:
    if jax.process_index() == 0:
      print(text, file=sys.stderr, flush=True)


class Pace:
  """Steps a second, without compilation.

  Two marks are kept, so that the speed is never that of a few steps only.
  """

  def __init__(self, first: int):
    now = time.monotonic()
    self._first, self._one = first, 0.0
    self._marks = [(first, now), (first, now)]

  def start(self) -> None:
    """The first step was handed over: compilation is over."""
    self._one = time.monotonic()

  def first_done(self) -> None:
    """The first step is done: what follows is measured."""
    now = time.monotonic()
    self._one = now - self._one
    self._marks = [(self._first + 1, now)] * 2

  def skip(self, seconds: float) -> None:
    self._marks = [(step, clock + seconds) for step, clock in self._marks]

  def mark(self, step: int) -> float:
    """Steps a second since the last mark; this is the next."""
    now = time.monotonic()
    rate = self._since(self._marks[-1], step, now)
    self._marks = [self._marks[-1], (step, now)]
    return rate

  def known(self, step: int) -> bool:
    """Whether a step behind the first, which is slower, was measured."""
    return step > self._first + 1

  def now(self, step: int) -> float:
    """Steps a second since the mark before the last; 0 = too few for one."""
    if step < self._first + 1 + _FEW:
      return 0.0
    return self._since(self._marks[0], step, time.monotonic())

  def _since(self, mark: tuple[int, float], step: int, now: float) -> float:
    then, clock = mark
    if step <= then:  # One step was made, the first.
      return 1 / max(self._one, 1e-9)
    return (step - then) / max(now - clock, 1e-9)


def _runtime(m: dict[str, float]) -> Part:
  """Expected ms beside the target of the moment: green where it is met."""
  ms, target = m.get('undropped_ms', m.get('runtime_ms')), m.get('target_ms')
  if ms is None:
    return Part('')
  if target is None:
    return Part(f'{ms:.4g} ms', 2)
  # In warm-up nothing pulls yet.
  pulled = bool(m.get('lambda'))
  colour = GREEN if abs(ms / target - 1) <= _NEAR else ORANGE
  text = f'{ms:.4g}/{target:.4g} ms'
  return Part(text, 2, colour if pulled else '')


def _seconds(workdir: Workdir, name: str) -> float | None:
  """What compiling took the last time; None = not known."""
  try:
    return float(json.loads((workdir / name).read_text())['seconds'])
  except (OSError, ValueError, KeyError, TypeError):
    return None
