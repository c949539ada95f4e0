"""The rows of `judge`: does a search beat luck, and who tells the truth?

The protocol, written before its runs (docs/lab/judge_protocol.md says why):

* Images: CIFAR-10 (JPEG), lossy, in class folders. A tenth of the training
  images is held out; whatever chooses (supernets, evolution, short trainings)
  sees these and training images. Test images are seen by rows of kind `train`,
  after the training, and by what a search reports after its choice.
* Space: `space_config`, 33 decisions, latencies from 0.035 to 0.370 ms on the
  committed table (`judge_table.json`, this host, one thread).
* Targets: SHARES of the way from the fastest to the slowest network. Random
  and found networks lie within 2% below.
* `train`: one recipe from scratch (`RECIPE`), TRAIN_SEEDS each. `random`: ten
  networks a target; `spread`: twelve of the whole space, one training each;
  `mobilenet`: mobilenet_v2 at the width whose measured ms are nearest to the
  target; any other group: what that chooser found.
* Choosers, by index = seed: `gradient` (a search a target), `worth` (one
  supernet for both targets), `evolution` over that supernet, `additive` (24
  short trainings, a linear model of them, knapsack), `halving` (successive
  halving over sixteen random networks of the target).
* `ranking`: every random network's score inside a supernet; `zero_cost`: its
  scores at initialisation.

A training of one network under one seed gives the same bits whoever found the
network, so it is done once.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from configs import cifar10
from spnas_jax.config.defaults import default_config
from spnas_jax.config.workdir import Workdir, fingerprint, stage_inputs
from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.architecture import Architecture
from spnas_jax.search.search_problem import SearchProblem
from tests.benchmarks.row_runner import Row

DATA = 'cifar10_jpeg'
TABLE = pathlib.Path(__file__).resolve().parent / 'judge_table.json'
SHARES = (0.15, 0.35)
NUM_RANDOM = 10
NUM_SPREAD = 12
TRAIN_SEEDS = (0, 1)
SEARCH_SEEDS = (0, 1, 2, 3)
RECIPE = {
  'epochs': 3.0,
  'batch_size': 64,
  'lr_warmup_epochs': 0.3,
  'checkpoint_epochs': 3.0,
}
SEARCH = {'epochs': 4.0, 'warmup_epochs': 1.5, 'checkpoint_epochs': 1.0}
# Control: an additive model of short trainings.
SHORT = {'epochs': 0.5, 'lr_warmup_epochs': 0.1, 'checkpoint_epochs': 0.5}
NUM_SHORT = 24
# Control: successive halving, (networks, epochs of each).
RUNGS = ((16, 0.25), (6, 0.5), (2, 1.5))
# Supernets, by how they differ from the default of `search.method='worth'`.
SUPERNETS: dict[str, dict[str, Any]] = {
  # As the protocol says it, whatever the default becomes.
  'worth': {'keep_probability': 0.5, 'worth': {'networks': 150}},
  # Added when the random networks were trained, for their ranking only.
  'keep70': {'keep_probability': 0.7},
  'keep30': {'keep_probability': 0.3},
  'groups': {'keep_probability': 0.5},
  'sandwich': {'keep_probability': 0.5},
  'distilled': {'keep_probability': 0.5},
  'sizes': {'keep_probability': 0.5},
}
# Those whose steps are other ones, see `supernet_variants`.
STEPS = ('groups', 'sandwich', 'distilled', 'sizes')
CHOOSERS = ('gradient', 'worth', 'evolution', 'additive', 'halving')


def rows() -> list[Row]:
  """All rows, in the order in which they are done."""

  def random(seed):
    return [
      Row('train', DATA, share, 'random', index, seed)
      for share in SHARES
      for index in range(NUM_RANDOM)
    ]

  def found(group, indices):
    return [
      Row('train', DATA, share, group, index, seed)
      for index in indices
      for share in SHARES
      for seed in TRAIN_SEEDS
    ]

  short = [Row('short', DATA, index=index) for index in range(NUM_SHORT)]
  first, *others = TRAIN_SEEDS
  return [
    *random(first),
    *(Row('search', DATA, 0.0, 'worth', index) for index in SEARCH_SEEDS[:2]),
    Row('ranking', DATA, group='worth'),
    *(row for seed in others for row in random(seed)),
    *found('worth', SEARCH_SEEDS[:2]),
    *short,
    Row('additive', DATA),
    *found('additive', (0,)),
    *(Row('search', DATA, 0.0, 'worth', index) for index in SEARCH_SEEDS[2:]),
    *found('worth', SEARCH_SEEDS[2:]),
    *(
      Row('search', DATA, share, 'gradient', index)
      for index in SEARCH_SEEDS
      for share in SHARES
    ),
    *found('gradient', SEARCH_SEEDS),
    *(Row('train', DATA, 0.0, 'spread', i) for i in range(NUM_SPREAD)),
    *(Row('mobilenet', DATA, share) for share in SHARES),
    *found('mobilenet', (0,)),
    *(Row('search', DATA, share, 'evolution') for share in SHARES),
    *found('evolution', (0,)),
    *(Row('halving', DATA, share) for share in SHARES),
    *found('halving', (0,)),
    Row('zero_cost', DATA),
    *(
      row
      for group in [name for name in SUPERNETS if name != 'worth']
      for row in (
        Row('search', DATA, 0.0, group),
        Row('ranking', DATA, group=group),
      )
    ),
  ]


def chosen_by(row: Row) -> Row | None:
  """The row that chose the network of a row `train`."""
  if row.group in ('random', 'spread'):
    return None
  if row.group == 'worth':
    return Row('search', DATA, 0.0, 'worth', row.index)
  if row.group == 'additive':
    return Row('additive', DATA, index=row.index)
  if row.group in ('halving', 'mobilenet'):
    return Row(row.group, DATA, row.share, index=row.index)
  return Row('search', DATA, row.share, row.group, row.index)


def needs(row: Row) -> list[Row]:
  """Rows that must be finished first."""
  if row.kind == 'train':
    return [first] if (first := chosen_by(row)) else []
  if row.kind == 'ranking':
    return [Row('search', DATA, 0.0, row.group, row.index)]
  if row.kind == 'additive':
    return [Row('short', DATA, index=i) for i in range(NUM_SHORT)]
  if row.group == 'evolution':
    return [Row('search', DATA, 0.0, 'worth', row.index)]
  return []


# --- configurations -----------------------------------------------------------


def space_config() -> ConfigDict:
  """Images, space and table.

  A stage of 16 px, one of 8 and one of 4, each layer with kernels, expansion
  ratios and squeeze-and-excitation to choose: what a millisecond buys differs
  from stage to stage, so networks of one latency differ.
  """
  config = cifar10.get_config('small')
  config.latency_table = str(TABLE)
  config.dataset.validation_fraction = 0.1
  # Mirrored, but not shifted: nothing overfits in three epochs.
  config.dataset.crop_padding = 0
  c = config.space
  c.stem_stride, c.stem_channels = 2, 16
  c.channels, c.layers, c.strides = (16, 32, 64), (3, 3, 3), (1, 2, 2)
  c.expansions, c.squeeze_ratios = (2, 6), (0.0, 0.25)
  c.head_channels = 256
  return config


@functools.cache
def problem() -> SearchProblem:
  """Space and table; its target is of no interest."""
  return SearchProblem.of(space_config())


def target_ms(share: float) -> float:
  """A share of the way from the fastest to the slowest network, ms."""
  low, high = problem().min_ms, problem().max_ms
  return low + share * (high - low)


def configuration(row: Row) -> ConfigDict:
  """What a row runs under, but for the folder of the images."""
  config = space_config()
  config.train.update(SHORT if row.kind == 'short' else RECIPE)
  if row.kind in ('short', 'halving', 'additive'):
    config.evaluate.split = 'validation'
  c = config.search
  c.update(SEARCH)
  if row.kind == 'search':
    config.seed = row.index
    if row.share:
      c.target_ms = target_ms(row.share)
  if row.group in SUPERNETS:
    c.method = 'worth'
    c.update(SUPERNETS[row.group])
    c.target_ms = target_ms(SHARES[0])
    c.targets_ms = tuple(map(target_ms, SHARES))
  if row.group == 'evolution':
    c.method = 'evolution'
    c.evolution.front_points = 0
  return config


@functools.cache
def identity(row: Row) -> str:
  """Hash of a row's settings: table, and every key that is not the default.

  A new key with a default that changes nothing leaves old rows valid; whoever
  changes a default deletes them.
  """
  sections = ['dataset', 'space']
  trains = row.kind in ('train', 'short', 'halving', 'mobilenet')
  sections += ['train'] if trains else ['search']
  config = configuration(row)
  default = stage_inputs(default_config(), *sections)
  changed = {
    key: value
    for key, value in stage_inputs(config, *sections).items()
    if value != default[key]
  }
  table = LatencyTable.load(config.latency_table)
  return fingerprint({**changed, 'table': table.to_json(), 'row': row.key})


# --- networks -----------------------------------------------------------------


def random_networks(share: float) -> list[Architecture]:
  """Networks in [target - 2%, target]; share 0: of the whole space."""
  if share:
    return _in_band(share, NUM_RANDOM, round(100 * share))
  return _drawn(NUM_SPREAD, NUM_SPREAD, lambda ms: True)


def _in_band(share: float, count: int, seed: int) -> list[Architecture]:
  target, slack = target_ms(share), space_config().search.slack
  return _drawn(count, seed, lambda ms: (1 - slack) * target <= ms <= target)


def _drawn(
  count: int, seed: int, accept: Callable[[float], bool]
) -> list[Architecture]:
  """Different networks, every decision by a fair coin, whose ms are accepted.

  Half of the layers that may be skipped are, so depths differ.
  """
  space, table = problem().space, problem().table
  rng = np.random.default_rng(seed)
  found: dict[str, Architecture] = {}
  while len(found) < count:
    coins = (rng.random(len(space.gates)) < 0.5).astype(np.float32)
    arch = space.architecture_of(space.choices_of(coins))
    if accept(table.predict(arch)):
      found[arch.to_string()] = arch
  return list(found.values())


def short_networks() -> list[Architecture]:
  """Networks of the whole space for the additive model."""
  return _drawn(NUM_SHORT, NUM_SHORT, lambda ms: True)


def network_of(row: Row, results: dict[str, Any]) -> Architecture:
  """The network of a row `train`."""
  first = chosen_by(row)
  if first is None:
    return random_networks(row.share)[row.index]
  chosen = results[first.key]
  if 'chosen' in chosen:  # For both targets.
    return Architecture.from_string(chosen['chosen'][f'{row.share:g}'])
  return Architecture.from_string(chosen['architecture'])


# --- what a row does ----------------------------------------------------------


def do(
  row: Row, workdir: Workdir, results: dict[str, Any], folder: str
) -> dict[str, Any]:
  """Runs one row; returns what is kept of it."""
  from spnas_jax import startup

  startup.prepare_jax()
  config = configuration(row)
  config.dataset.folder = folder
  return {
    'train': _train,
    'short': _short,
    'search': _search,
    'ranking': _ranking,
    'additive': _additive,
    'halving': _halving,
    'mobilenet': _mobilenet,
    'zero_cost': _zero_cost,
  }[row.kind](row, config, workdir, results)


def _scored(config, workdir, arch, seed, table=None) -> dict[str, Any]:
  from spnas_jax.training.trained import score_from_scratch

  return score_from_scratch(config, workdir, 'train', arch, seed, table)


def _train(row, config, workdir, results):
  arch = network_of(row, results)
  text = arch.to_string()
  for key, known in results.items():
    if (
      key.startswith('train-')
      and known['architecture'] == text
      and known['seed'] == row.seed
    ):
      return {**known, 'trained_as': known.get('trained_as', key)}
  # The table has the space's operations, not mobilenet_v2's.
  table = None if row.group == 'mobilenet' else problem().table
  return _scored(config, workdir, arch, row.seed, table)


def _short(row, config, workdir, results):
  return _scored(config, workdir, short_networks()[row.index], 0)


KEPT = (
  'predicted_ms',
  'architecture',
  'supernet_top1',
  'supernet_cross_entropy',
  'cost_images',
  'seconds',
)


def _search(row, config, workdir, results):
  from spnas_jax.stages import search
  from tests.benchmarks import supernet_variants

  if row.group in STEPS:
    supernet_variants.install(row.group)
  if row.group == 'evolution':
    config.search.evolution.supernet = str(
      workdir.path.parent / needs(row)[0].key
    )
  result = search.run(config, workdir)
  kept = {key: result[key] for key in (*KEPT, 'target_ms')}
  if row.group in SUPERNETS:
    kept |= {key: result[key] for key in ('decisions', 'curve')}
    kept['worth'] = {k: v for k, v in result['worth'].items() if k != 'scored'}
    kept['scored'] = _scores(workdir)
    kept['chosen'] = {
      f'{share:g}': point['architecture']
      for share, point in zip(SHARES, result['curve'], strict=True)
    }
  elif row.group == 'gradient':
    keys = ('raw_decode_ms', 'projected_layers', 'undecided_gates', 'warnings')
    kept |= {key: result[key] for key in keys}
  else:
    kept['evolution_seconds'] = result['evolution']['seconds']
  return kept


def _scores(workdir: Workdir) -> dict[str, float]:
  """Gates as '0110...' -> cross-entropy, of the networks that were scored."""
  with np.load(workdir / 'search/scored.npz') as arrays:
    gates, scores = arrays['gates'], arrays['cross_entropy']
  return {
    ''.join(str(int(gate)) for gate in own): float(score)
    for own, score in zip(gates, scores, strict=True)
  }


def all_random() -> list[tuple[float, int, Architecture]]:
  """(share, index, network) of everything that is ranked."""
  return [
    (share, index, arch)
    for share in (0.0, *SHARES)
    for index, arch in enumerate(random_networks(share))
  ]


def _ranking(row, config, workdir, results):
  from spnas_jax.search.search_record import finished_search
  from spnas_jax.search.subnets import Subnets

  config.search.evolution.supernet = str(
    workdir.path.parent / needs(row)[0].key
  )
  search, state = finished_search(config, workdir)
  subnets = Subnets(config, search.supernet, state.params, 2000)
  space = problem().space
  return {
    'scored_on': f'{subnets.num_images} {subnets.split} images',
    'networks': [
      {
        'share': share,
        'index': index,
        'architecture': arch.to_string(),
        **subnets.score(space.encode(arch)),
      }
      for share, index, arch in all_random()
    ],
  }


def _additive(row, config, workdir, results):
  """A linear model of short trainings in a dozen counts, and the knapsack."""
  from spnas_jax.search import worth as worths

  space, table = problem().space, problem().table
  short = [results[first.key] for first in needs(row)]
  gates = np.array([space.encode(arch) for arch in short_networks()])
  scores = np.array([own['cross_entropy'] for own in short])
  members = worths.groups(space)
  design = np.column_stack([np.ones(len(gates)), gates @ members])
  fitted = np.linalg.lstsq(design, scores, rcond=None)[0]
  left = scores - design @ fitted
  residual = float(np.sqrt(np.sum(left**2) / (len(left) - len(fitted))))
  values = -members @ fitted[1:]
  worth = worths.Worth(values, np.zeros(len(values)), fitted[0], residual)
  slack = config.search.slack
  return {
    'worths': worth.worths.tolist(),
    'residual': worth.residual,
    'seconds': sum(own['seconds'] for own in short),
    'chosen': {
      f'{share:g}': space.architecture_of(
        worths.choose(space, table, worth, target_ms(share), slack)
      ).to_string()
      for share in SHARES
    },
  }


def _halving(row, config, workdir, results):
  """Successive halving, judged on held-out images."""
  left = _in_band(row.share, RUNGS[0][0], 1000 + round(100 * row.share))
  seconds, rungs = 0.0, []
  for count, epochs in RUNGS:
    left = left[:count]
    config.train.update(
      epochs=epochs, lr_warmup_epochs=epochs / 5, checkpoint_epochs=epochs
    )
    place = Workdir(workdir / f'rung{count}')
    scored = [_scored(config, place, arch, row.index) for arch in left]
    seconds += sum(own['seconds'] for own in scored)
    order = np.argsort([own['cross_entropy'] for own in scored])
    left = [left[i] for i in order]
    rungs.append([float(scored[i]['cross_entropy']) for i in order])
  return {
    'architecture': left[0].to_string(),
    'rungs': rungs,
    'seconds': round(seconds, 3),
  }


def _mobilenet(row, config, workdir, results):
  """mobilenet_v2 at the width nearest to a random network's measured ms."""
  from spnas_jax.config.routes import zoo_network
  from spnas_jax.networks import zoo
  from tests.benchmarks.cifar10_jpeg import RIVAL, nearest_width

  near = nearest_width(config, random_networks(row.share)[0], workdir)
  arch = zoo_network(config, zoo.get(RIVAL), near['width'])
  return {**near, 'architecture': arch.to_string()}


def _zero_cost(row, config, workdir, results):
  from tests.benchmarks.zero_cost import score

  return {
    'networks': [
      {
        'share': share,
        'index': index,
        'architecture': arch.to_string(),
        **score(config, arch),
      }
      for share, index, arch in all_random()
    ]
  }
