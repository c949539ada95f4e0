"""Stage `compare_zoo`: known networks, trained alike (as in Table 1).

Zoo networks, the network that the workdir's search found, what its random
search drew and the points of a curve that it trained, on one data set with one
recipe, `config.train`. Several widths of
a network make a family: accuracy against ms, as in the paper's Fig. 8. What was
not run has a row that says so.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from spnas_jax.config.routes import (
  found_network,
  space_network,
  zoo_network,
)
from spnas_jax.config.spaces import dataset_facts
from spnas_jax.config.workdir import (
  Workdir,
  differences,
  stage_inputs,
)
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.data.folder_names import title
from spnas_jax.latency import measuring
from spnas_jax.latency.devices import Device
from spnas_jax.latency.entries import network_tflite
from spnas_jax.latency.open_device import open_device
from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks import zoo
from spnas_jax.networks.architecture import Architecture, num_macs, num_params
from spnas_jax.search.search_problem import load_table
from spnas_jax.stages.frame import Task, stage
from spnas_jax.training.run_setup import check_recipe, check_split
from spnas_jax.training.trained import score_from_scratch

STAGE = 'compare_zoo'
FOUND, RANDOM, CURVE = 'found', 'random_search', 'curve'

# Keys that a trained row depends on, beside its network and its seed.
_RECIPE = (
  'dataset',
  'train',
  'evaluate.split',
  'space.batch_norm_momentum',
  'space.batch_norm_epsilon',
)
# Epochs of ImageNet that the search for a network took, as the Single-Path NAS
# paper puts it in Table 1; FBNet's are of a tenth of ImageNet.
_SEARCH_EPOCHS = {
  'mnasnet_b1': 40_000.0,
  'proxylessnas_r_mobile': 200.0,
  'fbnet_b': 90.0,
  'single_path_nas': 8.0,
}


@dataclasses.dataclass(frozen=True)
class Entry:
  """A network to train.

  Attributes:
    name: zoo name, or `FOUND`.
    width: channels over the original's.
    arch: the network, made for the data set.
    search_epochs: what its search took; None = not searched, or not known.
  """

  name: str
  width: float
  arch: Architecture
  search_epochs: float | None


def check(config: ConfigDict, workdir: Workdir) -> None:
  """Refuses what can be refused before anything is compiled.

  Raises:
    UserError: the device, the table, the data or the batch cannot be used.
  """
  if not config.compare_zoo.measure:
    load_table(config)
  elif STAGE not in workdir.results():
    open_device(config)
  check_split(config)
  check_recipe(config, workdir, 'train')


def prepare(config: ConfigDict, workdir: Workdir) -> Task:
  """Trains and times the networks, one resumable row each.

  Raises:
    UserError: the device or the table cannot be used.
  """
  c = config.compare_zoo
  device = open_device(config) if c.measure else None
  table = None if c.measure else load_table(config)
  found = found_network(config, workdir)
  results = workdir.results()
  # What a row depends on; which rows there are may change between runs.
  shared = stage_inputs(
    config,
    'seed',
    *_RECIPE,
    'profile',
    measured_on=device and device.describe()['device'],
  )
  inputs = {
    **shared,
    **stage_inputs(config, STAGE),
    'table': table and table.fingerprint(),
    'found': found and found.to_string(),
    **{
      stage: results.get(stage, {}).get('config_hash')
      for stage in ('search', RANDOM)
    },
  }

  def compare() -> dict[str, Any]:
    search, luck = results.get('search', {}), results.get(RANDOM)
    entries = _entries(config, found, search)
    why_not = _incomparable(config, luck)
    drawn = [] if why_not else _all_drawn(luck)
    if not why_not:
      entries += _points(config, luck, search)
    rows = _train_all(config, workdir, entries, drawn)
    random = _random(drawn)
    archs = [entry.arch for entry in entries]
    archs += [space_network(config, row['architecture']) for row in random]
    times = _milliseconds(config, workdir, archs, device, table)
    for row, ms in zip([*rows, *random], times, strict=True):
      row['ms'] = ms
      row['ms_kind'] = ms and ('measured' if device else 'predicted')
    if found is None:
      rows.append(_blank(FOUND, 'not run: --stage=search was not'))
    rows.append(
      _blank(RANDOM, f'not run: {why_not}') if why_not else _luck_row(luck)
    )
    rows += [
      _blank(name, 'not run: not in compare_zoo.networks')
      for name in zoo.names()
      if name not in c.networks
    ]
    say(spell(config, rows))
    return {
      'rows': rows,
      'random': random,
      'epochs': config.train.epochs,
      'image_size': config.dataset.image_size,
    }

  return Task(
    inputs,
    compare,
    claim=shared,
    after=lambda: measuring.forget(STAGE, workdir),
  )


run = stage(STAGE, prepare, check)


def _entries(
  config: ConfigDict, found: Architecture | None, search: dict[str, Any]
) -> list[Entry]:
  """The networks to train, family by family."""
  c = config.compare_zoo
  entries = []
  for name in c.networks:
    for width in c.widths:
      arch = zoo_network(config, zoo.get(name), width)
      entries.append(Entry(name, width, arch, _SEARCH_EPOCHS.get(name)))
  if found is not None:
    own = search.get('architecture') == found.to_string()
    epochs = search.get('cost_epochs') if own else None
    entries += [
      Entry(FOUND, width, zoo.scale_width(found, width), epochs)
      for width in c.found_widths
    ]
  return entries


def _points(
  config: ConfigDict, luck: Any, search: dict[str, Any]
) -> list[Entry]:
  """The points of a curve that the random search trained."""
  return [
    Entry(
      CURVE,
      1.0,
      space_network(config, point['networks'][0]['architecture']),
      search.get('cost_epochs'),
    )
    for point in luck.get('curve', ())
  ]


def _all_drawn(luck: Any) -> list[dict[str, Any]]:
  """Rows of a random search, at all of its targets."""
  places = [luck, *luck.get('curve', ())]
  return [row for place in places for row in place['networks']]


def _random(drawn: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """{'architecture', 'top1'} of random networks, seeds averaged."""
  scores: dict[str, list[float]] = {}
  for row in drawn:
    if row['kind'] == 'random':
      scores.setdefault(row['architecture'], []).append(row['top1'])
  return [
    {'architecture': name, 'top1': float(np.mean(values))}
    for name, values in scores.items()
  ]


def _train_all(
  config: ConfigDict,
  workdir: Workdir,
  entries: list[Entry],
  drawn: list[dict[str, Any]],
) -> list[dict[str, Any]]:
  """A row for each network; not trained again where a random search did it."""
  known = {
    row['architecture']: row for row in drawn if row['seed'] == config.seed
  }
  rows = []
  for entry in entries:
    text = entry.arch.to_string()
    scores = known.get(text) or score_from_scratch(
      config, workdir, STAGE, entry.arch, config.seed, None
    )
    rows.append(
      {
        **_blank(entry.name, 'done'),
        'width': entry.width,
        'top1': scores['top1'],
        'top5': scores['top5'],
        'params': num_params(entry.arch),
        'macs': num_macs(entry.arch, config.dataset.image_size),
        'search_epochs': entry.search_epochs,
        'architecture': text,
      }
    )
    say(
      f'compare_zoo: {len(rows)}/{len(entries)}  {entry.name} at width '
      f'{entry.width:g}  top-1 {100 * rows[-1]["top1"]:.2f}%  '
      f'{rows[-1]["params"]:,} parameters'
    )
  return rows


def _milliseconds(
  config: ConfigDict,
  workdir: Workdir,
  archs: list[Architecture],
  device: Device | None,
  table: LatencyTable | None,
) -> list[float | None]:
  """Latency of each network, interleaved on the device or from the table."""
  if device is None:
    return [_predict(table, arch) for arch in archs]
  rng = np.random.default_rng(config.seed)
  image_size = config.dataset.image_size
  precision = table.precision if table else 'float32'
  models = {
    arch.to_string(): network_tflite(arch, image_size, rng, None, precision)
    for arch in archs
  }
  timings = measuring.measure(STAGE, workdir, device, models, config.profile)
  return [timings[arch.to_string()].ms for arch in archs]


def _predict(table: LatencyTable | None, arch: Architecture) -> float | None:
  """None where the table does not have the network's operations."""
  try:
    return None if table is None else table.predict(arch)
  except UserError:
    return None


