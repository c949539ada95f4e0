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
from spnas_jax.core.console import say
from spnas_jax.core.errors import Diverged
from spnas_jax.core.parallel import replicate
from spnas_jax.training.checkpoint import Checkpoints
from spnas_jax.training.events import event_writer
from spnas_jax.training.train_state import TrainState

Describe = Callable[[dict[str, float]], str]


def run_steps(
  stage: str,
  workdir: Workdir,
  state: TrainState,
  step_fn: Callable,
  batches_from: Callable[[int], Iterator[dict[str, Any]]],
  *,
  total_steps: int,
  steps_per_epoch: int,
  recipe: Any,
  describe: Describe,
  on_log: Callable[[int, dict[str, np.ndarray]], None] | None = None,
  finish: Callable[[TrainState], TrainState] = lambda state: state,
) -> TrainState:
  """Runs a stage's steps from its newest checkpoint to the end.

  Args:
    stage: its name; files go to the workdir's folder of that name.
    workdir: where to resume from and write to.
    state: fresh state at step 0.
    step_fn: pmapped (state, batch) -> (state, metrics).
    batches_from: step -> batches placed on the devices, starting there.
    total_steps: where to end.
    steps_per_epoch: for the log.
    recipe: config section with `batch_size`, `log_every_steps` and
      `checkpoint_epochs`.
    describe: scalars of a step -> the middle of its log line.
    on_log: called with (step, metrics) after each logged step; metrics may
      hold arrays.
    finish: what the state goes through after the last step; the last
      checkpoint is of its result.

  Returns:
    The final state, on the devices.

  Raises:
    Diverged: the loss or a weight is not finite; names the step and the last
      good checkpoint.
  """
  every = max(1, round(recipe.checkpoint_epochs * steps_per_epoch))
  main_process = jax.process_index() == 0
  with contextlib.ExitStack() as stack:
    checkpoints = stack.enter_context(
      Checkpoints(workdir / stage / 'checkpoints')
    )
    if checkpoints.latest is not None:
      state = checkpoints.restore(state)
      say(f'{stage}: resuming at step {int(state.step)} of {total_steps}')
    else:
      state = replicate(state)
    first = int(state.step)
    write_events = stack.enter_context(
      event_writer(stage, workdir, main_process)
    )
    progress = Progress(
      stage, first, total_steps, steps_per_epoch, recipe.batch_size
    )
    batches = batches_from(first)
    metrics: Any = None
    for step, batch in zip(range(first, total_steps), batches, strict=False):
      before = metrics
      state, metrics = step_fn(state, batch)
      # One step runs, one waits. More of them gain nothing, and on a CPU with
      # more devices than cores some dozens wait for each other's threads: XLA
      # aborts the process after 40 seconds.
      jax.block_until_ready(before)
      done = step + 1
      log = done % recipe.log_every_steps == 0 or done == total_steps
      save = done % every == 0 or done == total_steps
      if log or save:
        values = jax.device_get(metrics)
        _check_finite(stage, done, 'loss', float(values['loss']), checkpoints)
      if log:
        scalars = {k: float(v) for k, v in values.items() if np.ndim(v) == 0}
        scalars['images_per_second'] = progress.images_per_second(done)
        write_events(done, scalars)
        if on_log is not None:
          on_log(done, values)
        if main_process:
          progress.show(done, describe(scalars))
      if done == total_steps:
        state = finish(state)
      if save:
        # The loss is of the weights before the step, what is saved are those
        # behind it.
        extreme = float(_largest(state))
        _check_finite(stage, done, 'largest weight', extreme, checkpoints)
        checkpoints.save(done, state)
    if not total_steps and checkpoints.latest is None:
      checkpoints.save(0, state)  # Weights that were given, untouched.
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


class Progress:
  """Lines on stderr: step, what a stage says of it, speed, time to go."""

  def __init__(self, stage, first, total, steps_per_epoch, batch_size):
    self._stage, self._total = stage, total
    self._steps_per_epoch, self._batch = steps_per_epoch, batch_size
    self._mark = (first, time.monotonic())
    self._rate = 0.0

  def images_per_second(self, step: int) -> float:
    """Since the last call; the first includes compilation."""
    then, clock = self._mark
    now = time.monotonic()
    self._rate = (step - then) / max(now - clock, 1e-9)
    self._mark = (step, now)
    return self._rate * self._batch

  def show(self, step: int, text: str) -> None:
    left = (self._total - step) / max(self._rate, 1e-9)
    minutes, seconds = divmod(round(left), 60)
    line = (
      f'{self._stage}  step {step}/{self._total}'
      f'  epoch {step / self._steps_per_epoch:.1f}  {text}'
      f'  {self._rate * self._batch:.0f} images/s  ETA {minutes}:{seconds:02d}'
    )
    print(line, file=sys.stderr, flush=True)


def take(batches: Iterator[Any], count: int) -> Iterator[Any]:
  """The first `count` batches."""
  return itertools.islice(batches, count)
