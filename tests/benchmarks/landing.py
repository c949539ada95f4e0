"""Does a search land on its target, whatever the target and the device?

  python -m tests.benchmarks.landing             everything, resumable
  python -m tests.benchmarks.landing --list      rows and what is missing
  python -m tests.benchmarks.landing --summary   the table

`configs/digits.py`, four targets by three seeds, on a table of a server
(`landing_table.json`) and on a made-up one of another shape. Targets are shares
of the largest network's ms. Results are in `results/landing.json`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from typing import Any

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

from ml_collections import ConfigDict

from configs import digits
from spnas_jax.config.defaults import default_config
from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir, fingerprint, stage_inputs
from spnas_jax.latency.table import LatencyTable
from tests.benchmarks.row_runner import Experiment, Row
from tests.benchmarks.stages import ROOT

TABLE = pathlib.Path(__file__).resolve().parent / 'landing_table.json'
DATA = ('digits', 'digits_made_up')
SHARES = (0.40, 0.55, 0.70, 0.85)
SEEDS = (0, 1, 2)

KEPT = (
  'target_ms',
  'predicted_ms',
  'raw_decode_ms',
  'expected_ms',
  'projected_layers',
  'undecided_gates',
  'num_gates',
  'architecture',
  'supernet_top1',
  'supernet_cross_entropy',
  'cost_epochs',
  'seconds',
  'final_lambda',
  'saturated_gates',
  'warnings',
)

ROWS = tuple(
  Row('search', data, share, seed=seed)
  for data in DATA
  for share in SHARES
  for seed in SEEDS
)


@functools.cache
def made_up_table() -> LatencyTable:
  """A device that dislikes launches and large kernels, unlike the host's.

  Every operation 4 us; 1 ns for a multiply-add of a 1x1 convolution and 4 for
  one of a depthwise convolution.
  """
  from spnas_jax.latency.entries import space_entries

  config = digits.get_config()

  def ms(entry) -> float:
    if entry.block is None:
      return 0.02
    block, pixels = entry.block, entry.size**2
    mid = block.expansion * block.in_channels
    out = pixels / block.stride**2
    wide = pixels * block.in_channels * mid + out * mid * block.out_channels
    return 0.012 + (wide + 4 * out * mid * block.kernel**2) / 1e6

  return dataclasses.replace(
    LatencyTable.load(str(TABLE)),
    name='made up, small maps dear',
    device={'name': 'none'},
    # Nothing of the measured table's history, or its rows would not outlive it.
    software={},
    protocol={},
    date='',
    # The name this file had when the rows were made: part of their identity.
    provenance='made up by tests/benchmarks/search_quality.py',
    entries={
      key: {'ms': ms(entry), 'spread_ms': None, 'count': None}
      for key, entry in space_entries(
        make_space(config), config.dataset.image_size
      ).items()
    },
    calibration={'factor': 1.0},
  )


def _table(row: Row) -> LatencyTable:
  if row.data == 'digits_made_up':
    return made_up_table()
  return LatencyTable.load(str(TABLE))


def configuration(row: Row) -> ConfigDict:
  """What a row runs under, but for the place of a made-up table."""
  config = digits.get_config()
  config.seed = row.seed
  largest = _table(row).limits(make_space(config))[1]
  config.search.target_ms = row.share * largest
  return config


@functools.cache
def identity(row: Row) -> str:
  """Hash of a row's settings: table, and every key that is not the default.

  A new key with a default that changes nothing leaves old rows valid; whoever
  changes a default deletes them.
  """
  sections = ('dataset', 'space', 'search')
  default = stage_inputs(default_config(), *sections)
  changed = {
    key: value
    for key, value in stage_inputs(configuration(row), *sections).items()
    if value != default[key]
  }
  return fingerprint(
    {**changed, 'table': _table(row).to_json(), 'row': row.key}
  )


def do(
  row: Row, workdir: Workdir, results: dict[str, Any], folder: str
) -> dict[str, Any]:
  """One search; what is kept of it."""
  from spnas_jax import startup
  from spnas_jax.stages import search

  startup.prepare_jax()
  config = configuration(row)
  if row.data == 'digits_made_up':
    workdir.write('table.json', made_up_table().to_json())
    config.latency_table = str(workdir / 'table.json')
  result = search.run(config, workdir)
  return {key: result[key] for key in KEPT}


def summary(results: dict[str, Any]) -> str:
  """A line for each row, in Markdown."""
  lines = [
    '| data, table | target | seed | expected | raw decode | found | layers '
    'changed | undecided gates | supernet top-1 |',
    '|---|---|---|---|---|---|---|---|---|',
  ]
  for row in ROWS:
    if (r := results.get(row.key)) is None:
      continue
    off = [
      f'{100 * (r[f"{name}_ms"] / r["target_ms"] - 1):+.1f}%'
      for name in ('expected', 'raw_decode', 'predicted')
    ]
    cells = [
      row.data.replace('_made_up', ', made-up'),
      f'{100 * row.share:.0f}%, {r["target_ms"]:.4f} ms',
      str(row.seed),
      *off,
      str(r['projected_layers']),
      f'{r["undecided_gates"]} of {r["num_gates"]}',
      f'{100 * r["supernet_top1"]:.2f}%',
    ]
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines)


EXPERIMENT = Experiment(
  module='tests.benchmarks.landing',
  results=ROOT / 'tests/benchmarks/results/landing.json',
  rows=ROWS,
  needs=lambda row: (),
  identity=identity,
  do=do,
  summary=summary,
)

if __name__ == '__main__':
  EXPERIMENT.main(__doc__)
