"""The loop around a step: resume, log, save, stop on trouble."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from spnas_jax.config.workdir import Workdir
from spnas_jax.core import peers, preemption
from spnas_jax.core.console import say
from spnas_jax.core.errors import Diverged, Preempted
from spnas_jax.core.live_line import LiveLine
from spnas_jax.core.parallel import replicate
from spnas_jax.training.checkpoint import Checkpoints
from spnas_jax.training.events import event_writer
from spnas_jax.training.history import History
from spnas_jax.training.log import Describe, Draw, Log
from spnas_jax.training.schedules import Length
from spnas_jax.training.trace import Trace
from spnas_jax.training.train_state import TrainState

# What a terminal shows before the first step is there.
PREPARING = 'preparing weights and data'


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
  draw: Draw | None = None,
  finish: Callable[[TrainState], TrainState] = lambda state: state,
) -> TrainState:
  """Runs a stage's steps from its newest checkpoint to the end.

  Args:
    stage: its name; files go to the workdir's folder of that name.
    workdir: where to resume from and write to.
    state: fresh state at step 0.
    step_fn: mapped (state, batch) -> (state, metrics).
    batches_from: step -> batches placed on the devices, starting there.
    length: where to end.
    recipe: config section with `batch_size`, `log_every_steps`, `trace_step`,
      `trace_steps`, `checkpoint_epochs` and `skip_damaged_checkpoint`.
    describe: scalars of a step -> the middle of its log line.
    history: what was logged so far, where the caller wants to read it.
    draw: (state, metrics) -> histograms and images for the event files, asked
      for at a few of the logged steps; the state is on the devices, the metrics
      are not.
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
    line = stack.enter_context(LiveLine())
    preparing = stack.enter_context(contextlib.ExitStack())
    preparing.enter_context(line.ticking(stage, PREPARING))
    folder = workdir / stage
    checkpoints = stack.enter_context(Checkpoints(folder / 'checkpoints'))
    state = _restored(stage, state, checkpoints, total, recipe)
    first = int(state.step)
    events = stack.enter_context(event_writer(stage, workdir))
    trace = stack.enter_context(Trace(stage, workdir, recipe))
    log = Log(
      stage,
      workdir,
      first,
      length,
      recipe,
      describe,
      history or History(workdir, stage),
      events,
      line,
    )
    run = _timed(step_fn, log, stack.enter_context(_compilations()))
    metrics: Any = None
    batches = batches_from(first)
    for step, batch in zip(range(first, total), batches, strict=False):
      preparing.close()
      before, done = metrics, step + 1
      trace.before(done, before)
      with jax.profiler.StepTraceAnnotation(stage, step_num=done):
        state, metrics = run(state, batch)
      # One step runs, one waits. More of them gain nothing, and on a CPU with
      # more devices than cores dozens wait for each other's threads: XLA
      # aborts the process after 40 seconds.
      jax.block_until_ready(before)
      trace.after(done, metrics)
      peers.at(stage, step, total)
      if before is not None:
        log.show(step, before)
      logs = done % recipe.log_every_steps == 0 or done == total
      stops = preemption.reached(done)
      saves = stops or done % every == 0 or done == total
      if logs or saves:
        values = jax.device_get(metrics)
        _check_finite(stage, done, 'loss', float(values['loss']), checkpoints)
      if logs:
        log.write(done, values)
      if logs and draw is not None and log.draws(done):
        events.draw(done, functools.partial(draw, state, values))
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
    if metrics is not None:
      log.end(total, metrics)
    if not total and checkpoints.latest is None:
      checkpoints.save(0, state)  # Weights that were given, untouched.
  return state


def _timed(
  step_fn: Callable, log: Log, compilations: Callable[[], int]
) -> Callable:
  """The step; the log learns what of its time was compilation.

  The first call compiles. A later one does where steps of two kinds take turns.
  """
  first = True

  def run(state: TrainState, batch: dict[str, Any]):
    nonlocal first
    if first:
      first = False
      with log.first_step() as called:
        result = step_fn(state, batch)
        called()
        jax.block_until_ready(result[1])
      return result
    start, count = time.monotonic(), compilations()
    result = step_fn(state, batch)
    if compilations() > count:
      log.skip(time.monotonic() - start)
    return result

  return run


@contextlib.contextmanager
def _compilations() -> Iterator[Callable[[], int]]:
  """The context gives how often XLA has compiled or loaded a program in it."""
  count = 0

  def listen(event: str, duration_secs: float, **_: Any) -> None:
    nonlocal count
    del duration_secs
    count += event == '/jax/core/compile/backend_compile_duration'

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield lambda: count
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


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


def take(batches: Iterator[Any], count: int) -> Iterator[Any]:
  """The first `count` batches."""
  return itertools.islice(batches, count)
