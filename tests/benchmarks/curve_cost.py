"""What a curve of five networks costs beside one search for one network.

  python -m tests.benchmarks.curve_cost [--rounds=2]

Searches on digits, each a process of its own, taking turns: the default one for
one target, `worth` for one target, and `worth` for five points. CPU seconds of
whole processes, imports and compilation included, since other work on a machine
changes them little. Prints one JSON object: medians, their ratios, and how far
each point of the curve lies below its target.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import statistics
import tempfile
from typing import Any

from tests.benchmarks.stages import run_stage

KINDS = {
  'gradient': (),
  'worth': ('--config.search.method=worth',),
  'curve': (
    '--config.search.method=worth',
    '--config.search.curve_points=5',
  ),
}


def children_cpu_seconds() -> float:
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--rounds', type=int, default=2)
  arguments = parser.parse_args()
  seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
  curve: list[dict[str, Any]] = []
  with tempfile.TemporaryDirectory() as name:
    for i in range(arguments.rounds):
      for kind, options in KINDS.items():
        before = children_cpu_seconds()
        found = run_stage(
          'search',
          'configs/digits.py',
          pathlib.Path(name) / f'{kind}{i}',
          f'--config.seed={i}',
          *options,
        )
        seconds[kind].append(round(children_cpu_seconds() - before, 1))
        curve += found.get('curve') or []
  median = {kind: statistics.median(own) for kind, own in seconds.items()}
  below = [
    round(100 * (point['predicted_ms'] / point['target_ms'] - 1), 2)
    for point in curve
  ]
  print(
    json.dumps(
      {
        'cpu_seconds': seconds,
        'curve_over_worth': round(median['curve'] / median['worth'], 3),
        'curve_over_gradient': round(median['curve'] / median['gradient'], 3),
        'percent_from_target': below,
        'landed': sum(-2 <= percent <= 0 for percent in below),
        'points': len(below),
      },
      indent=1,
    )
  )


if __name__ == '__main__':
  main()
