"""The device that a configuration names."""

from __future__ import annotations

import re

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
  c = config.profile
  if not re.fullmatch('[0-9a-fA-F]*', c.adb_cpu_mask):
    raise UserError(
      f'profile.adb_cpu_mask is {c.adb_cpu_mask!r}, allowed: hexadecimal '
      "digits as in 'f0', the upper four of eight cores, or ''"
    )
  if config.device == 'host':
    if c.delegate != 'xnnpack':
      raise UserError(
        f"profile.delegate is {c.delegate!r}, must be 'xnnpack' for device "
        "'host'"
      )
    return HostDevice(threads=c.threads)
  program = {
    'benchmark_model': c.benchmark_model,
    'threads': c.threads,
    'cooldown_seconds': c.cooldown_seconds,
    'timeout_seconds': c.timeout_seconds,
    'delegate': c.delegate,
    'cpu_mask': c.adb_cpu_mask,
  }
  if config.device == 'adb':
    return AdbDevice(serial=c.adb_serial, **program)
  if config.device == 'ssh':
    return SshDevice(
      host=c.ssh_host, ssh_config=c.ssh_config, python=c.ssh_python, **program
    )
  if config.device == 'files':
    return ExchangeDevice(c.device_name, c.threads)
  raise UserError(
    f"device is {config.device!r}, allowed: 'host', 'adb', 'ssh', 'files'"
  )
