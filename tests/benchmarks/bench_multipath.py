"""Parameters, memory and step time of one path against one per candidate.

  python -m tests.benchmarks.bench_multipath [--image_size=64] [--batch=16]
    [--rounds=5] [--methods=single_path,fbnet,darts,proxyless]

The paper's ImageNet space (20 layers of 4 candidates, skips) on the devices at
hand, in float32, methods taking turns within every round. A multi-path step is
one of the weights and one of the path logits, on two batches. At 224 px on two
CPU cores a multi-path step of 16 images takes minutes to compile.

Prints one JSON object: for every method the figures of stage `compare` and what
they are as factors of the single path's.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from spnas_jax import startup
from spnas_jax.latency.table import LatencyTable
from spnas_jax.search.contestants import make_contestant, num_trainable
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.stages.compare import price_here

FACTORS = ('params', 'temp_bytes', 'peak_bytes', 'step_seconds')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--image_size', type=int, default=64, help='px')
  parser.add_argument('--batch', type=int, default=16, help='images')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--methods', default='single_path,fbnet,darts,proxyless')
  args = parser.parse_args()
  from configs import imagenet_search

  config = imagenet_search.get_config()
  config.dataset.image_size = args.image_size
  config.search.update(batch_size=args.batch, dtype='float32')
  config.compare.update(rounds=args.rounds, warmup_steps=1)
  startup.prepare_jax()
  # Only the loss's runtime term reads it: its own resolution is 224 px.
  table = LatencyTable.load(config.latency_table)
  problem = SearchProblem.of(config, table)
  contestants = [
    make_contestant(config, problem, method)
    for method in args.methods.split(',')
  ]
  rows = price_here(contestants, config)
  for contestant in contestants:
    rows[contestant.method]['params'] = num_trainable(contestant)
  single = rows.get('single_path')
  for row in rows.values():
    if single is not None:
      row['factors'] = {
        key: round(row[key] / single[key], 3) for key in FACTORS if key in row
      }
  print(
    json.dumps(
      {
        'image_size': args.image_size,
        'batch_size': args.batch,
        'cpus': os.cpu_count(),
        'methods': rows,
      },
      indent=1,
    )
  )


if __name__ == '__main__':
  main()
