"""The device that a configuration names."""

from __future__ import annotations

from ml_collections import ConfigDict

from spnas_jax.core.errors import UserError
from spnas_jax.latency.adb import AdbDevice
from spnas_jax.latency.devices import Device
from spnas_jax.latency.host import HostDevice


def open_device(config: ConfigDict) -> Device:
  """The device of `config.device`, with the settings of `config.profile`.

  Raises:
    UserError: there is no such device, or it cannot be reached.
  """
  if config.device == 'host':
    return HostDevice(threads=config.profile.threads)
  if config.device == 'adb':
    return AdbDevice(
      serial=config.profile.adb_serial,
      benchmark_model=config.profile.benchmark_model,
      threads=config.profile.threads,
      cooldown_seconds=config.profile.cooldown_seconds,
      timeout_seconds=config.profile.timeout_seconds,
    )
  raise UserError(f"device is {config.device!r}, allowed: 'host', 'adb'")
