"""Does the search land, does a gate know, and does it beat luck?

  python -m tests.benchmarks.search_quality             everything, resumable
  python -m tests.benchmarks.search_quality --list      rows and what is missing
  python -m tests.benchmarks.search_quality --summary   tables from the results

Rows (all Fashion-MNIST images unless said; `configs/fashion_mnist.py` as it is,
seeds and targets apart; targets are shares of the largest network's ms):

* search    four targets x three seeds; the same for digits, on the host's table
            and on a made-up one of another shape.
* train     from scratch at two targets: 10 random networks within 2% below the
            target, what three search seeds found and what evolution found, each
            under two training seeds and one recipe; and 20 random networks of
            the whole space, under one seed.
* long      all of these but the evolved ones once more, three times as long.
            Under both recipes also what was found at 55% with all its kernels
            3x3 ('narrow').
* kernels   the paper's Table 2, as long: 3x3 and 5x5 kernels trained on their
            own and as subsets of one superkernel.
* evolution over the supernet of each target's first search.
* gates     slope of a gate against the true change of the loss, for the
            default formulation and for the authors' own.
* supernet  trained for as many epochs as a search, all of them warm-up; with
            gates open as often as in a search, and less often.
* ranking   scores of all random networks inside those supernets, and inside one
            that was searched.

Every row is a process of its own, pinned to one core, two at a time; what is
finished stands in `results/search_quality.json` and is not done again unless
its configuration changed. Long rows resume inside `--runs` too.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np
import scipy.stats
from ml_collections import ConfigDict

from configs import digits, fashion_mnist
from spnas_jax.architecture import Architecture
from spnas_jax.config import default_config, make_space
from spnas_jax.latency import LatencyTable
from spnas_jax.random_search import draw, score_from_scratch
from spnas_jax.workdir import Workdir, fingerprint, stage_inputs

HERE = pathlib.Path(__file__).resolve().parent
FASHION = 'fashion_mnist'
CONFIGS = {
  FASHION: fashion_mnist,
  'digits': digits,
  'digits_made_up': digits,
}
RESULTS = HERE / 'results' / 'search_quality.json'
SHARES = (0.40, 0.55, 0.70, 0.85)
TRAINED_SHARES = (0.40, 0.55)
SEARCH_SEEDS = (0, 1, 2)
TRAIN_SEEDS = (0, 1)
NUM_RANDOM = 10
NUM_SPREAD = 20
# Probability of an open gate while a supernet is trained; for 'supernet' it is
# the default's.
KEEP = {'keep50': 0.5, 'keep30': 0.3}
# Supernets that random networks are ranked in, by the row they come from.
RANKED = ('search', 'supernet', *KEEP)
# Recipes of the networks trained here, by kind of row; docs/search.md says how
# they were chosen.
_SHORT = {'epochs': 2.0, 'batch_size': 128, 'lr_warmup_epochs': 0.2}
RECIPES: dict[str, dict[str, Any]] = {
  'train': _SHORT,
  'long': {**_SHORT, 'epochs': 6.0, 'checkpoint_epochs': 6.0},
}

# Kinds of rows that train from scratch, and how.
TRAINED = {**RECIPES, 'kernels': RECIPES['long']}

# Of a search's result.
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


@dataclasses.dataclass(frozen=True)
class Row:
  """One result: what is done, and under which key it is kept."""

  kind: str
  data: str = FASHION
  share: float = 0.0
  group: str = ''
  index: int = 0
  seed: int = 0

  @property
  def key(self) -> str:
    words = [self.kind, self.data, f'{100 * self.share:.0f}', self.group]
    words += [str(self.index), str(self.seed)]
    return '-'.join(word for word in words if word)


def rows() -> list[Row]:
  """All rows, in the order in which they are done."""

  def searches(data, shares):
    return [
      Row('search', data, share, seed=seed)
      for share in shares
      for seed in SEARCH_SEEDS
    ]

  def trained(
    group, count, shares=TRAINED_SHARES, seeds=TRAIN_SEEDS, kind='train'
  ):
    return [
      Row(kind, FASHION, share, group, index, seed)
      for seed in seeds
      for share in shares
      for index in range(count)
    ]

  middle = TRAINED_SHARES[-1]
  return [
    *trained('random', NUM_RANDOM, TRAINED_SHARES[:1], TRAIN_SEEDS[:1]),
    *searches(FASHION, SHARES),
    *trained('found', len(SEARCH_SEEDS)),
    *trained('random', NUM_RANDOM, TRAINED_SHARES[1:], TRAIN_SEEDS[:1]),
    Row('gates', share=middle, group='sampled'),
    Row('gates', share=middle, group='official'),
    *(Row('evolution', share=share) for share in SHARES),
    *(Row('supernet', share=middle, group=g) for g in ('', *KEEP)),
    *(Row('ranking', share=middle, group=g) for g in RANKED),
    *searches('digits', SHARES),
    *searches('digits_made_up', SHARES),
    *trained('random', NUM_RANDOM, seeds=TRAIN_SEEDS[1:]),
    *trained('evolved', 1),
    *trained('spread', NUM_SPREAD, (0.0,), TRAIN_SEEDS[:1]),
    *(
      row
      for kind in RECIPES
      for row in trained('narrow', 1, (middle,), kind=kind)
    ),
    *(
      row
      for share in reversed(TRAINED_SHARES)
      for seed in TRAIN_SEEDS
      for group, count in (('random', NUM_RANDOM), ('found', len(SEARCH_SEEDS)))
      for row in trained(group, count, (share,), (seed,), kind='long')
    ),
    *trained('spread', NUM_SPREAD, (0.0,), TRAIN_SEEDS[:1], kind='long'),
    *(Row('kernels', seed=seed) for seed in TRAIN_SEEDS),
  ]


def needs(row: Row) -> Row | None:
  """The row that must be finished first."""
  if row.group in ('found', 'narrow'):
    return Row('search', row.data, row.share, seed=row.index)
  if row.group == 'evolved':
    return Row('evolution', row.data, row.share)
  if row.kind == 'ranking':
    if row.group in KEEP:
      return Row('supernet', row.data, row.share, row.group)
    return Row(row.group, row.data, row.share)
  if row.kind == 'evolution' or row.group == 'sampled':
    return Row('search', row.data, row.share)
  return None


# --- configurations -----------------------------------------------------------


def made_up_table(config: ConfigDict) -> LatencyTable:
  """A device that dislikes launches and large kernels, unlike the host's.

  Every operation 4 us; 1 ns for a multiply-add of a 1x1 convolution and 4 for
  one of a depthwise convolution.
  """
  from spnas_jax.table_entries import space_entries

  def ms(entry) -> float:
    if entry.block is None:
      return 0.02
    block, pixels = entry.block, entry.size**2
    mid = block.expansion * block.in_channels
    out = pixels / block.stride**2
    wide = pixels * block.in_channels * mid + out * mid * block.out_channels
    return 0.012 + (wide + 4 * out * mid * block.kernel**2) / 1e6

  return dataclasses.replace(
    LatencyTable.load(config.latency_table),
    name='made up, small maps dear',
    device={'name': 'none'},
    # Nothing of the measured table's history, or its rows would not outlive it.
    software={},
    protocol={},
    date='',
    provenance='made up by tests/benchmarks/search_quality.py',
    entries={
      key: {'ms': ms(entry), 'spread_ms': None, 'count': None}
      for key, entry in space_entries(
        make_space(config), config.dataset.image_size
      ).items()
    },
    calibration={'factor': 1.0},
  )


def configuration(row: Row, runs: pathlib.Path) -> ConfigDict:
  """What a row runs under."""
  config = CONFIGS[row.data].get_config()
  config.seed = row.seed if row.kind in ('search', 'kernels') else 0
  if row.data == 'digits_made_up':
    path, text = runs / 'made_up.json', made_up_table(config).to_json()
    if not path.exists() or path.read_text() != text:
      path.parent.mkdir(parents=True, exist_ok=True)
      partial = path.with_suffix(f'.{os.getpid()}')
      partial.write_text(text)
      partial.replace(path)
    config.latency_table = str(path)
  table = LatencyTable.load(config.latency_table)
  config.search.target_ms = row.share * table.limits(make_space(config))[1]
  if row.kind in ('evolution', 'ranking'):
    config.search.method = 'evolution'
    first = needs(row)
    assert first is not None
    config.search.evolution.supernet = str(runs / first.key)
    config.search.evolution.front_points = 4 if row.share == SHARES[0] else 0
  if row.group == 'official':
    config.search.target_ms = None
    config.search.gates, config.search.lambda_ = 'official', 20.0
  if row.kind == 'supernet':
    config.search.warmup_epochs = config.search.epochs
    if row.group:
      config.search.keep_probability = KEEP[row.group]
  if row.kind in TRAINED:
    config.train.update(TRAINED[row.kind])
  return config


def identity(row: Row, config: ConfigDict) -> str:
  """Hash of a row's settings: table, and every key that is not the default.

  A new key with a default that changes nothing leaves old rows valid; whoever
  changes a default deletes them.
  """
  sections = ['dataset', 'space']
  sections += ['train'] if row.kind in TRAINED else ['search']
  default = stage_inputs(default_config(), *sections)
  changed = {
    key: value
    for key, value in stage_inputs(config, *sections).items()
    if value != default[key] and key != 'search.evolution.supernet'
  }
  table = LatencyTable.load(config.latency_table)
  return fingerprint({**changed, 'table': table.to_json(), 'row': row.key})


# --- what a row does ----------------------------------------------------------


def do(row: Row, runs: pathlib.Path, results: dict[str, Any]) -> dict[str, Any]:
  """Runs one row; returns what is kept of it."""
  from spnas_jax import startup

  startup.prepare_jax()
  config = configuration(row, runs)
  workdir = Workdir(runs / row.key)
  return {
    'search': _search,
    'supernet': _search,
    'evolution': _search,
    **dict.fromkeys(RECIPES, _train),
    'kernels': _shared_kernels,
    'ranking': _ranking,
    'gates': _gates,
  }[row.kind](row, config, workdir, results)


def _search(row, config, workdir, results):
  from spnas_jax import search

  result = search.run(config, workdir)
  kept = {key: result[key] for key in KEPT}
  if row.kind == 'evolution':
    own, full = results[needs(row).key], result['evolution']
    kept['gates_own'] = {
      key: own[key] for key in ('architecture', 'supernet_top1')
    }
    kept['gates_own_scored'] = full['gates_own']
    kept |= {k: full[k] for k in ('best', 'front', 'evaluations', 'scored_on')}
    kept['evolution_seconds'] = full['seconds']
  return kept


def _train(row, config, workdir, results):
  table = LatencyTable.load(config.latency_table)
  if row.group in ('random', 'spread'):
    arch = random_networks(config, row.share)[row.index]
  else:
    text = results[needs(row).key]['architecture']
    if row.group == 'narrow':
      text = text.replace('_k5_', '_k3_')
    arch = Architecture.from_string(text)
  seed = row.seed
  if row.kind == 'long' and row.group == 'found':
    # Searches may find one network: let each train it under its own seeds.
    seed += len(TRAIN_SEEDS) * row.index
  return score_from_scratch(config, workdir, 'train', arch, seed, table)


def _shared_kernels(row, config, workdir, results):
  from spnas_jax.shared_kernels import shared_kernels

  return shared_kernels(config, workdir)


def random_networks(config: ConfigDict, share: float) -> list[Architecture]:
  """Networks in [target - 2%, target], where found ones are allowed to lie.

  Share 0: networks of the whole space.
  """
  space, table = make_space(config), LatencyTable.load(config.latency_table)
  if not share:
    rng = np.random.default_rng(NUM_SPREAD)
    return [space.sample(rng) for _ in range(NUM_SPREAD)]
  middle = share * table.limits(space)[1] * (1 - config.search.slack / 2)
  rng = np.random.default_rng(round(100 * share))
  band = config.search.slack / 2 / (1 - config.search.slack / 2)
  return draw(space, table, middle, band, NUM_RANDOM, rng)


def _ranking(row, config, workdir, results):
  from spnas_jax.search_record import load_supernet
  from spnas_jax.search_setup import load_table, make_search
  from spnas_jax.subnets import Subnets

  space, table = make_space(config), load_table(config)
  search = make_search(config, space, table, config.search.target_ms)
  state = load_supernet(config, workdir)
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  subnets = Subnets(config, search.supernet, variables, 2000)
  networks = [
    {
      'share': share,
      'index': index,
      'architecture': arch.to_string(),
      **subnets.score(space.encode(arch)),
    }
    for share in (0.0, *TRAINED_SHARES)
    for index, arch in enumerate(random_networks(config, share))
  ]
  return {
    'scored_on': f'{subnets.num_images} {subnets.split} images',
    'networks': networks,
  }


def _gates(row, config, workdir, results):
  from spnas_jax import ablate, search

  if row.group == 'sampled':
    workdir = Workdir(workdir.path.parent / needs(row).key)
  found = search.run(config, workdir)
  measured = ablate.gates(config, workdir)
  kept = {k: v for k, v in measured.items() if k != 'per_gate'}
  return {**kept, 'architecture': found['architecture']}


# --- running them -------------------------------------------------------------


def load() -> dict[str, Any]:
  """Finished rows by key."""
  return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def save(results: dict[str, Any]) -> None:
  """Writes the finished rows, atomically."""
  RESULTS.parent.mkdir(exist_ok=True)
  partial = RESULTS.with_suffix('.partial')
  partial.write_text(json.dumps(dict(sorted(results.items())), indent=1) + '\n')
  partial.replace(RESULTS)


def is_done(row: Row, runs: pathlib.Path, results: dict[str, Any]) -> bool:
  """Whether a result stands there, for today's configuration."""
  kept = results.get(row.key)
  wanted = identity(row, configuration(row, runs))
  return kept is not None and kept['identity'] == wanted


