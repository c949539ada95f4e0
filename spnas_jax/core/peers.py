"""The other processes of a run: noticing that one of them has ended.

A collective waits for all processes, so whoever is left would wait for ever, or
until JAX's own heartbeats abort it with pages of C++. Here every process counts
in the key-value store of JAX's coordination service, and a thread of each looks
at the counts of the others. If one stands still, or says that it failed, this
process ends with one line and exit code 75 (EX_TEMPFAIL of sysexits.h: nothing
is wrong with the command, start it again). Process 0 holds that store: without
it JAX aborts the others at once (exit code 134), and `last_words.py` says the
line.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pathlib
import subprocess
import sys
import threading
import time
from typing import Any

import jax

from spnas_jax.core import live_line

EXIT_CODE = 75
# Seconds between two counts, and those after which a process counts as gone.
BEAT_SECONDS = 2.0
LOST_SECONDS = 30.0
# Seconds in which this process may still find out by itself what another says
# it failed of: a diverged loss, a wrong value.
GRACE_SECONDS = 10.0
_FOLDER = 'spnas_jax/alive/'
_DONE, _FAILED = 'done', 'failed'

_where: tuple[str, int, int] | None = None
_watch: _Watch | None = None


def watch() -> None:
  """Starts counting and looking; once, when the processes have been joined."""
  global _watch
  if _watch is None and jax.process_count() > 1:
    from jax._src import distributed

    _watch = _Watch(distributed.global_state.client)


def at(stage: str, step: int, total: int) -> None:
  """Notes how far this process is."""
  global _where
  _where = stage, step, total
  if _watch is not None:
    _watch.note(f'{stage} {step:,} {total:,}')


def failed(error: BaseException) -> None:
  """Tells the others that this process ends, unless another has ended first.

  What a dead process does to a collective (a closed connection, a timeout) is
  an error of this one too: it waits for the look that tells them apart.
  """
  if _watch is not None:
    if isinstance(error, jax.errors.JaxRuntimeError):
      time.sleep(LOST_SECONDS + 3 * BEAT_SECONDS)  # `_Watch` ends the process.
    text = ' '.join(str(error).split()) or type(error).__name__
    _watch.say(f'{_FAILED} {text[:300]}')


class _Watch:
  """Counts and looks, in a thread that ends with the process."""

  def __init__(self, client: Any):
    self._client = client
    self._own = str(jax.process_index())
    self._count = jax.process_count()
    self._said = False
    self._beside = subprocess.Popen(
      [
        *(sys.executable, '-I', '-S'),
        str(pathlib.Path(__file__).with_name('last_words.py')),
        f'{self._own} of {self._count}',
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
    )
    thread = threading.Thread(target=self._look, name='peers', daemon=True)
    thread.start()
    # Before JAX's own goodbye, which waits for all processes.
    atexit.register(self.say, _DONE)

  def note(self, line: str) -> None:
    """For `last_words.py`."""
    if self._beside.stdin is not None:
      with contextlib.suppress(OSError):  # It was killed: it cannot speak.
        self._beside.stdin.write(f'{line}\n'.encode())
        self._beside.stdin.flush()

  def say(self, word: str) -> None:
    """The last word of this process."""
    if not self._said:
      self._said = True
      self._set(word)
      self.note(_DONE)

  def _set(self, value: str) -> bool:
    try:
      self._client.key_value_set(_FOLDER + self._own, value, True)
      return True
    except Exception:  # Whatever the client raises once process 0 is gone.
      return False

  def _look(self) -> None:
    seen: dict[str, tuple[str, float]] = {}
    reached = time.monotonic()
    beat = 0
    while not self._said:
      now = time.monotonic()
      beat += 1
      if self._set(str(beat)):
        reached = now
      elif now - reached > LOST_SECONDS:
        self._end('0', f'no answer from it for {now - reached:.0f} s')
      for process, value in self._values().items():
        if seen.get(process, ('',))[0] != value or value == _DONE:
          seen[process] = (value, now)
        silent = now - seen[process][1]
        if value.startswith(_FAILED) and silent > GRACE_SECONDS:
          self._end(process, value.removeprefix(_FAILED).strip())
        # What was just not reached says nothing of the others.
        elif silent > LOST_SECONDS and reached == now:
          self._end(process, f'no sign of it for {silent:.0f} s')
      time.sleep(BEAT_SECONDS)

  def _values(self) -> dict[str, str]:
    """Number of process -> what it said last."""
    try:
      pairs = self._client.key_value_dir_get(_FOLDER)
    except Exception:  # As above.
      return {}
    values = {key.rpartition('/')[2]: value for key, value in pairs}
    return {key: value for key, value in values.items() if key != self._own}

  def _end(self, process: str, reason: str) -> None:
    if self._said:
      return
    self._said = True
    self._set(f'{_FAILED} process {process} has ended ({reason})')
    self.note(_DONE)
    where = 'before its first step'
    if _where:
      stage, step, total = _where
      where = f'in {stage} after step {step:,} of {total:,}'
    live_line.end()
    print(
      f'error: process {process} of {self._count} has ended ({reason}); this '
      f'one stops too, {where}. The same command, started again on all of '
      'them, continues from the last checkpoint',
      file=sys.stderr,
      flush=True,
    )
    os._exit(EXIT_CODE)
