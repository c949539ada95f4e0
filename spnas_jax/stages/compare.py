"""Stage `compare`: what one path costs, against one path per candidate.

Single-Path NAS and three multi-path searches (`multipath`) over the same space,
batch and recipe: trainable parameters, memory, time of a step, and, where
`compare.epochs` says so, what each finds.

A step is one update of the weights. A multi-path step is that and an update of
the path logits on a second batch, as its search alternates; `step_seconds` is
for both, `images_per_second` counts the images of both. Times are for synthetic
images: they include no input pipeline.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spnas_jax.config.spaces import dataset_facts
from spnas_jax.config.workdir import Workdir, stage_inputs
from spnas_jax.core.errors import UserError
from spnas_jax.core.parallel import AXIS, mapped_step, replicate
from spnas_jax.core.tpu_compiler import (
  GIB,
  describe,
  find_largest_batch,
  lower,
  read,
  tpu_devices,
  try_batch,
)
from spnas_jax.data.input_pipeline import prefetch_to_devices
from spnas_jax.latency.devices import load_average
from spnas_jax.search.contestants import (
  Contestant,
  make_contestant,
  num_trainable,
  programs,
)
from spnas_jax.search.search_problem import SearchProblem, load_table
from spnas_jax.stages.frame import Task, stage
from spnas_jax.training.history import History
from spnas_jax.training.loop import run_steps
from spnas_jax.training.run_setup import (
  check_recipe,
  device_batches,
  image_shape,
  length_of,
)


def prepare(config: ConfigDict, workdir: Workdir) -> Task:
  """Prices the configured methods, and searches with them where asked to.

  Raises:
    UserError: space, table, data or batch cannot be used, or there is more
      than one process.
  """
  if jax.process_count() > 1:
    raise UserError(
      f'--stage=compare runs in one process, not in {jax.process_count()}'
    )
  check_recipe(config, workdir, 'search')
  inputs = stage_inputs(
    config,
    'seed',
    'dataset',
    'space',
    'search',
    'compare',
    table=load_table(config).fingerprint(),
  )
  # A search by evolution has no thresholds to train; all here are by gradient.
  config = config.copy_and_resolve_references()
  config.search.method = 'gradient'
  # The other methods' losses count every image the same.
  config.search.class_balance = ''
  problem = SearchProblem.of(config)
  return Task(
    inputs,
    lambda: _compare(config, workdir, problem),
    lambda result: [_line(method, result) for method in config.compare.methods],
  )


run = stage('compare', prepare)


def _compare(
  config: ConfigDict, workdir: Workdir, problem: SearchProblem
) -> dict[str, Any]:
  c = config.compare
  contestants = [make_contestant(config, problem, m) for m in c.methods]
  result: dict[str, Any] = {
    each.method: {'params': num_trainable(each)} for each in contestants
  }
  if c.topology:
    for each in contestants:
      result[each.method] |= price_on_tpu(each, config)
  if c.rounds or not c.topology:
    for method, row in price_here(contestants, config).items():
      result[method] = {**row, **result[method]}
  if c.epochs:
    for method in c.methods:
      result[method] |= search_once(config, workdir, problem, method)
  return result


# --- what they cost -----------------------------------------------------------


def price_on_tpu(contestant: Contestant, config: ConfigDict) -> dict[str, Any]:
  """Memory and estimated step time on `compare.topology`.

  Returns:
    'temp_bytes' and 'peak_bytes' of a device (None = too large), 'fits',
    'estimated_step_seconds', 'num_all_reduces', and, where asked for, the
    largest batch.
  """
  c = config.compare
  devices = tpu_devices(c.topology, 'compare.topology')
  batch = config.search.batch_size
  if batch % len(devices):
    raise UserError(
      f'search.batch_size is {batch}, must be a multiple of the '
      f'{len(devices)} devices of {c.topology!r}'
    )
  share = batch // len(devices)
  own = programs(contestant, config)
  kind = devices[0].device_kind
  rows = [describe(try_batch(p, devices, share), kind) for p in own]

  def joined(key: str, join: Callable) -> Any:
    values = [row[key] for row in rows]
    return None if None in values else join(values)

  result = {
    'topology': c.topology,
    'fits': all(row['fits'] for row in rows),
    'temp_bytes': joined('temp_bytes_per_device', max),
    'peak_bytes': joined('peak_bytes_per_device', max),
    'num_all_reduces': joined('num_all_reduces', sum),
    'estimated_step_seconds': joined('estimated_step_seconds', sum),
  }
  if c.find_largest_batch:
    result |= find_largest_batch(own, devices, share)
  return result


def price_here(
  contestants: list[Contestant], config: ConfigDict
) -> dict[str, dict[str, Any]]:
  """Memory and, in interleaved rounds, step times on the devices at hand.

  Returns:
    method -> {'temp_bytes', 'peak_bytes' (of a device), 'compile_seconds', and
    where there are rounds 'step_seconds' (median), 'step_seconds_all',
    'images_per_second', 'load_average' (of the minute before the first and
    after the last round)}.
  """
  c = config.compare
  devices = jax.devices()
  batch = config.search.batch_size
  runners: dict[str, Callable[[], float]] = {}
  result: dict[str, dict[str, Any]] = {}
  for contestant in contestants:
    start = time.monotonic()
    compiled = [
      lower(program, devices, batch // len(devices)).compile()
      for program in programs(contestant, config)
    ]
    facts = [read(each, 0.0) for each in compiled]
    result[contestant.method] = {
      'temp_bytes': max(f.temp_bytes for f in facts),
      'peak_bytes': max(f.peak_bytes for f in facts),
      'compile_seconds': round(time.monotonic() - start, 3),
    }
    runners[contestant.method] = _runner(contestant, compiled, config)
  if not c.rounds:
    return result
  for _ in range(c.warmup_steps):
    for step in runners.values():
      step()
  load = load_average()
  times: dict[str, list[float]] = {method: [] for method in runners}
  for _ in range(c.rounds):
    for method, step in runners.items():
      times[method].append(step())
  loads = [load, load_average()]
  for contestant in contestants:
    own = times[contestant.method]
    median = statistics.median(own)
    result[contestant.method] |= {
      'step_seconds': median,
      'step_seconds_all': own,
      'images_per_second': batch * len(contestant.steps) / median,
      'load_average': loads,
    }
  return result


def _runner(contestant: Contestant, compiled, config) -> Callable[[], float]:
  """() -> seconds of one step of the method."""
  rng = np.random.default_rng(config.seed)
  count = config.search.batch_size
  image = rng.normal(size=(count, *image_shape(config)))
  batch = next(
    prefetch_to_devices(
      [
        {
          'image': image.astype(jnp.dtype(config.search.dtype)),
          'label': rng.integers(
            dataset_facts(config).num_classes, size=count, dtype=np.int32
          ),
        }
      ],
      axis_name=AXIS,
    )
  )
  state = replicate(contestant.create())

  def step() -> float:
    nonlocal state
    start = time.perf_counter()
    for one in compiled:
      state, _ = one(state, batch)
    jax.block_until_ready(state)
    return time.perf_counter() - start

  return step


# --- what they find -----------------------------------------------------------


def search_once(
  config: ConfigDict, workdir: Workdir, problem: SearchProblem, method: str
) -> dict[str, Any]:
  """A whole search of `compare.epochs`; one that is there is read, not redone.

  The warm-up keeps its share of the epochs.

  Returns:
    {'architecture', 'predicted_ms', 'cost_epochs', 'search_steps',
    'search_seconds', 'final_cross_entropy'}.
  """
  name = f'compare/{method}'
  path = workdir / name / 'found.json'
  if path.exists():
    return json.loads(path.read_text())
  config = config.copy_and_resolve_references()
  recipe = config.search
  recipe.warmup_epochs *= config.compare.epochs / max(recipe.epochs, 1e-9)
  recipe.epochs = config.compare.epochs
  contestant = make_contestant(config, problem, method)
  start, history = time.monotonic(), History(workdir, name)
  state = run_steps(
    name,
    workdir,
    contestant.create(),
    alternate(
      [mapped_step(step) for step in contestant.steps],
      contestant.phases.warm_up,
    ),
    lambda first: device_batches(config, recipe, config.seed, first),
    length=length_of(config, 'search')._replace(total=contestant.phases.total),
    recipe=recipe,
    describe=lambda m: (
      f'CE {m["cross_entropy"]:.3f}  R {_ms(m):.4g} ms  λ {m["lambda"]:.3g}'
    ),
    history=history,
    draw=contestant.draw,
  )
  arch = problem.space.architecture_of(contestant.choices(state))
  row = {
    'architecture': arch.to_string(),
    'predicted_ms': problem.table.predict(arch),
    'cost_epochs': recipe.epochs,
    'search_steps': contestant.phases.total,
    'search_seconds': round(time.monotonic() - start, 3),
    'final_cross_entropy': float(history.arrays()['cross_entropy'][-1]),
  }
  workdir.write(f'{name}/found.json', json.dumps(row, indent=1))
  return row


def alternate(steps: list[Callable], warm_up: int) -> Callable:
  """One step function: the first of `steps` in warm-up, then all in turn.

  Which one is due follows from the state's step, so a resumed search continues
  where it was.
  """
  due: int | None = None

  def step(state: Any, batch: dict[str, jax.Array]):
    nonlocal due
    if due is None:
      due = int(state.step)
    turn = max(0, due - warm_up) % len(steps)
    due += 1
    return steps[turn](state, batch)

  return step


def _ms(metrics: dict[str, float]) -> float:
  """Expected runtime: undropped in a single-path warm-up."""
  return metrics.get('undropped_ms', metrics['runtime_ms'])


def _line(method: str, result: dict[str, Any]) -> str:
  """What a method cost, as factors of the single path where there is one."""
  row, single = result[method], result.get('single_path', {})

  def times(key: str) -> str:
    if method == 'single_path' or not row.get(key) or not single.get(key):
      return ''
    return f' ({row[key] / single[key]:.2f}x)'

  parts = [f'{row["params"] / 1e6:.2f} M parameters{times("params")}']
  memory = row.get('temp_bytes')
  parts.append(
    'does not fit'
    if memory is None
    else f'{memory / GIB:.3g} GiB of temporaries{times("temp_bytes")}'
  )
  for key, text in (
    ('estimated_step_seconds', 's a step (estimated)'),
    ('step_seconds', 's a step'),
    ('images_per_second', 'images/s'),
    ('largest_batch_per_device', 'images a device at most'),
    ('predicted_ms', 'ms found'),
  ):
    if row.get(key) is not None:
      parts.append(f'{row[key]:.4g} {text}{times(key)}')
  return f'{method}: {", ".join(parts)}'