def run_all(runs: pathlib.Path, cores: list[int], only: str) -> None:
  """Keeps one process on every core until nothing is left to do."""
  results = load()
  wanted = [row for row in rows() if row.key.startswith(only)]
  left = [row for row in wanted if not is_done(row, runs, results)]
  failed: list[Row] = []
  running: dict[int, tuple[Row, subprocess.Popen, float]] = {}
  while left or running:
    for core in cores:
      if core in running:
        row, process, start = running[core]
        if process.poll() is None:
          continue
        del running[core]
        path = runs / row.key / 'row.json'
        if process.returncode or not path.exists():
          failed.append(row)
          print(f'{row.key}: failed, see {runs / row.key}.log', flush=True)
          continue
        results = {**load(), row.key: json.loads(path.read_text())}
        save(results)
        took = time.monotonic() - start
        print(f'{row.key}: {took:.0f} s, {len(left)} to start', flush=True)
      for row in left:
        first = needs(row)
        if first is None or is_done(first, runs, results):
          left.remove(row)
          running[core] = (row, _process(row, runs, core), time.monotonic())
          break
      else:
        if left and not running:
          raise SystemExit(f'cannot do: {[r.key for r in left + failed]}')
    time.sleep(1)
  if failed:
    raise SystemExit(f'failed: {[r.key for r in failed]}')


