"""Is it worth searching for int8 milliseconds if int8 is what ships?

  python -m tests.benchmarks.int8_search             everything, resumable
  python -m tests.benchmarks.int8_search --list      rows and what is missing
  python -m tests.benchmarks.int8_search --summary   the tables

The protocol, written before its runs. Images, space and recipe are the judge's
(`judge_rows`). Two tables of this machine, one thread: of float32 and of int8
models. Worths come from the supernets that the judge's rows `worth` 0 and 1
trained and scored on held-out images; a supernet knows nothing of tables. For
each of them, at 15% and 35% of the way from the fastest to the slowest int8
network:

* `int8` chooses by the int8 table, as `search.method='worth'` does;
* `float32` chooses by the float32 table. Its target is set by hand so that the
  file meets the int8 target all the same: of what it finds at 400 float32
  targets, the network of the most worth that the int8 table says is in time.

Each is trained under two seeds and exported; judged on the top-1 of the int8
file on all test images. Row `timed` times all int8 files in the same rounds.
What two choosers find alike is trained once.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import tempfile
from typing import Any

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np

from spnas_jax.config.workdir import Workdir, fingerprint
from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.architecture import Architecture
from spnas_jax.search import worth as worths
from tests.benchmarks import judge_rows
from tests.benchmarks.judge import EXPERIMENT as JUDGE
from tests.benchmarks.judge_rows import DATA, SHARES, TRAIN_SEEDS
from tests.benchmarks.row_runner import Experiment, Row
from tests.benchmarks.stages import ROOT

PRECISIONS = ('float32', 'int8')
SUPERNETS = (0, 1)
GRID = 400
CALIBRATION_NETWORKS, TABLE_ROUNDS, ROUNDS = 12, 40, 60


def rows() -> list[Row]:
  """All rows, in the order in which they are done."""
  return [
    *(Row('table', DATA, group=precision) for precision in PRECISIONS),
    *_trained(),
    Row('timed', DATA),
  ]


def _trained() -> list[Row]:
  return [
    Row('train', DATA, share, precision, index, seed)
    for index in SUPERNETS
    for share in SHARES
    for precision in PRECISIONS
    for seed in TRAIN_SEEDS
  ]


def needs(row: Row) -> list[Row]:
  """Rows that must be finished first."""
  tables = [Row('table', DATA, group=precision) for precision in PRECISIONS]
  return [] if row.kind == 'table' else tables


@functools.cache
def identity(row: Row) -> str:
  """Hash of what a row depends on."""
  if row.kind == 'table':
    settings = (CALIBRATION_NETWORKS, TABLE_ROUNDS)
  else:
    settings = (GRID, judge_rows.RECIPE)
  return fingerprint(
    {'settings': repr(settings), 'space': repr(_space()), 'row': row.key}
  )


def _space():
  return judge_rows.space_config().space.to_dict()


# --- choosing -----------------------------------------------------------------


def tables_of(results: dict[str, Any]) -> dict[str, LatencyTable]:
  """By precision."""
  tables = {}
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'table.json'
    for precision in PRECISIONS:
      own = results[Row('table', DATA, group=precision).key]['table']
      path.write_text(json.dumps(own))
      tables[precision] = LatencyTable.load(str(path))
  return tables


@functools.cache
def worth_of(supernet: int) -> worths.Worth:
  """From the scores that the judge's row kept."""
  key = Row('search', DATA, 0.0, 'worth', supernet).key
  scored = json.loads(JUDGE.results.read_text())[key]['scored']
  gates = np.array([[float(gate) for gate in own] for own in scored])
  space = judge_rows.problem().space
  return worths.estimate(space, gates, np.array(list(scored.values())))


def target_ms(table: LatencyTable, share: float) -> float:
  """A share of the way from the fastest to the slowest int8 network, ms."""
  low, high = table.limits(judge_rows.problem().space)
  return low + share * (high - low)


def choose(row: Row, tables: dict[str, LatencyTable]) -> Architecture:
  """The network of a row `train`."""
  space, worth = judge_rows.problem().space, worth_of(row.index)
  slack = judge_rows.space_config().search.slack
  own, shipped = tables[row.group], tables['int8']
  target = target_ms(shipped, row.share)
  if row.group == 'int8':
    return space.architecture_of(
      worths.choose(space, own, worth, target, slack)
    )
  found = {}
  for goal in np.linspace(*own.limits(space), GRID):
    arch = space.architecture_of(worths.choose(space, own, worth, goal, slack))
    if shipped.predict(arch) <= target:
      found[worth_in(arch, worth)] = arch
  return found[max(found)]


def worth_in(arch: Architecture, worth: worths.Worth) -> float:
  """Sum of the worths of a network's open gates, nats."""
  return float(judge_rows.problem().space.encode(arch) @ worth.worths)


# --- what a row does ----------------------------------------------------------


def do(
  row: Row, workdir: Workdir, results: dict[str, Any], folder: str
) -> dict[str, Any]:
  """Runs one row; returns what is kept of it."""
  from spnas_jax import startup

  startup.prepare_jax()
  config = judge_rows.space_config()
  config.dataset.folder = folder
  work = {'table': _table, 'train': _train, 'timed': _timed}[row.kind]
  return work(row, config, workdir, results)


