"""The rows of `search_quality`: what each is, runs under and does.

Kinds of rows (all Fashion-MNIST images unless said; `configs/fashion_mnist.py`
as it is, seeds and targets apart; targets are shares of the largest network's
ms):

* search    four targets x three seeds (four at two of them); the same for
            digits, on the host's table and on a made-up one of another shape.
* train     from scratch at two targets: 10 random networks within 2% below the
            target, what three search seeds found and what evolution found, each
            under two training seeds and one recipe; and 20 random networks of
            the whole space, under one seed.
* long      all of these but the evolved ones once more, three times as long.
            So are the networks of one more search seed. Under both recipes
            also what was found at 55% with all its kernels 3x3 ('narrow').
* kernels   the paper's Table 2, as long: 3x3 and 5x5 kernels trained on their
            own and as subsets of one superkernel.
* evolution over the supernet of each target's first search.
* gates     slope of a gate against the true change of the loss, for the
            default formulation and for the authors' own.
* supernet  trained for as many epochs as a search, all of them warm-up; with
            gates open as often as in a search, and less often; and for twice as
            many epochs.
* ranking   scores of all random networks inside those supernets, and inside one
            that was searched.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from configs import digits, fashion_mnist
from spnas_jax.config.defaults import default_config
from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir, fingerprint, stage_inputs
from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.architecture import Architecture
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.stages.random_search import draw
from spnas_jax.training.trained import score_from_scratch

FASHION = 'fashion_mnist'
CONFIGS = {
  FASHION: fashion_mnist,
  'digits': digits,
  'digits_made_up': digits,
}
SHARES = (0.40, 0.55, 0.70, 0.85)
TRAINED_SHARES = (0.40, 0.55)
SEARCH_SEEDS = (0, 1, 2)
# One more search for the two targets at which networks are trained; those are
# trained long only.
MORE_SEARCH_SEEDS = (3,)
TRAIN_SEEDS = (0, 1)
NUM_RANDOM = 10
NUM_SPREAD = 20
# How supernets are trained other than 'supernet', which has the default's.
SUPERNETS: dict[str, dict[str, float]] = {
  'keep50': {'keep_probability': 0.5},
  'keep30': {'keep_probability': 0.3},
  'epochs8': {'epochs': 8.0},
}
# Supernets that random networks are ranked in, by the row they come from.
RANKED = ('search', 'supernet', *SUPERNETS)
# Recipes of the networks trained here; docs/lab/search_log.md says how
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

  def searches(data, shares, seeds=SEARCH_SEEDS):
    return [
      Row('search', data, share, seed=seed)
      for share in shares
      for seed in seeds
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
    *(Row('supernet', share=middle, group=g) for g in ('', *SUPERNETS)),
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
    *searches(FASHION, TRAINED_SHARES, MORE_SEARCH_SEEDS),
    *(
      Row('long', FASHION, share, 'found', index, seed)
      for seed in TRAIN_SEEDS
      for share in TRAINED_SHARES
      for index in MORE_SEARCH_SEEDS
    ),
    *trained('spread', NUM_SPREAD, (0.0,), TRAIN_SEEDS[:1], kind='long'),
    Row('kernels'),
  ]


def needs(row: Row) -> Row | None:
  """The row that must be finished first."""
  if row.group in ('found', 'narrow'):
    return Row('search', row.data, row.share, seed=row.index)
  if row.group == 'evolved':
    return Row('evolution', row.data, row.share)
  if row.kind == 'ranking':
    if row.group in SUPERNETS:
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
  from spnas_jax.latency.entries import space_entries

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
  config.seed = row.seed if row.kind == 'search' else 0
  if row.data == FASHION:  # As the first rows said it: part of their identity.
    config.dataset.update(mean=(0.286,), std=(0.353,))
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
    config.search.update(SUPERNETS.get(row.group, {}))
    config.search.warmup_epochs = config.search.epochs
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
  from spnas_jax.stages import search

  if row.kind == 'supernet':  # All of it warm-up; nothing is bred.
    config.search.method = 'evolution'
    config.search.evolution.update(population=2, generations=0, front_points=0)
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
  from spnas_jax.search.shared_kernels import shared_kernels

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
  problem = SearchProblem.of(config, table)
  return draw(problem, middle, band, NUM_RANDOM, rng)


def _ranking(row, config, workdir, results):
  from spnas_jax.search.search_record import finished_search
  from spnas_jax.search.subnets import Subnets

  space = make_space(config)
  search, state = finished_search(config, workdir)
  subnets = Subnets(config, search.supernet, state.params, 2000)
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
  from spnas_jax.stages import ablate, search

  if row.group == 'sampled':
    workdir = Workdir(workdir.path.parent / needs(row).key)
  found = search.run(config, workdir)
  measured = ablate.gates(config, workdir)
  kept = {k: v for k, v in measured.items() if k != 'per_gate'}
  return {**kept, 'architecture': found['architecture']}
