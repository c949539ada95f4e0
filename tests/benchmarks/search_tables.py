"""What the rows of `search_quality` come to: its tables, in Markdown.

Each function takes finished rows by key and returns '' while it has none.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import scipy.stats

from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.architecture import Architecture
from spnas_jax.report.significance import difference, network_means
from tests.benchmarks.search_rows import (
  CONFIGS,
  FASHION,
  MORE_SEARCH_SEEDS,
  NUM_RANDOM,
  NUM_SPREAD,
  RANKED,
  RECIPES,
  SEARCH_SEEDS,
  SHARES,
  TRAIN_SEEDS,
  TRAINED_SHARES,
  Row,
  rows,
)


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
    _effects(results),
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
  for row in sorted(rows(), key=lambda row: (row.share, row.seed)):
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


_COUNTS = {
  'random': NUM_RANDOM,
  'found': len(SEARCH_SEEDS + MORE_SEARCH_SEEDS),
  'evolved': 1,
  'spread': NUM_SPREAD,
}


def _trained_rows(results, group: str, share: float, kind: str) -> list[dict]:
  """The finished trainings of a group's networks, `kind` set to the group."""
  keys = (
    Row(kind, FASHION, share, group, i, seed).key
    for i in range(_COUNTS[group])
    for seed in TRAIN_SEEDS
  )
  return [{**results[key], 'kind': group} for key in keys if key in results]


def by_network(
  results, group: str, share: float, kind: str, key: str = 'top1'
) -> np.ndarray:
  """`key` of the group's networks [networks, training seeds]; NaN = missing."""
  return np.array(
    [
      [
        results.get(Row(kind, FASHION, share, group, i, seed).key, {}).get(
          key, np.nan
        )
        for seed in TRAIN_SEEDS
      ]
      for i in range(_COUNTS[group])
    ]
  )


def _against_random(results, kind):
  lines = [
    f'\n### Found against random networks of one latency: {_epochs(kind)}\n',
    '| target | random: mean ± sd over networks (best) | sd over training '
    'seeds | found | difference ± standard error (chance reaches) | of the CE, '
    'times 1000 | '
    'evolved |',
    '|---|---|---|---|---|---|---|',
  ]
  for share in TRAINED_SHARES:
    tops = {
      group: 100 * by_network(results, group, share, kind)
      for group in ('random', 'found', 'evolved')
    }
    if np.isnan(tops['random']).all():
      continue
    means = {group: _known_means(values) for group, values in tops.items()}
    random, found = means['random'], means['found']
    # Within a network: from its seeds' differences.
    pairs = np.concatenate([tops['random'], tops['found']])
    pairs = pairs[~np.isnan(pairs).any(1)]
    noise = np.sqrt(pairs.var(1, ddof=1).mean()) if len(pairs) else np.nan
    cells = [
      f'{100 * share:.0f}%',
      f'{random.mean():.2f} ± {random.std(ddof=1):.2f} ({random.max():.2f})',
      f'{noise:.2f}',
      *([''] * 4),
    ]
    if len(found):
      cells[3] = f'{found.mean():.2f} ({", ".join(f"{x:.2f}" for x in found)})'
      cells[4] = _difference(results, share, kind, 'top1')
      cells[5] = _difference(results, share, kind, 'cross_entropy')
    if len(means['evolved']):
      cells[6] = f'{means["evolved"].mean():.2f}'
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines) if len(lines) > 3 else ''


def _known_means(values: np.ndarray) -> np.ndarray:
  """Means over seeds of the networks [networks, seeds] that have any."""
  means = _mean_over_seeds(values)
  return means[~np.isnan(means)]


def _difference(results, share: float, kind: str, key: str) -> str:
  """Found minus random, its standard error and how far chance alone reaches.

  A network that several searches found is one network: the mean over all its
  trainings.
  """
  scale, digits = (100, 2) if key == 'top1' else (1000, 1)

  def means(group):
    rows = _trained_rows(results, group, share, kind)
    return network_means([{**r, 'top1': r[key]} for r in rows], group)

  off = difference(means('random'), means('found'))
  if off is None:
    return ''
  value, error, margin = (
    scale * x for x in (off.value, off.standard_error, off.margin)
  )
  return f'{value:+.{digits}f} ± {error:.{digits}f} ({margin:.{digits}f})'


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
    "\n### Kendall's tau, supernet's CE against top-1, and CE, from scratch: "
    f'{_epochs(kind)}\n',
    '| supernet | all | whole space | both bands | '
    + ' | '.join(f'{100 * share:.0f}%' for share in TRAINED_SHARES)
    + ' |',
    '|---|---|---|---|' + '---|' * len(TRAINED_SHARES),
  ]
  empty = len(lines)
  # What training says, the better the larger, by measure and share.
  scratch = {
    (key, share): sign
    * _mean_over_seeds(
      by_network(results, 'random' if share else 'spread', share, kind, key)
    )
    for key, sign in (('top1', 1), ('cross_entropy', -1))
    for share in (0.0, *TRAINED_SHARES)
  }
  judges = {
    group: [(n, n['cross_entropy']) for n in r['networks']]
    for group in RANKED
    if (
      r := results.get(Row('ranking', FASHION, TRAINED_SHARES[-1], group).key)
    )
  }
  if judges:
    # What is known without any training: of two networks, the slower one.
    table = LatencyTable.load(CONFIGS[FASHION].get_config().latency_table)
    judges['none: predicted ms'] = [
      (n, -table.predict(Architecture.from_string(n['architecture'])))
      for n, _ in next(iter(judges.values()))
    ]
  for name, judged in judges.items():

    def tau(*shares, judged=judged):
      taus = []
      for key in ('top1', 'cross_entropy'):
        pairs = np.array(
          [
            (-value, scratch[key, n['share']][n['index']])
            for n, value in judged
            if n['share'] in shares
          ]
        )
        pairs = pairs[~np.isnan(pairs[:, 1])]
        if len(pairs) < 3:
          return '-'
        taus.append(f'{scipy.stats.kendalltau(*pairs.T).statistic:.2f}')
      return f'{", ".join(taus)} ({len(pairs)})'

    cells = [tau(0.0, *TRAINED_SHARES), tau(0.0), tau(*TRAINED_SHARES)]
    cells += map(tau, TRAINED_SHARES)
    lines.append(f'| {name} | {" | ".join(cells)} |')
  return '\n'.join(lines) if len(lines) > empty else ''


