"""Tables of what ships: int8 models, and two threads; ImageNet space, 224 px.

  python -m tests.benchmarks.bench_table_kinds [--networks=50] [--runs=FOLDER]

For this machine, builds a table of float32 models on one thread, one of int8
models and one of two threads, by the stages of main.py (an interrupted run goes
on). Each is validated on the same random networks that none has seen. Prints
one JSON object, for each kind:

* errors of its own table, and how far times repeat (`repeat_pct`: networks of
  the calibration, timed minutes apart);
* the error that people make who predict with the float32 table on one thread:
  as it is, and with the one factor that would fit best (no such table knows
  it).
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import numpy as np
from scipy import stats

from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.architecture import Architecture
from tests.benchmarks.bench_table import CONFIG, build
from tests.benchmarks.stages import run_stage

CALIBRATION_NETWORKS, ROUNDS = 16, 100
KINDS = {
  'float32': (),
  'int8': ('--config.build_table.precision=int8',),
  'two_threads': ('--config.profile.threads=2',),
}


def check(
  folder: pathlib.Path, table: pathlib.Path, networks: int, *options: str
) -> dict[str, Any]:
  return run_stage(
    'validate_table',
    CONFIG,
    folder,
    f'--config.latency_table={table / "latency_table.json"}',
    f'--config.validate_table.num_networks={networks}',
    f'--config.validate_table.rounds={ROUNDS}',
    '--config.validate_table.runs_per_round=10',
    *options,
  )


def by_other(table: LatencyTable, rows: list[dict[str, Any]]) -> dict[str, Any]:
  """How well a table of another kind of model predicts these networks."""
  guess = np.array(
    [
      table.predict(Architecture.from_string(row['architecture']))
      for row in rows
    ]
  )
  truth = np.array([row['measured_ms'] for row in rows])
  logs = np.log(guess / truth)
  return {
    'mean_abs_pct': float(100 * np.abs(guess / truth - 1).mean()),
    'mean_abs_pct_with_best_factor': float(
      100 * np.abs(np.exp(logs - np.median(logs)) - 1).mean()
    ),
    'rank_correlation': float(stats.spearmanr(guess, truth).statistic),
  }


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--networks', type=int, default=50)
  parser.add_argument('--runs', default='runs/bench_table_kinds')
  arguments = parser.parse_args()
  runs = pathlib.Path(arguments.runs).resolve()

  tables: dict[str, LatencyTable] = {}
  result: dict[str, Any] = {}
  for kind, options in KINDS.items():
    # Threads belong to the device, the precision to its table.
    threads = tuple(o for o in options if 'threads' in o)
    table = tables[kind] = build(
      runs / kind, CALIBRATION_NETWORKS, ROUNDS, *options
    )
    first = check(
      runs / f'{kind}_check', runs / kind, arguments.networks, *threads
    )
    times = [row['measured_ms'] for row in first['networks']]
    result[kind] = {
      'date': table.date,
      'entries': len(table.entries),
      'factor': table.factor,
      'fit_mean_abs_pct': table.calibration['mean_abs_pct'],
      'range_ms': [min(times), max(times)],
      **{
        key: first[key]
        for key in first
        if '_pct' in key or key in ('rank_correlation', 'conditions')
      },
      'by_float32_table': by_other(tables['float32'], first['networks']),
      'networks': first['networks'],
    }
  print(
    json.dumps(
      {
        'space': 'ImageNet, 224 px, batch 1',
        'device': tables['float32'].device,
        'num_networks': arguments.networks,
        'kinds': result,
      },
      indent=1,
    )
  )


if __name__ == '__main__':
  main()
