"""Stage `profile`: how long the exported network takes, and what was predicted.

The exported file may have the normalisation inside, which no latency table
knows. So the bare network is timed as well, and predictions are compared with
it.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from spnas_jax.config.workdir import Workdir, fingerprint, stage_inputs
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.export import tflite
from spnas_jax.export.network import FILES
from spnas_jax.latency import measuring
from spnas_jax.latency.devices import Device, OperationTime, Timing
from spnas_jax.latency.entries import network_tflite
from spnas_jax.latency.open_device import open_device
from spnas_jax.latency.table import LatencyTable, network_keys
from spnas_jax.latency.table_building import spell
from spnas_jax.networks.architecture import Architecture
from spnas_jax.stages.frame import Task, stage

_BARE = 'bare network'
# Mean error, percent, below which no table's own is taken to be.
_LEAST_OWN_PCT = 0.5


def check(config: ConfigDict, workdir: Workdir) -> None:
  """Refuses a device or a table that cannot be used, before any training.

  Raises:
    UserError: as it says.
  """
  if 'profile' not in workdir.results():
    open_device(config)
  if config.latency_table:
    LatencyTable.load(config.latency_table)


def prepare(config: ConfigDict, workdir: Workdir) -> Task:
  """Times what `export` left, and holds the prediction against it.

  Raises:
    UserError: nothing was exported, the table cannot be read, or the device
      cannot be used.
  """
  exported = workdir.results().get('export')
  if exported is None:
    raise UserError(
      f'--workdir {workdir.path} holds no exported network; run '
      '--stage=export first'
    )
  device = open_device(config)
  table = None
  if config.latency_table:
    table = LatencyTable.load(config.latency_table)
  inputs = stage_inputs(
    config,
    'profile',
    'device',
    exported=fingerprint(exported['inputs']),
    table=table and table.fingerprint(),
    measured_on=device.describe()['device'],
  )
  return Task(
    inputs,
    lambda: _measure(config, workdir, device, table),
    lambda result: [
      spell_result(result),
      *fallback_warning(result),
      *drift_warning(result, table),
    ],
    after=lambda: measuring.forget('profile', workdir),
  )


run = stage('profile', prepare, check)


def _measure(
  config: ConfigDict,
  workdir: Workdir,
  device: Device,
  table: LatencyTable | None,
) -> dict[str, Any]:
  arch, image_size, files = read_exported(workdir)
  precision = table.precision if table else 'float32'
  beginnings = export_beginnings(arch, image_size, precision)
  bare = beginnings.pop(_BARE)
  # Differences of growing parts are a layer's time inside the network, for a
  # device that does not report it.
  parts = {} if device.tells_operations else beginnings
  timings = measuring.measure(
    'profile', workdir, device, {**files, _BARE: bare, **parts}, config.profile
  )
  # What is only nice to know comes after what was asked for.
  operations = device.operation_times(bare, config.profile.rounds)
  if not same_unit(operations, timings[_BARE].ms):
    say('profile: times of operations are left out: they are not in ms')
    operations = []
  layers: list[float] | None = None
  if operations:
    sizes = [len(tflite.operations(m)) for m in (*beginnings.values(), bare)]
    layers = sum_operations(operations, sizes)
  elif parts:
    ends = [timings[name].ms for name in (*parts, _BARE)]
    layers = np.diff(ends, prepend=0.0).tolist()
  prediction = predict(table, device, arch, image_size, timings[_BARE].ms)
  for i, layer in enumerate(prediction['layers']):
    layer['measured_ms'] = layers and layers[i]
  return {
    **file_times(timings),
    **prediction,
    'operations': [dataclasses.asdict(o) for o in operations],
    **device.describe(),
    'precision': precision,
    'threads': device.threads,
    'conditions': device.conditions(),
    **fell_back(device),
    'protocol': measuring.protocol(device, config.profile),
  }


def read_exported(
  workdir: Workdir,
) -> tuple[Architecture, int, dict[str, bytes]]:
  """(network, side of its input in px, models by file name) of a workdir."""
  try:
    sidecar = json.loads((workdir / 'model.json').read_text())
    # The int8 model is not always there.
    files = {name: (workdir / name).read_bytes() for name in sidecar['files']}
    arch = Architecture.from_json(json.dumps(sidecar['network']))
    return arch, sidecar['image_size'], files
  except (OSError, ValueError, KeyError) as e:
    raise UserError(
      f'--workdir {workdir.path}: the exported files cannot be read '
      f"({type(e).__name__}: {e}); remove 'export' from its results.json and "
      'run --stage=export again'
    ) from e


def export_beginnings(
  arch: Architecture, image_size: int, precision: str
) -> dict[str, bytes]:
  """Growing parts of a network: stem; stem, one block; ...; all of it."""
  rng = np.random.default_rng(0)
  parts = {
    f'stem and {n} blocks': network_tflite(arch, image_size, rng, n, precision)
    for n in range(len(arch.blocks) + 1)
  }
  bare = network_tflite(arch, image_size, rng, None, precision)
  return {**parts, _BARE: bare}


def file_times(timings: dict[str, Timing]) -> dict[str, Any]:
  """Times of the exported files and of the bare network.

  'median_ms*' are medians of the samples, None for a file that is not there;
  'bare_ms' is what a table holds, 'bare_error_ms' its standard error.
  """
  result: dict[str, Any] = {}
  for name, ending in FILES.values():
    timing = timings.get(name)
    result[f'median_ms{ending}'] = timing and timing.median_ms
    result[f'spread_ms{ending}'] = timing and timing.spread_ms
  result['bare_median_ms'] = timings[_BARE].median_ms
  result['bare_ms'] = timings[_BARE].ms
  result['bare_error_ms'] = timings[_BARE].error_ms
  return result


def predict(
  table: LatencyTable | None,
  device: Device,
  arch: Architecture,
  image_size: int,
  bare_ms: float,
) -> dict[str, Any]:
  """A table's prediction of a network, if the table holds for it.

  Returns:
    'predicted_ms' and 'error_pct' (of the bare network's time), both None where
    the table does not fit; 'prediction', why not, or what is compared;
    'layers': [{'key', 'predicted_ms'}, ...].
  """
  keys = network_keys(arch, image_size)
  why = _unfit(table, device, image_size)
  if table is not None and not why:
    try:
      predicted = table.predict(arch)
      return {
        'predicted_ms': predicted,
        'error_pct': 100 * (predicted / bare_ms - 1),
        'prediction': 'against the bare network, without normalisation',
        'layers': [
          {'key': key, 'predicted_ms': table.factor * table.entry_ms(key)}
          for key in keys
        ],
      }
    except UserError as e:
      why = str(e)
  return {
    'predicted_ms': None,
    'error_pct': None,
    'prediction': f'none: {why}',
    'layers': [{'key': key, 'predicted_ms': None} for key in keys],
  }


def _unfit(table: LatencyTable | None, device: Device, image_size: int) -> str:
  """Why a table does not hold for this measurement; empty if it does."""
  if table is None:
    return 'latency_table is not set'
  here = device.describe()['device']
  if table.device != here:
    return f'the table is from {spell(table.device)}, this is {spell(here)}'
  if table.threads != device.threads:
    return f'the table is for {table.threads} threads, not {device.threads}'
  if table.image_size != image_size:
    return f'the table is for {table.image_size} px, not {image_size}'
  return ''


def fell_back(device: Device) -> dict[str, Any]:
  """{'fell_back': {'count', 'operations'}} where a delegate was to run all."""
  left = device.fallback
  if left is None:
    return {}
  return {'fell_back': {'count': left.count, 'operations': list(left.names)}}


def same_unit(operations: list[OperationTime], network_ms: float) -> bool:
  """Whether operations take about as long as their network does.

  A profiler slows small operations down, but not a hundredfold; seconds or
  microseconds that were taken for ms are a thousandfold off.
  """
  total = sum(o.mean_ms for o in operations)
  return not operations or network_ms / 100 < total < network_ms * 100


def sum_operations(
  operations: list[OperationTime], ends: list[int]
) -> list[float] | None:
  """Sums a runtime's operation times over layers, ms.

  Args:
    operations: in order of execution.
    ends: number of operations up to the end of each layer.

  Returns:
    ms of each layer; None where the runtime split or merged operations, so that
    their number is not the model's.
  """
  if len(operations) != ends[-1]:
    return None
  starts = [0, *ends[:-1]]
  return [
    sum(o.mean_ms for o in operations[start:end])
    for start, end in zip(starts, ends, strict=True)
  ]


def fallback_warning(result: dict[str, Any]) -> list[str]:
  """A line where a delegate left operations to the CPU."""
  left = result.get('fell_back')
  if not left or not left['count']:
    return []
  names = f' ({", ".join(left["operations"])})' if left['operations'] else ''
  return [
    f'WARNING: the delegate left {left["count"]} operations of the network to '
    f'the CPU{names}'
  ]


def drift_warning(
  result: dict[str, Any], table: LatencyTable | None
) -> list[str]:
  """A line where the device is not what it was when the table was made.

  One network's error holds the table's own, the noise of the measurement, and
  what the device has changed by; a warning needs more than the first two.
  """
  error = result['error_pct']
  if table is None or error is None:
    return []
  own = table.calibration.get('mean_abs_pct') or 0.0
  noise = 200 * result['bare_error_ms'] / result['bare_ms']
  # Three mean errors: one network in fifty is further off by itself.
  allowed = 3 * max(own, _LEAST_OWN_PCT) + noise
  if abs(error) <= allowed:
    return []
  below, slower = ('below', 'slower') if error < 0 else ('above', 'faster')
  return [
    f'WARNING: the prediction is {abs(error):.1f}% {below} what was measured, '
    f'and the table (of {table.date or "an unknown day"}) and the noise '
    f'explain {allowed:.1f}%: the device is {slower} than it was. Minutes '
    'bring the table up to date: --stage=validate_table '
    '--config.validate_table.recalibrate=True'
  ]


def spell_result(result: dict[str, Any]) -> str:
  """The result in one line."""
  file, half, int8 = (
    'none' if ms is None else f'{ms:.4g}'
    for ms in (result[f'median_ms{ending}'] for _, ending in FILES.values())
  )
  words = f'model.tflite takes {file} ms (float16 {half}, int8 {int8})'
  if result['predicted_ms'] is None:
    return f'{words}; prediction {result["prediction"]}'
  return (
    f'{words}; bare network {result["bare_ms"]:.4g} ms, predicted '
    f'{result["predicted_ms"]:.4g} ({result["error_pct"]:+.1f}%)'
  )