def _process(row: Row, runs: pathlib.Path, core: int) -> subprocess.Popen:
  (runs / row.key).mkdir(parents=True, exist_ok=True)
  with (runs / f'{row.key}.log').open('a') as log:
    return subprocess.Popen(
      [
        *(sys.executable, '-m', 'tests.benchmarks.search_quality'),
        *(f'--runs={runs}', f'--row={row.key}', f'--cores={core}'),
      ],
      stdout=log,
      stderr=log,
      # As main.py does for itself.
      env={'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1', **os.environ},
    )


# --- what it comes to ---------------------------------------------------------


def summary(results: dict[str, Any]) -> str:
  """Tables in Markdown."""
  parts = [
    *(_landing(results, data) for data in CONFIGS),
    _gate_table(results),
    _evolution(results),
    _kernels(results),
    _table2(results),
    *(
      table(results, kind)
      for kind in RECIPES
      for table in (_against_random, _tau, _ceiling)
    ),
    _effects(results, ('train',)),
    _effects(results, ('train', 'long')),
  ]
  return '\n'.join(part for part in parts if part)


def _landing(results, data):
  lines = [
    f'\n### Landing: {data}\n',
    '| target | seed | expected | raw decode | found | layers changed | '
    'undecided gates | supernet top-1 |',
    '|---|---|---|---|---|---|---|---|',
  ]
  empty = len(lines)
  for row in rows():
    r = results.get(row.key)
    if row.kind != 'search' or row.data != data or r is None:
      continue
    off = {
      name: f'{100 * (r[f"{name}_ms"] / r["target_ms"] - 1):+.1f}%'
      for name in ('expected', 'raw_decode', 'predicted')
    }
    lines.append(
      f'| {100 * row.share:.0f}%, {r["target_ms"]:.4f} ms | {row.seed} | '
      f'{off["expected"]} | {off["raw_decode"]} | {off["predicted"]} | '
      f'{r["projected_layers"]} | {r["undecided_gates"]} of {r["num_gates"]} | '
      f'{100 * r["supernet_top1"]:.2f}% |'
    )
  return '\n'.join(lines) if len(lines) > empty else ''


