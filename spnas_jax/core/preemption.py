"""SIGTERM: what a cloud sends before it takes the machine away.

Inside a training loop the signal is noted, the loop saves a checkpoint after
the step that runs and ends; elsewhere it ends the stage at once, as Ctrl-C
does. With several processes JAX's coordination service makes all of them stop
after the same step, whichever of them got the signal.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

from spnas_jax.core.errors import Preempted

_noted = False
_in_loop = False


def watch() -> None:
  """Takes the signal from now on; for a program's start, in its main thread."""
  if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGTERM, _take)


def _take(number: int, frame: Any) -> None:
  global _noted
  del number, frame
  if not _in_loop:
    raise Preempted('stopped by SIGTERM; the same command continues from here')
  _noted = True


@contextlib.contextmanager
def loop() -> Iterator[None]:
  """A loop that asks `reached` after each step."""
  global _in_loop, _noted
  _in_loop, _noted = True, False
  try:
    yield
  finally:
    _in_loop = _noted = False


def reached(step: int) -> bool:
  """Whether all processes are to stop after this step."""
  if jax.process_count() > 1:
    # Its own handler replaces ours when JAX's processes are joined.
    return bool(multihost_utils.reached_preemption_sync_point(step))
  return _noted
