"""bench_step's turns on a GPU: the search step against PyTorch with autocast.

  python -m tests.benchmarks.bench_gpu [--torch_python=peers/bin/python]
    [--rounds=21]

Both libraries share the GPU and take turns of five steps. The memory is halved
between them.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ.setdefault('JAX_PLATFORMS', 'cuda')
os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.45')

from tests.benchmarks.bench_step import GPU_CASES, report


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--rounds', type=int, default=21)
  parser.add_argument('--torch_python', help='an interpreter that has PyTorch')
  args = parser.parse_args()
  result = report(list(GPU_CASES), args.rounds, args.torch_python)
  print(json.dumps(result, indent=2))


if __name__ == '__main__':
  main()