def top1_by_network(results, group: str, share: float, kind: str) -> np.ndarray:
  """Top-1 of the group's networks [networks, training seeds]; NaN = missing."""
  count = {
    'random': NUM_RANDOM,
    'found': len(SEARCH_SEEDS),
    'evolved': 1,
    'spread': NUM_SPREAD,
  }
  return np.array(
    [
      [
        results.get(Row(kind, FASHION, share, group, i, seed).key, {}).get(
          'top1', np.nan
        )
        for seed in TRAIN_SEEDS
      ]
      for i in range(count[group])
    ]
  )


def _against_random(results, kind):
  lines = [
    f'\n### Found against random networks of one latency: {_epochs(kind)}\n',
    '| target | random: mean ± sd over networks (best) | sd over training '
    'seeds | found | difference ± standard error | evolved |',
    '|---|---|---|---|---|---|',
  ]
  for share in TRAINED_SHARES:
    tops = {
      group: 100 * top1_by_network(results, group, share, kind)
      for group in ('random', 'found', 'evolved')
    }
    if np.isnan(tops['random']).all():
      continue
    means = {
      g: np.array([np.nanmean(x) for x in t if not np.isnan(x).all()])
      for g, t in tops.items()
    }
    random, found = means['random'], means['found']
    # Within a network: from its seeds' differences.
    pairs = np.concatenate([tops['random'], tops['found']])
    pairs = pairs[~np.isnan(pairs).any(1)]
    noise = np.sqrt(pairs.var(1, ddof=1).mean()) if len(pairs) else np.nan
    cells = [
      f'{100 * share:.0f}%',
      f'{random.mean():.2f} ± {random.std(ddof=1):.2f} ({random.max():.2f})',
      f'{noise:.2f}',
      '',
      '',
      '',
    ]
    if len(found):
      errors = [
        x.std(ddof=1) / len(x) ** 0.5 for x in (random, found) if len(x) > 1
      ]
      cells[3] = f'{found.mean():.2f} ({", ".join(f"{x:.2f}" for x in found)})'
      cells[4] = (
        f'{found.mean() - random.mean():+.2f} ± {np.hypot(*errors):.2f}'
        if len(errors) == 2
        else f'{found.mean() - random.mean():+.2f}'
      )
    if len(means['evolved']):
      cells[5] = f'{means["evolved"].mean():.2f}'
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines) if len(lines) > 3 else ''