def _incomparable(config: ConfigDict, luck: dict[str, Any] | None) -> str:
  """Why the random search's rows do not belong here; empty if they do."""
  if luck is None:
    return '--stage=random_search was not'
  wanted = stage_inputs(config, *_RECIPE)
  theirs = {key: luck['inputs'][key] for key in wanted if key in luck['inputs']}
  changed = differences(theirs, wanted)
  return f'random_search ran with another recipe ({changed})' if changed else ''


def _luck_row(luck: Any) -> dict[str, Any]:
  """Mean and spread over the random networks, seeds averaged first."""
  rows = [row for row in luck['networks'] if row['kind'] == 'random']
  networks = {row['architecture'] for row in rows}
  row = {**_blank(RANDOM, 'done'), 'num_networks': len(networks)}
  for key, source in (
    ('top1', 'top1'),
    ('top5', 'top5'),
    ('ms', 'predicted_ms'),
    ('params', 'params'),
  ):
    values = [
      np.mean([r[source] for r in rows if r['architecture'] == network])
      for network in sorted(networks)
    ]
    row[key] = float(np.mean(values))
    row[f'{key}_std'] = float(np.std(values, ddof=1)) if values[1:] else None
  return {
    **row,
    'ms_kind': 'predicted',
    'search_epochs': luck['cost_epochs'],
  }


