"""Stage `build_table`: times every operation of a space on a device.

Each distinct (operation, input shape) is exported by itself and timed. Two
things keep a sum of such times accurate:

* Calling a model has a cost of its own: small blocks of a few microseconds
  would be charged for it once each; a network pays it once. It is measured with
  a model that does next to nothing, and subtracted from all but the stem.
* Alone, an operation finds other cache contents than in a network. Whole random
  networks are timed in the same rounds, and one factor is fitted to them.

With `build_table.networks` nothing is timed: the entries are fitted to times of
whole networks, which a file has (`latency/whole_networks.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir, fingerprint, stage_inputs
from spnas_jax.core.errors import UserError
from spnas_jax.latency import measuring, whole_networks
from spnas_jax.latency.devices import Device
from spnas_jax.latency.entries import space_entries
from spnas_jax.latency.open_device import open_device
from spnas_jax.latency.table_building import (
  CALIBRATION_STREAM,
  export_all,
  make_table,
  summary,
)
from spnas_jax.networks.sampling import random_networks
from spnas_jax.networks.space import SearchSpace
from spnas_jax.stages.frame import Task, stage


def prepare(config: ConfigDict, workdir: Workdir) -> Task:
  """Leaves `latency_table.json`.

  Raises:
    UserError: the device cannot be used.
  """
  device = open_device(config)
  rows = None
  if path := config.build_table.networks:
    if config.device != 'files':
      raise UserError(
        f'build_table.networks is {path!r}, which somebody else has timed; '
        f"device is {config.device!r}, must be 'files'"
      )
    rows = fingerprint(whole_networks.read_rows(path, make_space(config)))
  inputs = stage_inputs(
    config,
    'seed',
    'space',
    'build_table',
    'dataset.image_size',
    'profile.threads',
    device=device.describe()['device'],
    **({'rows': rows} if rows else {}),
  )
  space = make_space(config)
  return Task(
    inputs,
    lambda: _build(config, workdir, device, space),
    lambda result: _spell(result, workdir),
    after=lambda: measuring.forget('build_table', workdir),
  )


run = stage('build_table', prepare)


def _build(
  config: ConfigDict, workdir: Workdir, device: Device, space: SearchSpace
) -> dict[str, Any]:
  image_size = config.dataset.image_size
  if config.build_table.networks:
    rows = whole_networks.read_rows(config.build_table.networks, space)
    table, fitted = whole_networks.table_from_networks(
      config, device, space, rows
    )
    workdir.write('latency_table.json', table.to_json() + '\n')
    return whole_networks.summary(table, space, fitted, rows)
  entries = space_entries(space, image_size)
  networks = random_networks(
    space,
    config.build_table.calibration_networks,
    np.random.default_rng([config.seed, CALIBRATION_STREAM]),
  )
  models = export_all(
    entries,
    networks,
    image_size,
    config.seed,
    config.build_table.precision,
  )
  timings = measuring.measure(
    'build_table', workdir, device, models, config.build_table
  )
  table = make_table(config, device, entries, networks, timings, models)
  workdir.write('latency_table.json', table.to_json() + '\n')
  return summary(table, space, timings)


def _spell(result: dict[str, Any], workdir: Workdir) -> list[str]:
  return [
    f'{workdir / "latency_table.json"}, {result["num_entries"]} entries, '
    f'networks of {result["min_ms"]:.4g} to {result["max_ms"]:.4g} ms; factor '
    f'{result["calibration_factor"]:.3f} from '
    f'{result["calibration_networks"]} networks '
    f'({result["calibration_mean_abs_pct"] or 0:.2f}% off on average)'
  ]