def _evolution(results):
  lines = [
    "\n### Evolution against the gates' own, same supernet\n",
    '| target | gates: CE scored, test top-1 | evolution: CE scored, test '
    'top-1 | networks scored | seconds (one core) |',
    '|---|---|---|---|---|',
  ]
  for share in SHARES:
    r = results.get(Row('evolution', FASHION, share).key)
    if r is None:
      continue
    own = r['gates_own_scored']['supernet_cross_entropy']
    lines.append(
      f'| {100 * share:.0f}% | {own:.4f}, '
      f'{100 * r["gates_own"]["supernet_top1"]:.2f}% | '
      f'{r["best"]["supernet_cross_entropy"]:.4f}, '
      f'{100 * r["supernet_top1"]:.2f}% | {r["evaluations"]} | '
      f'{r["evolution_seconds"]:.0f} |'
    )
  return '\n'.join(lines) if len(lines) > 3 else ''


def _gate_table(results):
  lines = [
    '\n### Slope of a gate against the true change of the loss\n',
    '| formulation | gate | mean abs change | slope at open | at closed | '
    'correlation: open | closed | mean of both |',
    '|---|---|---|---|---|---|---|---|',
  ]

  def show(value, spec):
    return '-' if value is None else format(value, spec)

  for row in rows():
    r = results.get(row.key)
    if row.kind != 'gates' or r is None:
      continue
    for kind in r['rows']:
      lines.append(
        f'| {row.group} | {kind["kind"]} ({kind["gates"]}) | '
        f'{kind["abs_change"]:.2g} | {kind["abs_slope_open"]:.2g} | '
        f'{kind["abs_slope_closed"]:.2g} | '
        f'{show(kind["correlation_open"], ".2f")} | '
        f'{show(kind["correlation_closed"], ".2f")} | '
        f'{show(kind["correlation_both"], ".2f")} |'
      )
  return '\n'.join(lines) if len(lines) > 3 else ''


