"""How far work is whose steps are alike: measuring, exporting, scoring."""

from __future__ import annotations

import time
from typing import Any

from spnas_jax.core.console import say
from spnas_jax.core.live_line import LiveLine, Part, bar, clock

# Between two lines of a log.
_SAY_SECONDS = 10.0


class Progress:
  """A line that is rewritten on a terminal, a line every 10 s in a log.

  Used as a context, which ends with the terminal's line taken away.

  Args:
    stage: what the line begins with.
    unit: what is counted, as in 'samples'.
    total: how many there are.
    done: how many were there before; they say nothing of the speed.
  """

  def __init__(self, stage: str, unit: str, total: int, done: int = 0):
    self._stage, self._unit, self._total = stage, unit, total
    self._before = self._done = done
    self._start = self._said = time.monotonic()
    self._first = 0.0  # When the first was done.
    self._line = LiveLine()

  def __enter__(self) -> Progress:
    self._line.__enter__()
    self._draw()
    return self

  def __exit__(self, *reason: Any) -> None:
    self._line.__exit__(*reason)

  def advance(self) -> None:
    """One more is done."""
    self._done += 1
    if self._done == self._before + 1:
      self._first = time.monotonic()
    if self._line.due():
      self._draw()
    now = time.monotonic()
    if not self._line.on and now - self._said > _SAY_SECONDS:
      say(
        f'{self._stage}: {self._done} of {self._total} {self._unit}, about '
        f'{self._left():.0f} s left'
      )
      self._said = now

  def _left(self) -> float:
    """Seconds to go. The first compiles what the others use: it only counts
    while there is no other."""
    count, now = self._done - self._before, time.monotonic()
    each = (
      (now - self._first) / (count - 1)
      if count > 1
      else (now - self._start) / max(count, 1)
    )
    return each * (self._total - self._done)

  def _draw(self) -> None:
    known = self._done > self._before
    self._line.draw(
      Part(self._stage),
      Part(bar(self._done, self._total), 2),
      Part(f'{self._done}/{self._total} {self._unit}', 1),
      Part(f'ETA {clock(self._left())}' if known else ''),
    )
