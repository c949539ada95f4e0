"""A latency table from rows of (network, ms) that somebody else measured.

The file is a CSV with the header `network,ms`: block strings of networks of the
space (docs/networks.md) and what each took. A network may have several rows.
"""

from __future__ import annotations

import collections
import datetime
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from spnas_jax.core import foreign
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.core.remote import as_path, reaching
from spnas_jax.latency.devices import Device
from spnas_jax.latency.entries import Entry, space_entries
from spnas_jax.latency.exchange import milliseconds
from spnas_jax.latency.fitting import LEAST_ROWS, Fit, fit
from spnas_jax.latency.table import LatencyTable, network_keys
from spnas_jax.networks.architecture import Architecture
from spnas_jax.networks.space import SearchSpace

FIELD = 'build_table.networks'
# Networks in a picture at most.
_SHOWN = 200


def read_rows(path: str, space: SearchSpace) -> dict[str, list[float]]:
  """Block string -> milliseconds, in the order of the file.

  Raises:
    UserError: the file cannot be read, a line is no network of the space or no
      number of ms above 0, or there are too few.
  """
  source = as_path(FIELD, path)
  with reaching(FIELD, source):
    if not source.exists():
      raise UserError(f'{FIELD} is {path!r}, which does not exist')
    text = foreign.read_text(source, f'{FIELD} {path!r}')
  rows = foreign.parse_csv(text, ['network', 'ms'], f'{FIELD} {path!r}')
  found: dict[str, list[float]] = collections.defaultdict(list)
  for number, row in enumerate(rows, 2):
    at = f'{FIELD} {path!r}, line {number}'
    if len(row) != 2:
      raise UserError(f'{at}: {len(row)} cells, must be network and ms')
    name, ms = row[0], milliseconds(row[1])
    if ms is None:
      raise UserError(f'{at}: ms is {row[1]!r}, allowed: a number above 0')
    found[_network(name, space, at).to_string()].append(ms)
  if len(found) < LEAST_ROWS:
    raise UserError(
      f'{FIELD} {path!r} has {len(found)} networks, allowed: {LEAST_ROWS} or '
      'more'
    )
  return found


def _network(name: str, space: SearchSpace, at: str) -> Architecture:
  """A block string as a network of the space."""
  style = {
    key: getattr(space, key)
    for key in (
      'activation',
      'batch_norm_momentum',
      'batch_norm_epsilon',
      'padding',
    )
  }
  try:
    arch = Architecture.from_string(name, **style)
    space.encode(arch)
  except UserError as e:
    raise UserError(f'{at}: {e}') from e
  return arch


def facts_of(entry: Entry) -> list[float]:
  """What takes time in an operation, for the prior of `fitting`.

  Returns:
    Calls; millions of multiply-adds of 1x1 convolutions, of 3x3 and of larger
    depthwise ones, of everything else; millions of numbers that the depthwise
    convolution writes.
  """
  arch, block, pixels = entry.arch, entry.block, entry.size**2 / 1e6
  if block is None:
    if entry.part == 'stem':
      area = (-(-entry.size // arch.stem_stride)) ** 2 / 1e6
      weights = arch.stem_kernel**2 * entry.channels * arch.stem_channels
      return [1.0, 0.0, 0.0, 0.0, weights * area, 0.0]
    wide = arch.head_channels or entry.channels
    head = entry.channels * wide * pixels if arch.head_channels else 0.0
    return [1.0, head, 0.0, 0.0, wide * arch.num_classes / 1e6, 0.0]
  out = (-(-entry.size // block.stride)) ** 2 / 1e6
  mid = block.mid_channels
  expand = block.in_channels * mid * pixels if block.op == 'ir' else 0.0
  pointwise = (expand + mid * block.out_channels * out) / block.groups
  depthwise = block.kernel**2 * mid * out
  small = block.kernel <= 3
  squeeze = 2 * mid * block.squeeze_channels / 1e6
  return [
    1.0,
    pointwise,
    depthwise if small else 0.0,
    0.0 if small else depthwise,
    squeeze,
    mid * out * (2 if block.squeeze_channels else 1),
  ]


def table_from_networks(
  config: ConfigDict,
  device: Device,
  space: SearchSpace,
  rows: dict[str, list[float]],
) -> tuple[LatencyTable, Fit]:
  """The table whose sums fit the times of networks, see `read_rows`.

  Entries that no row contains have the prior's time. Their `count` is 0.
  """
  size = config.dataset.image_size
  entries = space_entries(space, size)
  position = {key: i for i, key in enumerate(entries)}
  counts = np.zeros((len(rows), len(entries)))
  for i, name in enumerate(rows):
    for key in network_keys(_network(name, space, FIELD), size):
      counts[i, position[key]] += 1
  measured = np.array([np.median(values) for values in rows.values()])
  facts = np.array([facts_of(entry) for entry in entries.values()])
  fitted = fit(counts, measured, facts)
  seen = counts.astype(bool).sum(0)
  unseen = int((seen == 0).sum())
  say(
    f'build_table: {len(entries)} operations fitted to {len(rows)} networks; '
    f'left-out networks are predicted within {fitted.held_out_pct:.2f}%'
    + (f'; {unseen} operations are in none of them' if unseen else '')
  )
  described = device.describe()
  factor = float(np.exp(np.log(measured / (counts @ fitted.ms)).mean()))
  return LatencyTable(
    name=config.build_table.name,
    device=described['device'],
    software=described['software'],
    threads=device.threads,
    protocol={
      'statistic': 'fitted to times of whole networks',
      'networks': len(rows),
      'held_out_pct': fitted.held_out_pct,
      'prior_strength': fitted.strength,
      'overhead_ms': 0.0,
    },
    date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    image_size=size,
    entries={
      # Least squares may say 0, which no operation takes.
      key: {'ms': max(float(ms), 1e-9), 'spread_ms': float(error), 'count': n}
      for key, ms, error, n in zip(
        entries, fitted.ms, fitted.errors, seen.tolist(), strict=True
      )
    },
    calibration={
      'factor': factor,
      'mean_abs_pct': fitted.held_out_pct,
      'networks': [],
      'sum_ms': [],
      'measured_ms': [],
    },
    provenance='fitted to whole networks by the stage build_table',
    precision=config.build_table.precision,
  ), fitted


def summary(
  table: LatencyTable,
  space: SearchSpace,
  fitted: Fit,
  rows: dict[str, list[float]],
) -> dict[str, Any]:
  """The stage's result, as that of a measured table.

  With some of the networks as fits without them predict them, for a picture.
  """
  fastest, slowest = table.limits(space)
  networks = [
    {
      'architecture': name,
      'predicted_ms': float(ms),
      'measured_ms': float(np.median(times)),
    }
    for (name, times), ms in zip(rows.items(), fitted.held_out_ms, strict=True)
  ]
  return {
    'num_entries': len(table.entries),
    'min_ms': fastest,
    'max_ms': slowest,
    'overhead_ms': None,
    'calibration_factor': table.factor,
    'calibration_mean_abs_pct': fitted.held_out_pct,
    'calibration_networks': table.protocol['networks'],
    'median_spread_pct': float(
      np.median(100 * fitted.errors / np.maximum(fitted.ms, 1e-9))
    ),
    'device': table.device,
    'networks': networks[:: -(-len(networks) // _SHOWN)],
  }
