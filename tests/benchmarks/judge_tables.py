"""What the rows of `judge` come to: its tables, in Markdown.

Each function takes finished rows by key and returns '' while it has none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.stats

from spnas_jax.networks.architecture import num_macs, num_params
from spnas_jax.report.significance import difference
from tests.benchmarks.judge_rows import (
  CHOOSERS,
  DATA,
  NUM_RANDOM,
  NUM_SHORT,
  NUM_SPREAD,
  SEARCH_SEEDS,
  SHARES,
  SUPERNETS,
  TRAIN_SEEDS,
  all_random,
  problem,
)
from tests.benchmarks.row_runner import Row

_SCALE = {'top1': 100, 'cross_entropy': 1000}
_RESAMPLED = 1000
_SIZES = {'random': NUM_RANDOM, 'spread': NUM_SPREAD, 'mobilenet': 1}


def summary(results: dict[str, Any]) -> str:
  """All tables."""
  tables = _noise, _against_random, _tau, _tau_off, _inside, _cost
  return '\n'.join(text for table in tables if (text := table(results)))


def trained(
  results: dict[str, Any], group: str, share: float
) -> dict[str, dict[str, np.ndarray]]:
  """Network -> {'top1', 'cross_entropy'}: of its trainings [n <= 2].

  A network that several searches found is one network.
  """
  found: dict[str, dict[int, dict[str, float]]] = {}
  for index in range(_SIZES.get(group, len(SEARCH_SEEDS))):
    for seed in TRAIN_SEEDS:
      row = results.get(Row('train', DATA, share, group, index, seed).key)
      if row:
        found.setdefault(row['architecture'], {})[seed] = row
  return {
    name: {
      key: np.array([own[seed][key] for seed in sorted(own)]) for key in _SCALE
    }
    for name, own in found.items()
  }


def means(results: dict[str, Any], group: str, share: float, key: str):
  """Mean over the trainings of each network, [networks]."""
  own = trained(results, group, share).values()
  return np.array([each[key].mean() for each in own])


def noise_of(results: dict[str, Any], key: str) -> float:
  """Standard deviation between trainings of one network; NaN = unknown.

  Seeds decide the order of the images as well, alike for all networks; what
  they change for all alike is no noise in a comparison and is taken out.
  """
  squares, freedom = 0.0, 0
  for share in SHARES:
    pairs = np.array(
      [
        each[key]
        for group in ('random', *CHOOSERS)
        for each in trained(results, group, share).values()
        if len(each[key]) == len(TRAIN_SEEDS)
      ]
    )
    if len(pairs) > 1:
      off = pairs[:, 0] - pairs[:, 1]
      squares += ((off - off.mean()) ** 2).sum() / 2
      freedom += len(off) - 1
  return float(np.sqrt(squares / freedom)) if freedom else np.nan


def between(values: np.ndarray, noise: float, trainings: int) -> float:
  """Standard deviation of networks without what trainings add to it."""
  return float(np.sqrt(max(0.0, values.var(ddof=1) - noise**2 / trainings)))


def _noise(results):
  lines = [
    '\n### Can it tell? Random networks against trainings of one\n',
    '| networks | top-1: mean, best | sd of networks | sd of trainings | '
    'ratio | CE x 1000: sd of networks | sd of trainings | ratio |',
    '|---|---|---|---|---|---|---|---|',
  ]
  empty = len(lines)
  for name, group, share in _groups():
    top = 100 * means(results, group, share, 'top1')
    if len(top) < 3:
      continue
    cells = [f'{name} ({len(top)})', f'{top.mean():.2f}, {top.max():.2f}']
    for key, scale in _SCALE.items():
      noise = noise_of(results, key)
      values = means(results, group, share, key)
      count = _trainings(results, group, share)
      if np.isnan(noise):
        cells += [f'{scale * values.std(ddof=1):.2f} with noise', '–', '–']
        continue
      real = between(values, noise, count)
      cells += [f'{scale * x:.2f}' for x in (real, noise)]
      cells.append(f'{real / noise:.1f}')
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines) if len(lines) > empty else ''


def _trainings(results, group, share) -> int:
  own = trained(results, group, share).values()
  return min(len(each['top1']) for each in own)


def _groups():
  """(name, group, share) of the random networks."""
  yield 'whole space', 'spread', 0.0
  for share in SHARES:
    yield f'{100 * share:.0f}%', 'random', share


def _against_random(results):
  lines = [
    '\n### Found against random networks of one latency\n',
    '| target | chooser | networks (searches) | top-1 | minus random ± '
    'standard error | in sd of random networks | CE x 1000, minus random |',
    '|---|---|---|---|---|---|---|',
  ]
  empty = len(lines)
  for share in SHARES:
    random = {key: means(results, 'random', share, key) for key in _SCALE}
    if len(random['top1']) < 3:
      continue
    lines.append(
      f'| {100 * share:.0f}% | random | {len(random["top1"])} | '
      f'{100 * random["top1"].mean():.2f} ± '
      f'{100 * random["top1"].std(ddof=1):.2f} | | | |'
    )
    for group in (*CHOOSERS, 'mobilenet'):
      own = {key: means(results, group, share, key) for key in _SCALE}
      if not len(own['top1']):
        continue
      offs = {key: difference(random[key], own[key]) for key in _SCALE}
      searches = sum(
        Row('train', DATA, share, group, index, TRAIN_SEEDS[0]).key in results
        for index in SEARCH_SEEDS
      )
      spread = offs['top1'].value / random['top1'].std(ddof=1)
      cells = [
        f'{len(own["top1"])} ({searches})',
        f'{100 * own["top1"].mean():.2f}',
        *(
          f'{scale * offs[key].value:+.2f} ± '
          f'{scale * offs[key].standard_error:.2f}'
          for key, scale in _SCALE.items()
        ),
      ]
      cells.insert(3, f'{spread:+.1f}')
      lines.append(f'| {100 * share:.0f}% | {group} | {" | ".join(cells)} |')
  return '\n'.join(lines) if len(lines) > empty else ''


def judges(results: dict[str, Any]) -> dict[str, dict[str, float]]:
  """Judge -> network -> score, the lower the better."""
  space, table = problem().space, problem().table
  networks = [arch for _, _, arch in all_random()]
  names = [arch.to_string() for arch in networks]
  found = {
    'predicted ms': {
      n: -table.predict(a) for n, a in zip(names, networks, strict=True)
    },
    'parameters': {
      n: -num_params(a) for n, a in zip(names, networks, strict=True)
    },
    'multiply-adds': {
      n: -num_macs(a, 32) for n, a in zip(names, networks, strict=True)
    },
  }
  if row := results.get(Row('zero_cost', DATA).key):
    for key in ('synflow', 'jacob_cov'):
      found[key] = {n['architecture']: -n[key] for n in row['networks']}
  gates = np.array([space.encode(arch) for arch in networks])

  def additive(worths):
    return dict(zip(names, -gates @ np.array(worths), strict=True))

  if row := results.get(Row('additive', DATA).key):
    found[f'{NUM_SHORT} short trainings, additive'] = additive(row['worths'])
  for group in SUPERNETS:
    for index in SEARCH_SEEDS:
      if row := results.get(Row('ranking', DATA, 0.0, group, index).key):
        found[f'supernet {group} {index}, scored'] = {
          n['architecture']: n['cross_entropy'] for n in row['networks']
        }
      if row := results.get(Row('search', DATA, 0.0, group, index).key):
        worths = [own['worth'] for own in row['decisions']]
        found[f'supernet {group} {index}, worths'] = additive(worths)
  return found


def _tau(results):
  """Kendall's tau with the cross-entropy from scratch, and top-1's."""
  truth = {
    name: trained(results, group, share) for name, group, share in _groups()
  }
  if any(len(own) < 3 for name, own in truth.items() if name != 'whole space'):
    return ''
  truth = {'all': {k: v for own in truth.values() for k, v in own.items()}} | {
    name: own for name, own in truth.items() if len(own) > 2
  }
  lines = [
    "\n### Kendall's tau with trainings from scratch: cross-entropy, top-1\n",
    '| judge | '
    + ' | '.join(f'{k} ({len(v)})' for k, v in truth.items())
    + ' |',
    '|---|' + '---|' * len(truth),
  ]

  def taus(values, own):
    found = []
    for key, sign in (('cross_entropy', 1), ('top1', -1)):
      known = [sign * own[name][key].mean() for name in own]
      found.append(scipy.stats.kendalltau(values, known).statistic)
    return ', '.join(f'{tau:.2f}' for tau in found)

  for judge, scores in judges(results).items():
    cells = [
      taus([scores[name] for name in own], own) for own in truth.values()
    ]
    lines.append(f'| {judge} | {" | ".join(cells)} |')
  cells = []
  for own in truth.values():
    perfect = []
    for key in ('cross_entropy', 'top1'):
      values = np.array([each[key].mean() for each in own.values()])
      count = np.mean([len(each[key]) for each in own.values()])
      noise = noise_of(results, key) ** 2 / count
      if np.isnan(noise):
        perfect.append('–')
        continue
      r = np.sqrt(max(0.0, 1 - noise / values.var(ddof=1)))
      perfect.append(f'{2 / np.pi * np.arcsin(r):.2f}')
    cells.append(', '.join(perfect))
  lines.append(f'| perfect judge (estimate) | {" | ".join(cells)} |')
  return '\n'.join(lines)


def _tau_off(results):
  """How far a judge's tau is above that of ranking by a number one has anyway.

  Standard errors by drawing the networks again, with repetition: two judges of
  the same networks share most of their error.
  """
  own = {
    name: each
    for share in SHARES
    for name, each in trained(results, 'random', share).items()
  }
  if len(own) < NUM_RANDOM:
    return ''
  known = np.array([each['cross_entropy'].mean() for each in own.values()])
  scores = {
    judge: np.array([each[name] for name in own])
    for judge, each in judges(results).items()
  }
  rng = np.random.default_rng(0)
  samples = rng.integers(len(own), size=(_RESAMPLED, len(own)))

  def taus(values):
    return np.array(
      [scipy.stats.kendalltau(values[i], known[i]).statistic for i in samples]
    )

  drawn = {judge: taus(values) for judge, values in scores.items()}
  whole = {
    judge: scipy.stats.kendalltau(values, known).statistic
    for judge, values in scores.items()
  }
  rivals = 'predicted ms', 'parameters', 'multiply-adds'
  lines = [
    "\n### Kendall's tau (cross-entropy, all), minus that of ...\n",
    f'| judge | {" | ".join(rivals)} |',
    '|---|' + '---|' * len(rivals),
  ]
  for judge in scores:
    if judge not in rivals:
      cells = [
        f'{whole[judge] - whole[rival]:+.2f} ± '
        f'{np.nanstd(drawn[judge] - drawn[rival]):.2f}'
        for rival in rivals
      ]
      lines.append(f'| {judge} | {" | ".join(cells)} |')
  return '\n'.join(lines)


def _inside(results):
  """A curve's networks inside the supernet, and trained from scratch."""
  lines = [
    '\n### Inside the supernet and from scratch, top-1 on test images\n',
    '| supernet | target | predicted ms | inside | from scratch |',
    '|---|---|---|---|---|',
  ]
  empty = len(lines)
  for group in SUPERNETS:
    for index in SEARCH_SEEDS:
      row = results.get(Row('search', DATA, 0.0, group, index).key)
      for share, point in zip(
        SHARES, row['curve'] if row else (), strict=False
      ):
        own = trained(results, group, share).get(point['architecture'])
        if own is not None:
          off = point['predicted_ms'] / point['target_ms'] - 1
          lines.append(
            f'| {group} {index} | {100 * share:.0f}% | '
            f'{point["predicted_ms"]:.4f} ({100 * off:+.1f}%) | '
            f'{100 * point["supernet_top1"]:.2f} | '
            f'{100 * own["top1"].mean():.2f} |'
          )
  return '\n'.join(lines) if len(lines) > empty else ''


def _cost(results):
  """Seconds of one core."""
  lines = [
    '\n### What choosing costs\n',
    '| chooser | seconds of one core, mean |',
    '|---|---|',
  ]
  empty = len(lines)
  for group in CHOOSERS:
    seconds = [
      row['seconds']
      for key, row in results.items()
      if key.split('-')[0] != 'train'
      and (f'-{group}-' in key or key.startswith(f'{group}-'))
      and 'seconds' in row
      and not key.startswith('ranking')
    ]
    if seconds:
      lines.append(
        f'| {group} | {np.mean(seconds):.0f} ({len(seconds)} runs) |'
      )
  return '\n'.join(lines) if len(lines) > empty else ''
