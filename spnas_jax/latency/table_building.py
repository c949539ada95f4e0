"""From timings of operations to a latency table; which table may be used."""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.core.progress import Progress
from spnas_jax.export import tflite
from spnas_jax.latency import measuring
from spnas_jax.latency.devices import Device, Timing
from spnas_jax.latency.entries import Entry, network_tflite
from spnas_jax.latency.table import LatencyTable, network_keys
from spnas_jax.networks.architecture import Architecture
from spnas_jax.networks.space import SearchSpace

# Smallest part of an entry that is left without the call, fraction.
_FLOOR = 0.1
_EMPTY = 'empty model'
# Random streams: calibration and validation never share a network.
CALIBRATION_STREAM = 1
VALIDATION_STREAM = 2
_WEIGHT_STREAM = 3


def export_all(
  entries: dict[str, Entry],
  networks: dict[str, Architecture],
  image_size: int,
  seed: int,
  precision: str = 'float32',
) -> dict[str, bytes]:
  """Models of entries, networks and the empty model, by key or block string."""
  rng = np.random.default_rng([seed, _WEIGHT_STREAM])
  say(f'exporting {len(entries)} operations, {len(networks)} networks')
  models = {}
  total = len(entries) + len(networks)
  with Progress('exporting', 'models', total) as progress:
    for key, entry in entries.items():
      models[key] = entry.to_tflite(rng, precision)
      progress.advance()
    for name, arch in networks.items():
      models[name] = network_tflite(arch, image_size, rng, None, precision)
      progress.advance()
  models[_EMPTY] = empty_tflite(precision)
  return models


def empty_tflite(precision: str) -> bytes:
  """A model that does next to nothing: the time of a call."""
  shape = (1, 1, 1, 8)
  return tflite.convert(
    lambda x: x + 1.0,
    shape,
    precision=precision,
    calibration=np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, *shape),
    integers='int8',
  )


def make_table(
  config: ConfigDict,
  device: Device,
  entries: dict[str, Entry],
  networks: dict[str, Architecture],
  timings: dict[str, Timing],
  models: dict[str, bytes] | None = None,
) -> LatencyTable:
  """Turns timings into a table; with the models it knows sizes as well."""
  overhead = timings[_EMPTY].ms
  rows = {}
  for key, entry in entries.items():
    timing = timings[key]
    ms = timing.ms
    if entry.part != 'stem':
      ms = max(ms - overhead, _FLOOR * ms)
    rows[key] = {
      'ms': ms,
      'spread_ms': timing.spread_ms,
      'count': timing.count,
    }
  if models:
    sizes = operation_bytes(entries, networks, models, config)
    for key, size in sizes.items():
      rows[key]['bytes'] = size
  facts = device.describe()
  image_size = config.dataset.image_size
  sums = [
    sum(rows[key]['ms'] for key in network_keys(arch, image_size))
    for arch in networks.values()
  ]
  return LatencyTable(
    name=config.build_table.name,
    device=facts['device'],
    software=facts['software'],
    threads=device.threads,
    protocol={
      **measuring.protocol(device, config.build_table),
      'overhead_ms': overhead,
      **({'frame_bytes': len(models[_EMPTY])} if models else {}),
      'overhead': 'time of a call, subtracted from every entry but the stem',
      'conditions': device.conditions(),
    },
    date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    image_size=image_size,
    entries=rows,
    calibration=calibrate(
      list(networks), sums, [timings[name].ms for name in networks]
    ),
    provenance='measured by the stage build_table',
    precision=config.build_table.precision,
  )


def operation_bytes(
  entries: dict[str, Entry],
  networks: dict[str, Architecture],
  models: dict[str, bytes],
  config: ConfigDict,
) -> dict[str, int]:
  """What each operation adds to a network's file, bytes.

  Its own file without what the empty model has; and, since names of tensors are
  longer inside a network, the same for all: what files of whole networks have
  more than their parts, by operation.
  """
  frame = len(models[_EMPTY])
  sizes = {key: len(models[key]) - frame for key in entries}
  more = []
  for name, arch in networks.items():
    keys = network_keys(arch, config.dataset.image_size)
    parts = frame + sum(sizes[key] for key in keys)
    more.append((len(models[name]) - parts) / len(keys))
  extra = round(float(np.median(more))) if more else 0
  return {key: size + extra for key, size in sizes.items()}


def calibrate(
  networks: list[str], sums: list[float], measured: list[float]
) -> dict[str, Any]:
  """Fits one factor: network time over sum of entries.

  Args:
    networks: block strings; may be none, then the factor is 1.
    sums: sum of entries of each, ms.
    measured: time of each, ms.

  Returns:
    {'factor', 'mean_abs_pct' (of the fit; None without networks), 'networks',
    'sum_ms', 'measured_ms'}.
  """
  factor, error = 1.0, None
  if networks:
    ratios = np.array(measured) / np.array(sums)
    # The geometric mean minimises relative errors.
    factor = math.exp(np.log(ratios).mean())
    error = float(100 * np.abs(factor / ratios - 1).mean())
  return {
    'factor': factor,
    'mean_abs_pct': error,
    'networks': networks,
    'sum_ms': sums,
    'measured_ms': measured,
  }


def summary(
  table: LatencyTable, space: SearchSpace, timings: dict[str, Timing]
) -> dict[str, Any]:
  """The stage's result: what is worth knowing about a table at a glance."""
  fastest, slowest = table.limits(space)
  spreads = [100 * t.spread_ms / t.median_ms for t in timings.values()]
  return {
    'num_entries': len(table.entries),
    'min_ms': fastest,
    'max_ms': slowest,
    'overhead_ms': table.protocol['overhead_ms'],
    'calibration_factor': table.factor,
    'calibration_mean_abs_pct': table.calibration['mean_abs_pct'],
    'calibration_networks': len(table.calibration['networks']),
    'median_spread_pct': float(np.median(spreads)),
    'device': table.device,
  }


def load_for(config: ConfigDict, device: Device) -> LatencyTable:
  """The configured table, if it was measured on this device at this size.

  Raises:
    UserError: it was not, or cannot be read.
  """
  table = LatencyTable.load(config.latency_table)
  here = device.describe()['device']
  if table.device != here or table.threads != device.threads:
    raise UserError(
      f'latency_table {config.latency_table!r} was measured on '
      f'{spell(table.device)} with {table.threads} thread(s), not on this '
      f'device, {spell(here)} with {device.threads}; tables of different '
      'devices are never mixed: measure one with --stage=build_table'
    )
  if table.image_size != config.dataset.image_size:
    raise UserError(
      f'latency_table {config.latency_table!r} was measured at '
      f'{table.image_size} px, dataset.image_size is '
      f'{config.dataset.image_size}'
    )
  return table


def spell(device: dict[str, Any]) -> str:
  """A device's facts on one line."""
  return ', '.join(f'{key} {value}' for key, value in device.items())
