"""Milliseconds of a training step with its input pipeline, and without.

  python -m tests.benchmarks.bench_pipeline [--rounds=7] [--steps=30]

The search step of configs/fashion_mnist.py, taking turns within every round:
batches from the real input pipeline (decoded, augmented, prefetched), and one
batch that already lies on the device. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from typing import Any

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax

from spnas_jax import startup
from spnas_jax.core.parallel import mapped_step, replicate
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.search.search_setup import create_state, make_search
from spnas_jax.search.search_step import make_search_step
from spnas_jax.training.run_setup import device_batches


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--steps', type=int, default=30, help='in a round')
  args = parser.parse_args()
  from configs import fashion_mnist

  config = fashion_mnist.get_config()
  startup.prepare_jax()
  search = make_search(config, SearchProblem.of(config))
  step = mapped_step(make_search_step(search))
  state: Any = replicate(create_state(search, config))
  real = device_batches(config, config.search, 0, 0)
  one = next(real)
  sources = {'pipeline': real, 'on_device': itertools.repeat(one)}
  times: dict[str, list[float]] = {name: [] for name in sources}
  for round_ in range(args.rounds + 1):
    for name, source in sources.items():
      start = time.perf_counter()
      for batch in itertools.islice(source, args.steps):
        state, _ = step(state, batch)
      jax.block_until_ready(state)
      if round_:  # The first compiles and fills buffers.
        seconds = time.perf_counter() - start
        times[name].append(seconds / args.steps * 1e3)
  median = {name: statistics.median(own) for name, own in times.items()}
  ratios = [a / b for a, b in zip(*times.values(), strict=True)]
  result = {
    'step_ms': {name: round(ms, 2) for name, ms in median.items()},
    'pipeline_over_on_device': round(statistics.median(ratios), 3),
    'all_ratios': [round(r, 3) for r in ratios],
    'batch_size': config.search.batch_size,
    'cores': len(os.sched_getaffinity(0)),
    'load_average_1min': round(os.getloadavg()[0], 2),
  }
  print(json.dumps(result, indent=2))


if __name__ == '__main__':
  main()
