"""Seconds from a search step in Python to its program, cold and from the cache.

  python -m tests.benchmarks.bench_compile [--case=imagenet_224]

Each figure is of a fresh process: first with an empty compilation cache, then
with the one that the first left. Wall and CPU seconds of tracing, lowering and
compiling; imports and initialisation are not counted. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from tests.benchmarks.bench_step import CPU_CASES


def child(case: str) -> dict[str, float]:
  """Compiles in this process."""
  import jax

  from spnas_jax import startup
  from spnas_jax.core.tpu_compiler import lower
  from spnas_jax.search.contestants import make_contestant, programs
  from spnas_jax.search.search_problem import SearchProblem

  startup.prepare_jax()
  module, size, batch, *_ = CPU_CASES[case]
  config = importlib.import_module(f'configs.{module}').get_config()
  config.search.dtype = 'float32'
  problem = SearchProblem.of(config)
  config.dataset.image_size = size or config.dataset.image_size
  config.search.batch_size = batch or config.search.batch_size
  (program,) = programs(make_contestant(config, problem, 'single_path'), config)
  wall, cpu = time.perf_counter(), time.process_time()
  lowered = lower(program, jax.devices(), config.search.batch_size)
  middle = time.perf_counter()
  lowered.compile()
  end = time.perf_counter()
  return {
    'trace_and_lower_s': round(middle - wall, 2),
    'compile_s': round(end - middle, 2),
    'total_s': round(end - wall, 2),
    'total_cpu_s': round(time.process_time() - cpu, 2),
  }


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--case', choices=CPU_CASES, default='imagenet_224')
  parser.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.child:
    print(json.dumps(child(args.case)))
    return
  result: dict[str, object] = {'case': args.case}
  with tempfile.TemporaryDirectory() as cache:
    for name in ('cold', 'cached'):
      done = subprocess.run(
        [
          *(sys.executable, '-m', 'tests.benchmarks.bench_compile', '--child'),
          f'--case={args.case}',
        ],
        env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': cache},
        capture_output=True,
        text=True,
        check=True,
      )
      result[name] = json.loads(done.stdout.splitlines()[-1])
  result['cores'] = len(os.sched_getaffinity(0))
  result['load_average_1min'] = round(os.getloadavg()[0], 2)
  print(json.dumps(result, indent=2))


if __name__ == '__main__':
  main()
