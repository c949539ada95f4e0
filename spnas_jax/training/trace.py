"""A profiler trace of a few steps, for TensorBoard's profile plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.console import say


class Trace:
  """Traces the steps of one stretch of a run, on process 0.

  Files go to `STAGE/events/plugins/profile`. Like event files a trace is nice
  to have: what goes wrong with it is one line. (clu's Profile would print a
  traceback, and leave the profiler running where the run ends in a trace.)

  Args:
    stage: its name and folder.
    workdir: where the folder is.
    recipe: config section with `trace_step`, the first step of the trace (0 =
      none), and `trace_steps`, how many.
  """

  def __init__(self, stage: str, workdir: Workdir, recipe: Any):
    self._stage = stage
    self._folder = str(workdir / stage / 'events')
    wanted = recipe.trace_step and jax.process_index() == 0
    self._first = recipe.trace_step if wanted else 0
    self._last = self._first + recipe.trace_steps - 1
    self._runs = False

  def __enter__(self) -> Trace:
    return self

  def __exit__(self, *_: Any) -> None:
    self._stop()

  def before(self, step: int, running: Any) -> None:
    """Starts before the first step of the trace.

    Args:
      step: that comes, from 1.
      running: what earlier steps give; they are no part of the trace.
    """
    if self._first and step == self._first:
      jax.block_until_ready(running)
      self._runs = self._attempt(lambda: jax.profiler.start_trace(self._folder))

  def after(self, step: int, running: Any) -> None:
    """Ends behind its last step; `running` is what the step gives."""
    if self._runs and step == self._last:
      jax.block_until_ready(running)
      self._stop()

  def _stop(self) -> None:
    if self._runs:
      self._runs = False
      if self._attempt(jax.profiler.stop_trace):
        say(f'{self._stage}: the trace is in {self._folder}/plugins/profile')

  def _attempt(self, call: Callable[[], Any]) -> bool:
    try:
      call()
    except Exception as e:
      why = ' '.join(str(e).split()) or type(e).__name__
      say(f'{self._stage}: continues without a trace: {why}')
      return False
    return True
