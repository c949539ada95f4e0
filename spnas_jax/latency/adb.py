"""An Android phone as a device: `benchmark_model` over adb."""

from __future__ import annotations

import hashlib
import pathlib
import re
import subprocess
import tempfile
from typing import Any

from spnas_jax.core.console import last_line
from spnas_jax.core.errors import UserError
from spnas_jax.latency.benchmark_device import SHORT_SECONDS, BenchmarkDevice

# Where every Android lets the shell user keep and start programs.
_PHONE_FOLDER = '/data/local/tmp'
_PROPERTIES = {
  'manufacturer': 'ro.product.manufacturer',
  'model': 'ro.product.model',
  'soc': 'ro.soc.model',
  'platform': 'ro.board.platform',
  'abi': 'ro.product.cpu.abi',
}


class AdbDevice(BenchmarkDevice):
  """A phone, timed by TensorFlow Lite's own benchmark program."""

  parent = _PHONE_FOLDER

  def __init__(
    self,
    *,
    serial: str = '',
    benchmark_model: str = '',
    **settings: Any,
  ):
    """Finds the phone.

    Args:
      serial: which one, as `adb devices` says; '' = the only one attached.
      benchmark_model: path of the program for the phone's processor.
      **settings: see `BenchmarkDevice`.

    Raises:
      UserError: no adb, no phone that can be used, or no such program.
    """
    super().__init__(**settings)
    self._binary = pathlib.Path(benchmark_model).expanduser()
    if not self._binary.is_file():
      raise UserError(
        f'profile.benchmark_model is {benchmark_model!r}, must be the path of '
        "TensorFlow Lite's benchmark_model for the phone (docs/device.md "
        'says where to get it)'
      )
    self._serial = choose_phone(_adb('devices'), serial)
    self._properties = _parse_properties(self.shell('getprop'))

  def program(self) -> bytes:
    return self._binary.read_bytes()

  def describe(self) -> dict[str, dict[str, Any]]:
    known = self._properties
    binary = hashlib.sha256(self._binary.read_bytes()).hexdigest()
    return {
      'device': {
        'kind': 'adb',
        **{
          k: known[name] for k, name in _PROPERTIES.items() if known.get(name)
        },
        **self.placement(),
      },
      'software': {
        'runtime': f'benchmark_model, {self.delegate}',
        'benchmark_model_sha256': binary,
        'android': known.get('ro.build.version.release', ''),
        'build': known.get('ro.build.id', ''),
      },
    }

  def conditions(self) -> dict[str, Any]:
    temperature = re.search(r'temperature: (\d+)', self.ask('dumpsys battery'))
    governors = self.ask(
      'cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor 2>/dev/null'
    )
    return {
      'battery_celsius': int(temperature[1]) / 10 if temperature else None,
      'governors': governors.split(),
      'cooldown_seconds': self.cooldown_seconds,
    }

  def shell(self, command: str, timeout: float = SHORT_SECONDS) -> str:
    return _adb('-s', self._serial, 'shell', command, timeout=timeout)

  def push(self, content: bytes, target: str) -> None:
    with tempfile.NamedTemporaryFile() as file:
      file.write(content)
      file.flush()
      _adb(
        '-s',
        self._serial,
        'push',
        file.name,
        target,
        timeout=self.timeout_seconds,
      )

  def pull(self, source: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
      target = pathlib.Path(folder) / 'file'
      _adb('-s', self._serial, 'pull', source, str(target))
      return target.read_bytes()


def choose_phone(listing: str, serial: str) -> str:
  """Serial of the phone to use.

  Args:
    listing: what `adb devices` prints.
    serial: the wanted one; '' = the only one.

  Raises:
    UserError: it is not there, not usable, or there are several.
  """
  states = {}
  for line in listing.splitlines():
    name, tab, state = line.partition('\t')
    if tab:
      states[name.strip()] = state.strip()
  attached = ', '.join(f'{k} ({v})' for k, v in states.items()) or 'none'
  if not serial and len(states) != 1:
    count = 'several phones are' if states else 'no phone is'
    raise UserError(
      f"profile.adb_serial is '', which takes the only phone, but {count} "
      f'attached ({attached})'
    )
  serial = serial or next(iter(states))
  if serial not in states:
    raise UserError(
      f'profile.adb_serial is {serial!r}, which is not attached; attached: '
      f'{attached}'
    )
  state = states[serial]
  if state == 'unauthorized':
    raise UserError(
      f'phone {serial} is unauthorized: unlock it and allow USB debugging from '
      'this computer'
    )
  if state != 'device':
    raise UserError(
      f'phone {serial} is {state!r}, must be ready ("device" in `adb devices`)'
    )
  return serial


def _parse_properties(text: str) -> dict[str, str]:
  """`getprop`'s lines: [ro.product.model]: [Pixel 8]."""
  return dict(re.findall(r'^\[(.+?)\]: \[(.*)\]\r?$', text, re.MULTILINE))


def _adb(*arguments: str, timeout: float = SHORT_SECONDS) -> str:
  """Runs adb and returns what it printed.

  Raises:
    UserError: there is no adb, it failed, or took too long.
  """
  what = ' '.join(a for a in arguments if a != '-s')
  what = what if len(what) <= 100 else what[:97] + '...'
  try:
    done = subprocess.run(
      ['adb', *arguments],
      stdin=subprocess.DEVNULL,
      capture_output=True,
      timeout=timeout,
      check=False,
    )
  except FileNotFoundError as e:
    raise UserError(
      "device is 'adb', but there is no program adb on this machine; install "
      "Android's platform tools (Debian: apt-get install adb)"
    ) from e
  except OSError as e:
    raise UserError(f'adb cannot be started ({e.strerror})') from e
  except subprocess.TimeoutExpired as e:
    raise UserError(
      f'adb {what}: no answer in {timeout:g} s (profile.timeout_seconds is the '
      'limit of a measurement)'
    ) from e
  output = done.stdout.decode(errors='replace')
  if done.returncode:
    said = last_line(done.stderr.decode(errors='replace') or output)
    raise UserError(f'adb {what} failed: {said}')
  return output
