"""The judge's networks, accuracy against latency: docs/images/judge.png.

  python -m tests.benchmarks.judge_picture

Random networks one by one; what a chooser found as the mean of its networks of
a target. mobilenet_v2, twenty points below, would squeeze all others flat.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spnas_jax.networks.architecture import Architecture
from spnas_jax.report.accuracy_figures import Point, accuracy_latency
from spnas_jax.report.plot_style import png
from tests.benchmarks import judge_tables
from tests.benchmarks.judge import EXPERIMENT
from tests.benchmarks.judge_rows import SHARES, problem
from tests.benchmarks.stages import ROOT

PICTURE = ROOT / 'docs/images/judge.png'
NAMES = {
  'additive': '24 short trainings',
  'halving': 'successive halving',
  'evolution': 'evolution',
}


def points(results: dict[str, Any], group: str) -> list[Point]:
  """Every network of a group."""
  return [
    Point(
      problem().table.predict(Architecture.from_string(name)),
      float(own['top1'].mean()),
    )
    for share in SHARES
    for name, own in judge_tables.trained(results, group, share).items()
  ]


def means(results: dict[str, Any], group: str) -> list[Point]:
  """Mean of a group's networks at each target."""
  found = []
  for share in SHARES:
    own = judge_tables.trained(results, group, share)
    if own:
      archs = [Architecture.from_string(name) for name in own]
      ms = np.mean([problem().table.predict(arch) for arch in archs])
      top1 = np.mean([each['top1'].mean() for each in own.values()])
      found.append(Point(float(ms), float(top1)))
  return found


def main() -> None:
  results = EXPERIMENT.load()
  families = {
    name: found
    for group, name in NAMES.items()
    if (found := means(results, group))
  }
  figure = accuracy_latency(
    means(results, 'gradient'),
    points(results, 'random'),
    curve=means(results, 'worth'),
    families=families,
  )
  PICTURE.write_bytes(png(figure))
  print(PICTURE)


if __name__ == '__main__':
  main()
