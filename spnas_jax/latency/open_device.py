"""The device that a configuration names."""

from __future__ import annotations

from ml_collections import ConfigDict

from spnas_jax.core.errors import UserError
from spnas_jax.latency.adb import AdbDevice
from spnas_jax.latency.devices import Device
from spnas_jax.latency.exchange import ExchangeDevice
from spnas_jax.latency.host import HostDevice
from spnas_jax.latency.ssh import SshDevice


def open_device(config: ConfigDict) -> Device:
  """The device of `config.device`, with the settings of `config.profile`.

  Raises:
    UserError: there is no such device, or it cannot be reached.
  """
  if config.device == 'host':
    return HostDevice(threads=config.profile.threads)
  c = config.profile
  if config.device == 'adb':
    return AdbDevice(
      serial=c.adb_serial,
      benchmark_model=c.benchmark_model,
      threads=c.threads,
      cooldown_seconds=c.cooldown_seconds,
      timeout_seconds=c.timeout_seconds,
    )
  if config.device == 'ssh':
    return SshDevice(
      host=c.ssh_host,
      ssh_config=c.ssh_config,
      benchmark_model=c.benchmark_model,
      python=c.ssh_python,
      threads=c.threads,
      cooldown_seconds=c.cooldown_seconds,
      timeout_seconds=c.timeout_seconds,
    )
  if config.device == 'files':
    return ExchangeDevice(c.device_name, c.threads)
  raise UserError(
    f"device is {config.device!r}, allowed: 'host', 'adb', 'ssh', 'files'"
  )
