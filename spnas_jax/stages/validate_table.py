"""Stage `validate_table`: does the table predict networks it has not seen?

The networks of its calibration are timed again: what has changed in them is the
device. With `validate_table.recalibrate` that becomes the table's new factor.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir, stage_inputs
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.core.progress import Progress
from spnas_jax.latency import measuring
from spnas_jax.latency.devices import Device, Timing
from spnas_jax.latency.entries import network_tflite
from spnas_jax.latency.open_device import open_device
from spnas_jax.latency.table import LatencyTable
from spnas_jax.latency.table_building import (
  VALIDATION_STREAM,
  calibrate,
  load_for,
)
from spnas_jax.networks.architecture import Architecture
from spnas_jax.networks.sampling import random_networks
from spnas_jax.networks.space import SearchSpace
from spnas_jax.report.agreement import agreement
from spnas_jax.stages.frame import Task, stage

# Mean absolute error, percent, up to which a table is called good and usable.
_GOOD_PCT, _USABLE_PCT = 2.0, 5.0
RECALIBRATED = 'latency_table_recalibrated.json'


def prepare(config: ConfigDict, workdir: Workdir) -> Task:
  """Measured against predicted, and a scatter plot.

  Raises:
    UserError: the table is of another device or size, or covers another space.
  """
  device = open_device(config)
  table = load_for(config, device)
  if config.validate_table.recalibrate and not table.calibration.get(
    'networks'
  ):
    recalibrated(table, None, {})  # Refuses before anything is timed.
  inputs = stage_inputs(
    config, 'seed', 'space', 'validate_table', table=table.fingerprint()
  )
  networks, repeated = choose_networks(config, make_space(config), table)
  predicted = {name: table.predict(arch) for name, arch in networks.items()}
  known = {name: table.predict(arch) for name, arch in repeated.items()}

  def validate() -> dict[str, Any]:
    timings = _measure(config, workdir, device, table, {**networks, **repeated})
    moved = drift(known, {name: timings[name] for name in repeated})
    result = compare(table, predicted, timings, moved or 0.0)
    result |= {
      'drift_pct': moved,
      'repeat_pct': repeatability(
        table, {name: timings[name] for name in repeated}
      ),
      'repeated': [
        {
          'architecture': name,
          'predicted_ms': ms,
          'measured_ms': timings[name].ms,
        }
        for name, ms in known.items()
      ],
      'table': table.name,
      'device': table.device,
      'protocol': measuring.protocol(device, config.validate_table),
      'conditions': device.conditions(),
    }
    if config.validate_table.recalibrate:
      fresh = recalibrated(table, moved, device.conditions())
      workdir.write(RECALIBRATED, fresh.to_json() + '\n')
      result['recalibrated_factor'] = fresh.factor
    return {**result, 'verdict': verdict(result)}

  return Task(
    inputs,
    validate,
    lambda result: _spell(result, workdir),
    after=lambda: _leave(workdir),
  )


run = stage('validate_table', prepare)


def _spell(result: dict[str, Any], workdir: Workdir) -> list[str]:
  lines = [result['verdict']]
  if 'recalibrated_factor' in result:
    lines.append(
      f'{workdir / RECALIBRATED} has the factor '
      f'{result["recalibrated_factor"]:.4f} of today'
    )
  return lines


def recalibrated(
  table: LatencyTable, drift_pct: float | None, conditions: dict[str, Any]
) -> LatencyTable:
  """The table at today's speed of its device.

  Args:
    table: as it was made.
    drift_pct: see `drift`.
    conditions: of the device today.

  Raises:
    UserError: the table has no networks whose times were known.
  """
  if drift_pct is None:
    raise UserError(
      f'validate_table.recalibrate is True, but {table.name!r} has no networks '
      'that it was calibrated with; make a table with '
      'build_table.calibration_networks above 0'
    )
  ratio = 1 + drift_pct / 100
  calibration = {
    **table.calibration,
    'factor': table.factor * ratio,
    'measured_ms': [ratio * ms for ms in table.calibration['measured_ms']],
    'drift_pct': drift_pct,
    'made': table.date,
  }
  return dataclasses.replace(
    table,
    calibration=calibration,
    date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    protocol={**table.protocol, 'conditions': conditions},
  )


def _measure(
  config: ConfigDict,
  workdir: Workdir,
  device: Device,
  table: LatencyTable,
  networks: dict[str, Architecture],
) -> dict[str, Timing]:
  say(f'validate_table: exporting {len(networks)} networks')
  rng = np.random.default_rng(config.seed)
  models = {}
  with Progress('validate_table', 'networks', len(networks)) as progress:
    for name, arch in networks.items():
      models[name] = network_tflite(
        arch, table.image_size, rng, None, table.precision
      )
      progress.advance()
  return measuring.measure(
    'validate_table', workdir, device, models, config.validate_table
  )


def _leave(workdir: Workdir) -> None:
  """The picture; the samples are not needed any more."""
  measuring.forget('validate_table', workdir)
  try:
    result = workdir.results()['validate_table']
    for name, picture in scatter_plot(result).items():
      workdir.write(f'validate_table.{name}', picture)
  except Exception as e:  # The numbers are there; the report draws it as well.
    say(f'validate_table: the picture is left out: {" ".join(str(e).split())}')


def choose_networks(
  config: ConfigDict, space: SearchSpace, table: LatencyTable
) -> tuple[dict[str, Architecture], dict[str, Architecture]]:
  """(networks the table has not seen, those it was calibrated with).

  Raises:
    UserError: the space has no network besides those of the calibration.
  """
  known = table.calibration.get('networks', ())
  networks = random_networks(
    space,
    config.validate_table.num_networks,
    np.random.default_rng([config.seed, VALIDATION_STREAM]),
    exclude=tuple(known),
  )
  if not networks:
    raise UserError(
      f'validate_table.num_networks is {config.validate_table.num_networks}, '
      f'but the space holds only the {len(known)} networks that the table was '
      'calibrated with; set build_table.calibration_networks lower'
    )
  style = {
    name: getattr(space, name)
    for name in (
      'activation',
      'batch_norm_momentum',
      'batch_norm_epsilon',
      'padding',
    )
  }
  repeated = {text: Architecture.from_string(text, **style) for text in known}
  return networks, repeated


def compare(
  table: LatencyTable,
  predicted: dict[str, float],
  timings: dict[str, Timing],
  drift_pct: float = 0.0,
) -> dict[str, Any]:
  """Errors of the predictions.

  Args:
    table: where they come from.
    predicted: block string -> ms.
    timings: block string -> measured.
    drift_pct: how much slower the device is than when the table was made.

  Returns:
    'rmse_ms'; 'mean_abs_pct' and 'worst_pct' of the measured time;
    'uncalibrated_mean_abs_pct', of the bare sums;
    'mean_abs_pct_at_todays_speed', of predictions that are as much slower as
    the device is; 'rank_correlation' (Spearman; None where it is not defined);
    'networks', one row each.
  """
  names = list(predicted)
  guess = np.array([predicted[name] for name in names])
  truth = np.array([timings[name].ms for name in names])
  errors = 100 * (guess / truth - 1)
  bare = 100 * (guess / table.factor / truth - 1)
  today = 100 * (guess * (1 + drift_pct / 100) / truth - 1)
  agreed = agreement(guess, truth)
  return {
    'num_networks': agreed.networks,
    'rmse_ms': agreed.rmse_ms,
    'mean_abs_pct': agreed.mean_pct,
    'worst_pct': float(np.abs(errors).max()),
    'uncalibrated_mean_abs_pct': float(np.abs(bare).mean()),
    'mean_abs_pct_at_todays_speed': float(np.abs(today).mean()),
    'rank_correlation': agreed.rank,
    'networks': [
      {
        'architecture': name,
        'predicted_ms': predicted[name],
        'measured_ms': timings[name].ms,
        'spread_ms': timings[name].spread_ms,
        'error_pct': float(error),
      }
      for name, error in zip(names, errors, strict=True)
    ],
  }


def drift(
  predicted: dict[str, float], repeated: dict[str, Timing]
) -> float | None:
  """How much slower the device is than when the table was made, percent.

  By the factor that today's times of the calibration's networks would give:
  how far a single one of them went astray then does not count.

  Args:
    predicted: block string -> ms of the table.
    repeated: those of the calibration's networks that were timed again.

  Returns:
    None where there are none.
  """
  if not repeated:
    return None
  names = list(repeated)
  slower = calibrate(
    names,
    [predicted[name] for name in names],
    [repeated[name].ms for name in names],
  )
  return float(100 * (slower['factor'] - 1))


def repeatability(
  table: LatencyTable, repeated: dict[str, Timing]
) -> float | None:
  """How far apart two measurements of one network are, percent.

  Mean over the networks of the calibration, which were timed when the table was
  made and are timed again, without what has moved all of them; None with less
  than two.
  """
  if len(repeated) < 2:
    return None
  calibration = table.calibration
  then = dict(
    zip(calibration['networks'], calibration['measured_ms'], strict=True)
  )
  logs = np.log([t.ms / then[name] for name, t in repeated.items()])
  return float(100 * np.abs(logs - np.median(logs)).mean())


def verdict(result: dict[str, Any]) -> str:
  """The result in words."""
  error, moved = result['mean_abs_pct'], result['drift_pct']
  words = (
    f'{result["num_networks"]} networks that the table has not seen are '
    f'predicted within {error:.2f}% on average, {result["worst_pct"]:.2f}% at '
    f'worst ({result["rmse_ms"]:.3g} ms RMS)'
  )
  if result['rank_correlation'] is not None:
    words += f', rank correlation {result["rank_correlation"]:.3f}'
  if result.get('repeat_pct') is not None:
    words += f'; two measurements of one differ by {result["repeat_pct"]:.2f}%'
  if error <= _GOOD_PCT:
    words += '. Good to search with.'
  elif error <= _USABLE_PCT:
    words += f'. Usable, but leave a margin of {result["worst_pct"]:.0f}%.'
  else:
    words += '. Do not search with it: measure again on a quieter device.'
  if moved is not None and abs(moved) > _GOOD_PCT:
    slower = 'slower' if moved > 0 else 'faster'
    words += (
      f' The device runs {abs(moved):.1f}% {slower} than when the table was '
      'made, which these errors include: without it they are '
      f'{result["mean_abs_pct_at_todays_speed"]:.2f}% on average.'
    )
  return words


def scatter_plot(result: dict[str, Any]) -> dict[str, bytes]:
  """Measured against predicted, with the identity line: 'png' and 'svg'."""
  from spnas_jax.report import figures, plot_style

  rows = result['networks']
  figure = figures.predicted_measured(
    [row['predicted_ms'] for row in rows], [row['measured_ms'] for row in rows]
  )
  return {'png': plot_style.png(figure), 'svg': plot_style.svg(figure)}
