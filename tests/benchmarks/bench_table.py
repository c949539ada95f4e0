"""Can a latency table be trusted? This machine, the ImageNet space at 224 px.

  python -m tests.benchmarks.bench_table [--networks=100] [--runs=FOLDER]

Builds a table, validates it on random networks that it has not seen, times the
same networks once more some minutes later, and builds the table once more; all
by the stages of main.py, so an interrupted run goes on. Prints one JSON object:

* errors of the predictions, with and without calibration, and with the drift of
  the machine's speed between table and validation taken off;
* repeat noise of the networks and of the table's entries;
* in-network regression (non-negative least squares on the time of whole
  networks) from as many networks as the calibration takes, and from more,
  against the sum with one factor; trained and tested on different networks.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import numpy as np
import scipy.optimize

from spnas_jax.latency.table import LatencyTable, network_keys
from spnas_jax.networks.architecture import Architecture
from tests.benchmarks.stages import run_stage

CONFIG = 'configs/imagenet_search.py'
CALIBRATION_NETWORKS, BUILD_ROUNDS, VALIDATE_ROUNDS = 24, 40, 30
SPLITS = 20


def build(
  workdir: pathlib.Path,
  networks: int = CALIBRATION_NETWORKS,
  rounds: int = BUILD_ROUNDS,
  *options: str,
) -> LatencyTable:
  run_stage(
    'build_table',
    CONFIG,
    workdir,
    f'--config.build_table.calibration_networks={networks}',
    f'--config.build_table.rounds={rounds}',
    *options,
  )
  return LatencyTable.load(str(workdir / 'latency_table.json'))


def noise(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
  """How two measurements [n], ms, of the same things differ, percent."""
  logs = 100 * np.log(second / first)
  common = float(np.median(logs))
  return {
    'common_pct': common,
    'mean_abs_pct': float(np.abs(logs).mean()),
    'mean_abs_pct_without_common': float(np.abs(logs - common).mean()),
    'sd_of_one_pct': float(logs.std(ddof=1) / 2**0.5),
  }


def regression(
  networks: list[str], table: LatencyTable, measured: np.ndarray
) -> list[dict[str, float]]:
  """Mean absolute error, percent, of two models on networks not fitted to."""
  keys = sorted(table.entries)
  counts = np.zeros((len(networks), len(keys)))
  for i, text in enumerate(networks):
    for key in network_keys(Architecture.from_string(text), table.image_size):
      counts[i, keys.index(key)] += 1
  sums = counts @ [table.entries[key]['ms'] for key in keys]
  rng = np.random.default_rng(0)
  rows = []
  for size in (
    CALIBRATION_NETWORKS,
    len(networks) // 2,
    len(networks) * 4 // 5,
  ):
    errors: dict[str, list[float]] = {}
    for _ in range(SPLITS):
      order = rng.permutation(len(networks))
      own, rest = order[:size], order[size:]

      def add(name, predicted, rest=rest, errors=errors):
        off = 100 * np.abs(predicted / measured[rest] - 1)
        errors.setdefault(name, []).append(float(off.mean()))

      factor = np.exp(np.log(measured[own] / sums[own]).mean())
      add('sum_and_factor', factor * sums[rest])
      weights, _ = scipy.optimize.nnls(
        counts[own] / measured[own, None], np.ones(size)
      )
      add('regression', counts[rest] @ weights)
    means = {name: float(np.mean(e)) for name, e in errors.items()}
    rows.append({'fitted_to': size, **means})
  return rows


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--networks', type=int, default=100)
  parser.add_argument('--runs', default='runs/bench_table')
  arguments = parser.parse_args()
  runs = pathlib.Path(arguments.runs).resolve()

  table = build(runs / 'table')
  checks = [
    run_stage(
      'validate_table',
      CONFIG,
      runs / name,
      f'--config.latency_table={runs / "table" / "latency_table.json"}',
      f'--config.validate_table.num_networks={arguments.networks}',
      f'--config.validate_table.rounds={VALIDATE_ROUNDS}',
    )
    for name in ('check', 'check_again')
  ]
  again = build(runs / 'table_again')

  names = [row['architecture'] for row in checks[0]['networks']]
  times = []
  for check in checks:
    by_name = {row['architecture']: row for row in check['networks']}
    times.append(np.array([by_name[n]['measured_ms'] for n in names]))
  entries = [
    np.array([t.entries[key]['ms'] for key in sorted(table.entries)])
    for t in (table, again)
  ]
  spread = np.array(
    [table.entries[key]['spread_ms'] for key in sorted(table.entries)]
  )
  moved = np.exp(np.median(np.log(entries[1] / entries[0])))
  result = {
    'space': 'ImageNet, 224 px, one thread, batch 1',
    'device': table.device,
    'entries': len(table.entries),
    'factor': table.factor,
    'checks': [
      {key: value for key, value in check.items() if '_pct' in key}
      | {
        key: check[key]
        for key in (
          'num_networks',
          'rmse_ms',
          'rank_correlation',
          'conditions',
          'wall_seconds',
        )
      }
      for check in checks
    ],
    'repeat_networks': noise(*times),
    'repeat_entries': {
      **noise(*entries),
      'within_spread': float((np.abs(np.subtract(*entries)) <= spread).mean()),
      'within_spread_without_common': float(
        (np.abs(entries[1] / moved - entries[0]) <= spread).mean()
      ),
    },
    'regression': regression(names, table, times[0]),
    'networks': [
      {
        'architecture': name,
        'predicted_ms': table.predict(Architecture.from_string(name)),
        'measured_ms': [float(t[i]) for t in times],
      }
      for i, name in enumerate(names)
    ],
  }
  print(json.dumps(result, indent=1))


if __name__ == '__main__':
  main()
