"""One line of a terminal that is rewritten in place.

Whatever is printed meanwhile, by print(), a warning or a logger, stands above
it: while the line is there, both streams take it away before they write and put
it back behind the next line end. The cursor is never hidden, so a process that
is killed at any moment leaves an ordinary terminal (rich and its kind hide it
until they are asked to stop).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

GREEN, ORANGE = '32', '38;5;208'
# Seconds between two paintings, and between those of a line that only counts
# the seconds.
_PAINT_SECONDS = 0.5
_TICK_SECONDS = 1.0
_BAR = 10
_PLAIN = str.maketrans({'━': '#', '─': '-', 'λ': 'l'})


class Part(NamedTuple):
  """A piece of the line.

  Attributes:
    text: what it says; '' = it is not there.
    rank: on a narrow terminal parts of a high rank go first.
    colour: SGR parameters; '' = as the terminal writes.
  """

  text: str
  rank: int = 0
  colour: str = ''


def is_live() -> bool:
  """Whether somebody watches a terminal that can rewrite a line."""
  return (
    sys.stderr.isatty()
    and os.environ.get('TERM') != 'dumb'
    and not os.environ.get('CI')
  )


def has_colours() -> bool:
  """Whether colours are wanted (https://no-color.org)."""
  return not os.environ.get('NO_COLOR')


def bar(done: int, total: int) -> str:
  """How much of a whole, in 10 columns."""
  full = _BAR * done // max(total, 1)
  return '━' * full + '─' * (_BAR - full)


def clock(seconds: float) -> str:
  """As in '1:05', minutes and seconds."""
  minutes, rest = divmod(round(seconds), 60)
  return f'{minutes}:{rest:02d}'


def fit(parts: Sequence[Part], width: int) -> list[Part]:
  """The parts that fit, two blanks between them.

  Args:
    parts: in the order of the line.
    width: columns. Rank 0 stays and is cut if need be.
  """
  kept = [part for part in parts if part.text]
  while len('  '.join(part.text for part in kept)) > width:
    last = max(kept, key=lambda part: part.rank)
    if last.rank == 0:
      break
    kept.remove(last)
  room, cut = width, []
  for part in kept:
    if room > 0:
      cut.append(part._replace(text=part.text[:room]))
    room -= len(part.text) + 2
  return cut


class LiveLine:
  """The line; does nothing where nobody watches, and on all processes but 0.

  To be used as a context, which ends with the line taken away. A line inside
  another one's context does nothing either.
  """

  _current: LiveLine | None = None

  def __init__(self) -> None:
    self._lock = threading.RLock()
    self._parts: Sequence[Part] = ()
    self._painted = 0.0
    self._shown = False
    # Whether the last text of somebody else has ended its line.
    self._whole = True
    self._hooked: list[Any] = []
    self.on = False

  def __enter__(self) -> LiveLine:
    if is_live() and jax.process_index() == 0 and not LiveLine._current:
      LiveLine._current, self.on = self, True
      for stream in (sys.stdout, sys.stderr):
        if stream.isatty():
          self._hook(stream)
    return self

  def __exit__(self, *_: Any) -> None:
    if self.on:
      with self._lock:
        self.clear()
        for stream in self._hooked:
          del stream.write  # The class's own is behind it.
        LiveLine._current, self.on = None, False

  def due(self) -> bool:
    """Whether it is time to draw; asks for little, so ask often."""
    return self.on and time.monotonic() - self._painted > _PAINT_SECONDS

  def draw(self, *parts: Part) -> None:
    """Rewrites the line."""
    if self.on:
      with self._lock:
        self._parts = parts
        self._paint()

  def clear(self) -> None:
    """Takes the line away."""
    if self.on:
      with self._lock:
        self._parts = ()
        self._erase()

  def leave(self, *parts: Part) -> None:
    """Draws the line a last time; what follows is written below it."""
    if self.on:
      with self._lock:
        self.draw(*parts)
        self._parts, self._shown = (), False
        self._emit('\n')

  @contextlib.contextmanager
  def ticking(self, stage: str, words: str) -> Iterator[None]:
    """Counts the seconds while the context's work says nothing."""
    if not self.on:
      yield
      return
    start, end = time.monotonic(), threading.Event()

    def tick() -> None:
      while True:
        seconds = clock(time.monotonic() - start)
        self.draw(Part(stage), Part(words, 1), Part(seconds, 2))
        if end.wait(_TICK_SECONDS):
          return

    thread = threading.Thread(target=tick, name='live line', daemon=True)
    thread.start()
    try:
      yield
    finally:
      end.set()
      thread.join()
      self.clear()

  def _hook(self, stream: Any) -> None:
    """Makes a stream write above the line.

    On the object itself: loggers keep the stream that they once saw, so another
    object as `sys.stderr` would not reach them.
    """
    write = stream.write

    def above(text: str) -> int:
      with self._lock:
        self._erase()
        count = write(text)
        self._whole = text.endswith('\n') if text else self._whole
        if self._whole and self._parts:
          stream.flush()
          self._paint()
      return count

    self._write = write  # The last one is that of stderr.
    stream.write = above
    self._hooked.append(stream)

  def _paint(self) -> None:
    self._painted = time.monotonic()
    if not (self._parts and self._whole):
      return
    # One column stays free: some terminals start a new line behind the last.
    parts = fit(self._parts, _columns() - 1)
    colours = has_colours()
    text = '  '.join(
      f'\x1b[{part.colour}m{part.text}\x1b[0m'
      if part.colour and colours
      else part.text
      for part in parts
    )
    self._emit(f'\r{text}\x1b[K')
    self._shown = True

  def _erase(self) -> None:
    if self._shown:
      self._emit('\r\x1b[K')
      self._shown = False

  def _emit(self, text: str) -> None:
    try:
      text.encode(sys.stderr.encoding or 'ascii')
    except UnicodeEncodeError:
      text = text.translate(_PLAIN)
    with contextlib.suppress(OSError):  # The terminal was closed.
      self._write(text)
      sys.stderr.flush()


def end() -> None:
  """Takes the line away for good, where no context comes to its own end."""
  if line := LiveLine._current:
    line.__exit__()


@contextlib.contextmanager
def waiting(stage: str, words: str) -> Iterator[None]:
  """A line that counts the seconds of work whose end nobody knows."""
  with LiveLine() as line, line.ticking(stage, words):
    yield


def _columns() -> int:
  try:
    return os.get_terminal_size(sys.stderr.fileno()).columns or 80
  except (OSError, ValueError):
    return 80
