"""The loop around a step: resume, log, save, stop on trouble."""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spnas_jax.config.workdir import Workdir
from spnas_jax.core import peers, preemption
from spnas_jax.core.console import say
from spnas_jax.core.errors import Diverged, Preempted
from spnas_jax.core.parallel import replicate
from spnas_jax.training.checkpoint import Checkpoints
from spnas_jax.training.events import Write, event_writer
from spnas_jax.training.history import History
from spnas_jax.training.schedules import Length
from spnas_jax.training.train_state import TrainState

Describe = Callable[[dict[str, float]], str]


def run_steps(
  stage: str,
  workdir: Workdir,
  state: TrainState,
  step_fn: Callable,
  batches_from: Callable[[int], Iterator[dict[str, Any]]],
  *,
  length: Length,
  recipe: Any,
  describe: Describe,
  history: History | None = None,
  finish: Callable[[TrainState], TrainState] = lambda state: state,
) -> TrainState:
  """Runs a stage's steps from its newest checkpoint to the end.

  Args:
    stage: its name; files go to the workdir's folder of that name.
    workdir: where to resume from and write to.
    state: fresh state at step 0.
    step_fn: pmapped (state, batch) -> (state, metrics).
    batches_from: step -> batches placed on the devices, starting there.
    length: where to end.
    recipe: config section with `batch_size`, `log_every_steps`,
      `checkpoint_epochs` and `skip_damaged_checkpoint`.
    describe: scalars of a step -> the middle of its log line.
    history: what was logged so far, where the caller wants to read it.
    finish: what the state goes through after the last step; the last
      checkpoint is of its result.

  Returns:
    The final state, on the devices.

  Raises:
    Diverged: the loss or a weight is not finite; names the step and the last
      good checkpoint.
    Preempted: the process was asked to stop; the last step is saved.
  """
  every = max(1, length.steps(recipe.checkpoint_epochs))
  total = length.total
  with contextlib.ExitStack() as stack:
    stack.enter_context(preemption.loop())
    folder = workdir / stage
    checkpoints = stack.enter_context(Checkpoints(folder / 'checkpoints'))
    state = _restored(stage, state, checkpoints, total, recipe)
    first = int(state.step)
    write_events = stack.enter_context(
      event_writer(stage, workdir, jax.process_index() == 0)
    )
    log = Log(
      stage,
      first,
      length,
      recipe.batch_size,
      describe,
      history or History(workdir, stage),
      write_events,
    )
    metrics: Any = None
    batches = batches_from(first)
    for step, batch in zip(range(first, total), batches, strict=False):
      before = metrics
      state, metrics = step_fn(state, batch)
      # One step runs, one waits. More of them gain nothing, and on a CPU with
      # more devices than cores dozens wait for each other's threads: XLA
      # aborts the process after 40 seconds.
      jax.block_until_ready(before)
      done = step + 1
      peers.at(stage, step, total)
      logs = done % recipe.log_every_steps == 0 or done == total
      stops = preemption.reached(done)
      saves = stops or done % every == 0 or done == total
      if logs or saves:
        values = jax.device_get(metrics)
        _check_finite(stage, done, 'loss', float(values['loss']), checkpoints)
      if logs:
        log.write(done, values)
      if done == total:
        state = finish(state)
      if saves:
        # The loss is of the weights before the step; saved are those after it.
        extreme = float(_largest(state))
        _check_finite(stage, done, 'largest weight', extreme, checkpoints)
        checkpoints.save(done, state)
      if stops and done < total:
        checkpoints.wait()
        raise Preempted(
          f'{stage}: stopped by SIGTERM after step {done} of {total}, which is '
          'saved; the same command continues from there'
        )
    if not total and checkpoints.latest is None:
      checkpoints.save(0, state)  # Weights that were given, untouched.
  return state


def _restored(
  stage: str,
  state: TrainState,
  checkpoints: Checkpoints,
  total: int,
  recipe: Any,
) -> TrainState:
  """The newest checkpoint, or the fresh state, on the devices."""
  if checkpoints.latest is None:
    return replicate(state)
  if recipe.skip_damaged_checkpoint:
    state = checkpoints.restore_sound(state)
  else:
    section = 'search' if 'target_ms' in recipe else 'train'
    state = checkpoints.restore(state, f'{section}.skip_damaged_checkpoint')
  say(f'{stage}: resuming at step {int(state.step)} of {total}')
  return state


@jax.jit
def _largest(tree: Any) -> jax.Array:
  """Largest absolute number of a tree; not finite if one of them is not."""
  return jnp.stack(
    [
      jnp.abs(x).max().astype(jnp.float32)
      for x in jax.tree.leaves(tree)
      if x.size
    ]
  ).max()


def _check_finite(stage, step, name, value, checkpoints) -> None:
  if math.isfinite(value):
    return
  checkpoints.wait()
  last = checkpoints.latest
  kept = 'there is none yet' if last is None else f'the last is of step {last}'
  raise Diverged(
    f'{stage}: the {name} is {value} at step {step}; stopped. Checkpoints are '
    f'good ({kept}). Try a smaller learning_rate with another --workdir.'
  )


class Log:
  """Where a logged step goes: a line on stderr, history.npz, event files.

  A line says step, what a stage says of it, speed and time to go.
  """

  def __init__(
    self,
    stage: str,
    first: int,
    length: Length,
    batch_size: int,
    describe: Describe,
    history: History,
    write_events: Write,
  ):
    self._stage, self._length, self._batch = stage, length, batch_size
    self._describe, self._history = describe, history
    self._write_events = write_events
    self._mark, self._rate = (first, time.monotonic()), 0.0

  def write(self, step: int, metrics: dict[str, np.ndarray]) -> None:
    """Notes the metrics of a step; those that are not scalars in history.npz
    only."""
    rate = self._images_per_second(step)
    scalars = {k: float(v) for k, v in metrics.items() if np.ndim(v) == 0}
    self._write_events(step, {**scalars, 'images_per_second': rate})
    self._history.add(step, metrics)
    if jax.process_index() == 0:
      line = self._line(step, self._describe(scalars))
      print(line, file=sys.stderr, flush=True)

  def _images_per_second(self, step: int) -> float:
    """Since the last call; the first includes compilation."""
    then, clock = self._mark
    now = time.monotonic()
    self._rate = (step - then) / max(now - clock, 1e-9)
    self._mark = (step, now)
    return self._rate * self._batch

  def _line(self, step: int, text: str) -> str:
    left = (self._length.total - step) / max(self._rate, 1e-9)
    minutes, seconds = divmod(round(left), 60)
    return (
      f'{self._stage}  step {step}/{self._length.total}'
      f'  epoch {step / self._length.steps_per_epoch:.1f}  {text}'
      f'  {self._rate * self._batch:.0f} images/s  ETA {minutes}:{seconds:02d}'
    )


def take(batches: Iterator[Any], count: int) -> Iterator[Any]:
  """The first `count` batches."""
  return itertools.islice(batches, count)