def _tau(results, kind):
  lines = [
    "\n### Kendall's tau, supernet's CE against top-1 from scratch: "
    f'{_epochs(kind)}\n',
    '| supernet | whole space | both bands | '
    + ' | '.join(f'{100 * share:.0f}%' for share in TRAINED_SHARES)
    + ' |',
    '|---|---|---|' + '---|' * len(TRAINED_SHARES),
  ]
  top1 = {
    share: np.array(
      [
        np.mean(seeds[~np.isnan(seeds)]) if not np.isnan(seeds).all() else None
        for seeds in top1_by_network(
          results, 'random' if share else 'spread', share, kind
        )
      ],
      float,
    )
    for share in (0.0, *TRAINED_SHARES)
  }
  for group in RANKED:
    r = results.get(Row('ranking', FASHION, TRAINED_SHARES[-1], group).key)
    if r is None:
      continue
    trained = np.array([top1[n['share']][n['index']] for n in r['networks']])
    supernet = -np.array([n['cross_entropy'] for n in r['networks']])
    share = np.array([n['share'] for n in r['networks']])

    def tau(own, trained=trained, supernet=supernet):
      own = own & ~np.isnan(trained)
      if own.sum() < 2:
        return '-'
      value = scipy.stats.kendalltau(supernet[own], trained[own]).statistic
      return f'{value:.2f} ({own.sum()} networks)'

    cells = [tau(share == 0), tau(share > 0)]
    cells += [tau(share == s) for s in TRAINED_SHARES]
    lines.append(f'| {group} | {" | ".join(cells)} |')
  return '\n'.join(lines) if len(lines) > 3 else ''


