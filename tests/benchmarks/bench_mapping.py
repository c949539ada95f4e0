"""Milliseconds of a search step under `pmap` and under `jit` of `shard_map`.

  python -m tests.benchmarks.bench_mapping [--devices=4] [--rounds=21]

The search step of configs/digits.py, small enough for what is spent around it
to be seen, on `--devices` CPU devices. The two take turns, `--steps` steps
each, in an order drawn for every round; each goes on from its own state. Prints
one JSON object: medians, the ratio of every round, whether the last states are
equal to the bit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import time
from typing import Any

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import numpy as np

from configs import digits
from spnas_jax.core import parallel
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.search.search_setup import create_state, make_search
from spnas_jax.search.search_step import make_search_step
from spnas_jax.training.run_setup import device_batches

MAPPINGS = ('pmap', 'shard_map')


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--devices', type=int, default=4)
  parser.add_argument('--rounds', type=int, default=21)
  parser.add_argument('--steps', type=int, default=20, help='in a turn')
  args = parser.parse_args()
  jax.config.update('jax_num_cpu_devices', args.devices)
  config = digits.get_config()
  search = make_search(config, SearchProblem.of(config))
  batches = list(
    itertools.islice(device_batches(config, config.search, 0, 0), args.steps)
  )
  steps, states = {}, {}
  for name in MAPPINGS:
    parallel.use(name)
    steps[name] = parallel.mapped_step(make_search_step(search))
    states[name] = parallel.replicate(create_state(search, config))
    # Compiles it.
    states[name], _ = steps[name](states[name], batches[0])
    jax.block_until_ready(states[name])
  load = os.getloadavg()[0]
  times: dict[str, list[float]] = {name: [] for name in MAPPINGS}
  order, rng = list(MAPPINGS), random.Random(0)
  for _ in range(args.rounds):
    rng.shuffle(order)
    for name in order:
      start = time.perf_counter()
      for batch in batches:
        states[name], metrics = steps[name](states[name], batch)
        # One step at a time, as in `loop.py`: no queue of programs.
        jax.block_until_ready(metrics)
      times[name].append((time.perf_counter() - start) * 1e3 / args.steps)
  ratios = [b / a for a, b in zip(*times.values(), strict=True)]
  result: dict[str, Any] = {
    'step_ms': {k: round(statistics.median(v), 3) for k, v in times.items()},
    'shard_map_over_pmap': round(statistics.median(ratios), 4),
    'all_ratios': [round(ratio, 3) for ratio in ratios],
    'same_bits': all(
      np.array_equal(*pair)
      for pair in zip(
        *map(jax.tree.leaves, jax.device_get(tuple(states.values()))),
        strict=True,
      )
    ),
    'devices': args.devices,
    'batch_size': config.search.batch_size,
    'cores': len(os.sched_getaffinity(0)),
    'jax': jax.__version__,
    'load': [round(load, 2), round(os.getloadavg()[0], 2)],
  }
  print(json.dumps(result, indent=2))


if __name__ == '__main__':
  main()
