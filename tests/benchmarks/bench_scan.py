"""Layers as they stand, scanned, and rematerialised: what each is worth.

  python -m tests.benchmarks.bench_scan [--rounds=11]

The search step of the ImageNet supernet, batch 8 at 224 px, three ways:

  unrolled  every layer a piece of program of its own: what the project does
  scanned   equal layers of a stage (all but its first) share one compiled body,
            a `lax.scan` over their stacked weights
  remat     unrolled, with `search.remat`: a block keeps its input only

Seconds of compilation with an empty cache, temporaries, and steps that take
turns; bench_tpu has what the TPU compiler says of them. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import os
import random
import statistics
import time
from typing import Any

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from ml_collections import ConfigDict

from configs import imagenet_search
from spnas_jax.config.defaults import make_space
from spnas_jax.core.parallel import replicate
from spnas_jax.core.tpu_compiler import Program, lower, read
from spnas_jax.latency.table import LatencyTable
from spnas_jax.models.layers import Frame, MBConv, Style
from spnas_jax.models.supernet import SuperNet, layer_gates, layer_name
from spnas_jax.search.search_setup import (
  create_state,
  make_search,
  resolve_target,
)
from spnas_jax.search.search_step import Search, make_search_step
from spnas_jax.training.run_setup import image_shape

VARIANTS = ('unrolled', 'scanned', 'remat')
BATCH = 8


class ScannedNet(SuperNet):
  """`SuperNet` with one body for all equal layers in a row."""

  @nn.compact
  def __call__(
    self,
    x: Array,
    gates: Array,
    *,
    train: bool = False,
    dropout_mask: Array | None = None,
  ) -> Array:
    space = self.space
    style = Style.of(space.largest, dtype=self.dtype, axis_name=self.axis_name)
    frame = Frame(space.largest, style, name='frame')
    x = frame.stem(x, train)
    for i, block in enumerate(space.first):
      x = MBConv(block, style, name=f'first{i}')(x, train)

    def same(i):
      layer = space.layers[i]
      return layer.block(layer.choices[-1]), layer.skippable

    for (block, _), group in itertools.groupby(
      range(len(space.layers)), key=same
    ):
      rows = list(group)
      own = [layer_gates(space, i, gates, self.placement) for i in rows]
      if len(rows) == 1:
        x = MBConv(block, style, name=layer_name(rows[0]))(x, train, own[0])
        continue
      variables = [
        {
          key: self.variables[key][layer_name(i)]
          for key in ('params', 'batch_stats')
        }
        for i in rows
      ]
      # The superkernels of a group differ in their gates alone.
      transform = own[0].transform
      gates_of = [g._replace(transform=g.transform.keywords) for g in own]

      def body(x, here, block=block, func=transform.func):
        variables, gates = here
        gates = gates._replace(
          transform=functools.partial(func, **gates.transform)
        )
        x, updated = MBConv(block, style, parent=None).apply(
          variables, x, train, gates, mutable=['batch_stats']
        )
        return x, updated['batch_stats']

      stacked = jax.tree.map(
        lambda *leaves: jnp.stack(leaves),
        *zip(variables, gates_of, strict=True),
      )
      x, stats = lax.scan(body, x, stacked)
      for position, i in enumerate(rows):
        self.put_variable(
          'batch_stats',
          layer_name(i),
          jax.tree.map(lambda leaf, p=position: leaf[p], stats),
        )
    for i, block in enumerate(space.last):
      x = MBConv(block, style, name=f'last{i}')(x, train)
    return frame.head(x, train, dropout_mask)


def search_for(config: ConfigDict, variant: str) -> Search:
  """The configured search by one of `VARIANTS`."""
  space, table = make_space(config), LatencyTable.load(config.latency_table)
  target_ms, _, _ = resolve_target(config, space, table)
  config.search.remat = variant == 'remat'
  search = make_search(config, space, table, target_ms)
  if variant != 'scanned':
    return search
  fields = {
    field.name: getattr(search.supernet, field.name)
    for field in dataclasses.fields(search.supernet)
    if field.name not in ('parent', 'name')
  }
  return dataclasses.replace(search, supernet=ScannedNet(**fields))


def program_for(config: ConfigDict, variant: str) -> Program:
  """The step of a variant; its state is the same for all."""
  plain = search_for(config, 'unrolled')
  state = jax.eval_shape(functools.partial(create_state, plain, config))
  step = make_search_step(search_for(config, variant))
  return Program(step, state, image_shape(config), config.search.dtype)


def measure(rounds: int) -> dict[str, Any]:
  """Compiles all variants, then lets them take turns."""
  jax.config.update('jax_enable_compilation_cache', False)
  config = imagenet_search.get_config()
  config.search.dtype = 'float32'
  config.search.batch_size = BATCH
  rng = np.random.default_rng(0)
  shape = (1, BATCH, *image_shape(config))
  batch = {
    'image': rng.normal(size=shape).astype(np.float32),
    'label': rng.integers(1000, size=shape[:2], dtype=np.int32),
  }
  batch = jax.pmap(lambda x: x)(batch)  # Onto the device, once.
  start_state = create_state(search_for(config, 'unrolled'), config)
  result: dict[str, Any] = {}
  turns, times = {}, {}
  for variant in VARIANTS:
    program = program_for(config, variant)
    wall, cpu = time.perf_counter(), time.process_time()
    lowered = lower(program, jax.devices(), BATCH)
    compiled = lowered.compile()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    outcome = read(compiled, wall)
    result[variant] = {
      'compile_s': round(wall, 2),
      'compile_cpu_s': round(cpu, 2),
      'temp_bytes': outcome.temp_bytes,
      'fusions': compiled.as_text().count(' fusion('),
    }
    state = replicate(jax.tree.map(jnp.copy, start_state))
    turns[variant] = _Turn(compiled, state, batch)
    times[variant] = []
    result[variant]['first_loss'] = turns[variant]()
    turns[variant]()
  order, draw = list(VARIANTS), random.Random(0)
  for _ in range(rounds):
    draw.shuffle(order)
    for variant in order:
      start = time.perf_counter()
      turns[variant]()
      times[variant].append(1e3 * (time.perf_counter() - start))
  for variant in VARIANTS:
    result[variant]['step_ms'] = round(statistics.median(times[variant]), 2)
  return result


class _Turn:
  """One step at a time."""

  def __init__(self, compiled, state, batch):
    self._compiled, self._state, self._batch = compiled, state, batch

  def __call__(self) -> float:
    self._state, metrics = self._compiled(self._state, self._batch)
    jax.block_until_ready(self._state)
    return float(metrics['cross_entropy'])


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--rounds', type=int, default=11)
  args = parser.parse_args()
  load = os.getloadavg()[0]
  result: dict[str, Any] = {'batch': BATCH, 'variants': measure(args.rounds)}
  result['load'] = [round(load, 2), round(os.getloadavg()[0], 2)]
  print(json.dumps(result, indent=2))


if __name__ == '__main__':
  main()