def _effects(results, kinds):
  """Which decision is worth how much, from scratch and in a supernet.

  Over the random networks that were trained under all of the recipes `kinds`.
  """
  expansions = CONFIGS[FASHION].get_config().space.expansions
  decisions = (
    '5x5 for 3x3',
    *(f'expansion {b} for {a}' for a, b in itertools.pairwise(expansions)),
    'one more layer',
  )
  lines = [
    '\n### Change of the cross-entropy by a decision, times 1000: '
    f'{" and ".join(map(_epochs, kinds))}\n',
    'Least squares over the random networks trained so; ± standard error.\n',
    '| in | networks | ' + ' | '.join(decisions) + ' |',
    '|---|---|' + '---|' * len(decisions),
  ]
  empty = len(lines)
  for group in RANKED:
    r = results.get(Row('ranking', FASHION, TRAINED_SHARES[-1], group).key)
    if r is None:
      continue
    counts, scratch, supernet = [], [], []
    for n in r['networks']:
      name = 'random' if n['share'] else 'spread'
      own = [
        [
          results[key]['cross_entropy']
          for seed in TRAIN_SEEDS
          if (key := Row(kind, FASHION, n['share'], name, n['index'], seed).key)
          in results
        ]
        for kind in kinds
      ]
      if all(own):
        blocks = Architecture.from_string(n['architecture']).blocks
        counts.append(
          (
            sum(b.kernel == 5 for b in blocks),
            *(sum(b.expansion >= e for b in blocks) for e in expansions[1:]),
            len(blocks),
          )
        )
        scratch.append([np.mean(values) for values in own])
        supernet.append(n['cross_entropy'])
    sources = [('supernet of row ' + group, supernet)]
    if len(lines) == empty:
      names = (f'from scratch, {_epochs(kind)}' for kind in kinds)
      sources[:0] = zip(names, np.transpose(scratch), strict=True)
    for name, values in sources:
      cells = [
        f'{1000 * effect:+.1f} ± {1000 * error:.1f}'
        for effect, error in _least_squares(counts, values)
      ]
      lines.append(f'| {name} | {len(values)} | {" | ".join(cells)} |')
  return '\n'.join(lines) if len(lines) > empty else ''


def _kernels(results):
  """The found network at 55% against itself with 3x3 kernels."""
  share = TRAINED_SHARES[-1]
  lines = [
    '\n### The network found at 55%, and with all its kernels 3x3\n',
    '| epochs | found: top-1 | with 3x3 kernels | a 5x5 for a 3x3: top-1, CE x '
    '1000 |',
    '|---|---|---|---|',
  ]
  empty = len(lines)
  for kind, recipe in RECIPES.items():
    own = {
      group: [
        results.get(Row(kind, FASHION, share, group, 0, seed).key)
        for seed in TRAIN_SEEDS
      ]
      for group in ('found', 'narrow')
    }
    if None in own['found'] + own['narrow']:
      continue
    arch = Architecture.from_string(own['found'][0]['architecture'])
    count = sum(block.kernel == 5 for block in arch.blocks)
    change = {
      key: np.mean([r[key] for r in own['found']])
      - np.mean([r[key] for r in own['narrow']])
      for key in ('top1', 'cross_entropy')
    }
    cells = [
      ', '.join(f'{100 * r["top1"]:.2f}' for r in own[group])
      for group in ('found', 'narrow')
    ]
    lines.append(
      f'| {recipe["epochs"]:g} | {" | ".join(cells)} | '
      f'{100 * change["top1"] / count:+.3f} points, '
      f'{1000 * change["cross_entropy"] / count:+.1f} ({count} kernels) |'
    )
  return '\n'.join(lines) if len(lines) > empty else ''