def _table(row, config, workdir, results):
  from spnas_jax.stages import build_table

  config.latency_table = ''
  config.build_table.update(
    name=f'host, {row.group}',
    precision=row.group,
    calibration_networks=CALIBRATION_NETWORKS,
    rounds=TABLE_ROUNDS,
  )
  build_table.run(config, workdir)
  table = json.loads((workdir / 'latency_table.json').read_text())
  return {'table': table}


def _train(row, config, workdir, results):
  from spnas_jax.stages import export, train

  tables = tables_of(results)
  arch = choose(row, tables)
  facts = {
    'architecture': arch.to_string(),
    'worth': worth_in(arch, worth_of(row.index)),
    'target_ms': target_ms(tables['int8'], row.share),
    'seed': row.seed,
    **{f'predicted_{name}_ms': t.predict(arch) for name, t in tables.items()},
  }
  for key, known in results.items():
    if key.startswith('train-') and (known['architecture'], known['seed']) == (
      facts['architecture'],
      row.seed,
    ):
      same = {k: known[k] for k in known if k not in ('identity', *facts)}
      return {**same, **facts, 'trained_as': known.get('trained_as', key)}
  workdir.write('architecture.json', arch.to_json())
  workdir.write('int8.json', tables['int8'].to_json())
  config.train.update(judge_rows.RECIPE)
  config.architecture = str(workdir / 'architecture.json')
  config.latency_table = str(workdir / 'int8.json')
  config.seed = row.seed
  trained = train.run(config, workdir)
  files = export.run(config, workdir)
  kept = ('top1', 'top1_fp16', 'top1_int8', 'agreement_int8', 'num_images')
  return {
    **facts,
    **{key: files[key] for key in kept},
    'seconds': trained['wall_seconds'],
  }


def _timed(row, config, workdir, results):
  """The int8 files that are there, interleaved; seeds differ in weights only.

  Delete the row once more of them are there.
  """
  from spnas_jax.latency.open_device import open_device

  config.profile.rounds = ROUNDS
  files = {}
  for own in _trained():
    known = results.get(own.key)
    if known and own.seed == TRAIN_SEEDS[0]:
      key = known.get('trained_as', own.key)
      path = workdir.path.parent / key / 'model_int8.tflite'
      files[known['architecture']] = path.read_bytes()
  device = open_device(config)
  timings = device.measure(
    files, warmup_runs=20, rounds=ROUNDS, runs_per_round=10
  )
  return {
    'device': device.describe()['device'],
    'ms': {name: timing.ms for name, timing in timings.items()},
    'spread_ms': {name: t.spread_ms for name, t in timings.items()},
  }


# --- tables -------------------------------------------------------------------


def summary(results: dict[str, Any]) -> str:
  """Chosen networks, and the difference between the choosers."""
  done = {row: results[row.key] for row in _trained() if row.key in results}
  timed = results.get(Row('timed', DATA).key, {'ms': {}})['ms']
  lines = [
    '| supernet | target, int8 ms | chosen by | float32 ms | int8 ms '
    '| measured int8 ms | worth, nats | top-1 of the int8 file, % '
    '| float32, % |',
    '|---|---|---|---|---|---|---|---|---|',
  ]
  gaps = []
  for index in SUPERNETS:
    for share in SHARES:
      tops = {}
      for precision in PRECISIONS:
        own = [
          known
          for row, known in done.items()
          if (row.index, row.share, row.group) == (index, share, precision)
        ]
        if len(own) < len(TRAIN_SEEDS):
          continue
        first = own[0]
        tops[precision] = 100 * np.mean([each['top1_int8'] for each in own])
        ms = timed.get(first['architecture'], float('nan'))
        lines.append(
          f'| {index} | {first["target_ms"]:.4f} | {precision} '
          f'| {first["predicted_float32_ms"]:.4f} '
          f'| {first["predicted_int8_ms"]:.4f} | {ms:.4f} '
          f'| {first["worth"]:.4f} | {tops[precision]:.2f} '
          f'| {100 * np.mean([each["top1"] for each in own]):.2f} |'
        )
      if len(tops) == len(PRECISIONS):
        gaps.append(tops['int8'] - tops['float32'])
  if len(gaps) > 1:
    mean, error = np.mean(gaps), np.std(gaps, ddof=1) / len(gaps) ** 0.5
    lines.append(
      f'\nint8 minus float32: {mean:+.2f} ± {error:.2f} points over '
      f'{len(gaps)} pairs'
    )
  return '\n'.join(lines)


EXPERIMENT = Experiment(
  module='tests.benchmarks.int8_search',
  results=ROOT / 'tests/benchmarks/results/int8_search.json',
  rows=rows(),
  needs=needs,
  identity=identity,
  do=do,
  summary=summary,
  folder=str(ROOT / 'data/cifar10_jpeg'),
)

if __name__ == '__main__':
  EXPERIMENT.main(__doc__)