def _blank(name: str, status: str) -> dict[str, Any]:
  """A row of which nothing is known."""
  keys = ('width', 'top1', 'top5', 'params', 'macs', 'ms', 'ms_kind')
  return {
    'name': name,
    'status': status,
    **dict.fromkeys((*keys, 'search_epochs', 'architecture')),
  }


def spell(config: ConfigDict, rows: list[dict[str, Any]]) -> str:
  """The rows as the paper's Table 1."""
  useful = dataset_facts(config).num_classes > 5  # Top-5, that is.
  lines = [
    f'compare_zoo: {title(config.dataset)} at {config.dataset.image_size} px, '
    f'{config.train.epochs:g} epochs each',
    f'{"network":21} {"width":>5} {"top-1, %":>14} {"top-5, %":>14} '
    f'{"ms":>14} {"parameters":>12} {"search, epochs":>14}',
  ]
  for row in rows:
    if row['status'] != 'done':
      lines.append(f'{row["name"]:21} {row["status"]}')
      continue
    width = '-' if row['width'] is None else f'{row["width"]:g}'
    epochs = row['search_epochs']
    mark = '~' if row['ms_kind'] == 'predicted' else ''
    top5 = _number(row, 'top5', 100) if useful else '-'
    lines.append(
      f'{row["name"]:21} {width:>5} {_number(row, "top1", 100):>14} '
      f'{top5:>14} {mark + _number(row, "ms"):>14} '
      f'{row["params"]:>12,.0f} '
      f'{"-" if epochs is None else f"{epochs:,g}":>14}'
    )
  if any(row['ms_kind'] == 'predicted' for row in rows):
    lines.append('~ predicted from the latency table, not measured')
  lines.append(
    'Search costs of zoo networks are for ImageNet, as the paper gives them.'
  )
  return '\n'.join(lines)


def _number(row: dict[str, Any], key: str, factor: float = 1.0) -> str:
  """'73.78' or '73.78 ± 0.85'."""
  if row[key] is None:
    return '-'
  text = f'{factor * row[key]:.4g}'
  spread = row.get(f'{key}_std')
  return text if spread is None else f'{text} ± {factor * spread:.2g}'