def _table2(results):
  lines = [
    "\n### The paper's Table 2: kernels of their own and shared ones\n",
    '| seed | 3x3 | 5x5 | 3x3 inside the superkernel | 5x5, all of it |',
    '|---|---|---|---|---|',
  ]
  empty = len(lines)
  for seed in TRAIN_SEEDS:
    r = results.get(Row('kernels', seed=seed).key)
    if r is not None:
      cells = [
        f'{100 * r[f"{how}_{kernel}"]["top1"]:.2f}%'
        for how in ('individual', 'shared')
        for kernel in ('3x3', '5x5')
      ]
      lines.append(f'| {seed} | {" | ".join(cells)} |')
  return '\n'.join(lines) if len(lines) > empty else ''


def _epochs(kind: str) -> str:
  return f'{RECIPES[kind]["epochs"]:g} epochs'


def _ceiling(results, kind):
  """What the best judge there is, a whole training, says of another one."""
  lines = [
    '\n### How well one training predicts another of the networks: '
    f'{_epochs(kind)}\n',
    "| target | Kendall's tau between two training seeds | gain of the three "
    'best by one seed, in the other |',
    '|---|---|---|',
  ]
  empty = len(lines)
  for share in TRAINED_SHARES:
    tops = 100 * top1_by_network(results, 'random', share, kind)
    if np.isnan(tops).any():
      continue
    tau = scipy.stats.kendalltau(*tops.T).statistic
    gains = [
      tops[np.argsort(-judge)[:3], 1 - seed].mean() - tops[:, 1 - seed].mean()
      for seed, judge in enumerate(tops.T)
    ]
    lines.append(
      f'| {100 * share:.0f}% | {tau:.2f} ({len(tops)} networks) | '
      f'{np.mean(gains):+.2f} points ({gains[0]:+.2f}, {gains[1]:+.2f}) |'
    )
  return '\n'.join(lines) if len(lines) > empty else ''


def _least_squares(counts, values) -> list[tuple[float, float]]:
  """(coefficient, standard error) of each column beside a constant."""
  x = np.column_stack([np.ones(len(values)), np.array(counts, float)])
  y = np.array(values)
  inverse = np.linalg.inv(x.T @ x)
  coefficients = inverse @ x.T @ y
  noise = np.sum((y - x @ coefficients) ** 2) / (len(y) - x.shape[1])
  errors = np.sqrt(noise * np.diag(inverse))
  return list(zip(coefficients[1:], errors[1:], strict=True))


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--runs', default='runs/search_quality', help='working folder'
  )
  parser.add_argument(
    '--cores', default='0,1', help='one process on each of these'
  )
  parser.add_argument('--only', default='', help='rows whose key starts so')
  parser.add_argument('--row', help='this row alone, in this process')
  parser.add_argument('--list', action='store_true')
  parser.add_argument('--summary', action='store_true')
  args = parser.parse_args()
  runs = pathlib.Path(args.runs).resolve()
  cores = [int(core) for core in args.cores.split(',')]
  if args.list:
    results = load()
    for row in rows():
      print('done   ' if is_done(row, runs, results) else 'missing', row.key)
  elif args.summary:
    print(summary(load()))
  elif args.row:
    if hasattr(os, 'sched_setaffinity'):
      os.sched_setaffinity(0, cores)
    (row,) = [row for row in rows() if row.key == args.row]
    result = do(row, runs, load())
    kept = {**result, 'identity': identity(row, configuration(row, runs))}
    Workdir(runs / row.key).write('row.json', json.dumps(kept))
  else:
    run_all(runs, cores, args.only)


if __name__ == '__main__':
  main()