def _mean_over_seeds(values: np.ndarray) -> np.ndarray:
  """[networks, seeds] to [networks], over those that are there; NaN: none."""
  return np.ma.masked_invalid(values).mean(1).filled(np.nan)


def _effects(results):
  """Which decision is worth how much, from scratch and in a supernet.

  Over the random networks that were trained under both recipes.
  """
  expansions = CONFIGS[FASHION].get_config().space.expansions
  decisions = (
    '5x5 for 3x3',
    *(f'expansion {b} for {a}' for a, b in itertools.pairwise(expansions)),
    'one more layer',
  )
  lines = [
    '\n### Change of the cross-entropy by a decision, times 1000\n',
    'Least squares over the random networks; ± standard error.\n',
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
        for kind in RECIPES
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
      names = (f'from scratch, {_epochs(kind)}' for kind in RECIPES)
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
    '| kernels | 3x3: top-1, CE | 5x5 |',
    '|---|---|---|',
  ]
  r = results.get(Row('kernels').key)
  if r is None:
    return ''
  for how, name in (
    ('individual', 'trained on their own'),
    ('shared', 'subsets of one superkernel'),
  ):
    scores = (r[f'{how}_{kernel}'] for kernel in ('3x3', '5x5'))
    cells = [
      f'{100 * x["top1"]:.2f}%, {x["cross_entropy"]:.4f}' for x in scores
    ]
    lines.append(f'| {name} | {" | ".join(cells)} |')
  return '\n'.join(lines)


def _epochs(kind: str) -> str:
  return f'{RECIPES[kind]["epochs"]:g} epochs'


def _ceiling(results, kind):
  """What the best judge there is, a whole training, says of another one.

  And the tau that a perfect judge would reach, who knew each network's mean
  over all trainings: 2/pi asin(r) for normal values, r^2 being the share of the
  variance between networks that is not training noise. Noise is that of the
  networks that were trained twice.
  """
  lines = [
    '\n### How well one training predicts another of the networks: '
    f'{_epochs(kind)}\n',
    "| networks | Kendall's tau between two training seeds: top-1, CE | gain "
    'of the three best by one seed, in the other | sd of top-1: of networks as '
    'trained, of trainings | tau of a perfect judge: top-1, CE |',
    '|---|---|---|---|---|',
  ]
  empty = len(lines)
  keys = ('top1', 'cross_entropy')

  def values(key, *shares):
    return np.concatenate(
      [
        by_network(results, 'random' if share else 'spread', share, kind, key)
        for share in shares
      ]
    )

  if np.isnan(values('top1', *TRAINED_SHARES)).any():
    return ''
  groups = {f'{100 * share:.0f}%': (share,) for share in TRAINED_SHARES}
  groups |= {'both bands': TRAINED_SHARES, 'whole space': (0.0,)}
  for name, shares in groups.items():
    cells = [name, '', '', '', '']
    tops = 100 * values('top1', *shares)
    if not np.isnan(tops).any():
      taus = [
        scipy.stats.kendalltau(*values(key, *shares).T).statistic
        for key in keys
      ]
      cells[1] = ', '.join(f'{tau:.2f}' for tau in taus)
    if len(shares) == 1 and cells[1]:
      gains = [
        tops[np.argsort(-judge)[:3], 1 - seed].mean() - tops[:, 1 - seed].mean()
        for seed, judge in enumerate(tops.T)
      ]
      cells[2] = (
        f'{np.mean(gains):+.2f} points ({gains[0]:+.2f}, {gains[1]:+.2f})'
      )
    perfect = []
    for key in keys:
      noise = values(key, *TRAINED_SHARES).var(1, ddof=1).mean()
      known = values(key, *shares)
      known = known[~np.isnan(known).all(1)]
      if len(known) > 2:
        seeds = (~np.isnan(known[0])).sum()
        total = _mean_over_seeds(known).var(ddof=1)
        r = np.sqrt(max(0.0, 1 - noise / seeds / total))
        perfect.append(f'{2 / np.pi * np.arcsin(r):.2f}')
        if key == 'top1':
          cells[3] = f'{100 * total**0.5:.2f}, {100 * noise**0.5:.2f} points'
    if perfect:
      cells[0] += f' ({len(known)})'
      cells[4] = ', '.join(perfect)
      lines.append(f'| {" | ".join(cells)} |')
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
