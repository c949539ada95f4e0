"""An Android phone as a device: `benchmark_model` over adb."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import re
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import Any

from spnas_jax.core.console import last_line, say
from spnas_jax.core.errors import UserError
from spnas_jax.latency import benchmark_output
from spnas_jax.latency.devices import Device, OperationTime, Take

# Where every Android lets the shell user keep and start programs.
_PHONE_FOLDER = '/data/local/tmp'
_PROPERTIES = {
  'manufacturer': 'ro.product.manufacturer',
  'model': 'ro.product.model',
  'soc': 'ro.soc.model',
  'platform': 'ro.board.platform',
  'abi': 'ro.product.cpu.abi',
}
# Flags that have the times of operations written to a file, newest first.
_PROFILE_FLAGS = (
  '--op_profiling_output_mode=proto --op_profiling_output_file={}',
  '--op_profiling_output_mode=csv --op_profiling_output_file={}',
  '--profiling_output_csv_file={}',
)
# Longest wait for commands that do not measure.
_SHORT_SECONDS = 60.0


class AdbDevice(Device):
  """A phone, timed by TensorFlow Lite's own benchmark program.

  Everything is in a folder of its own on the phone, which is removed at the
  end. A sample is the mean of one run of the program, which repeats the model
  for at least a second after half a second of warm-up.
  """

  quantile = 0.5
  tells_operations = True
  statistic = 'median over rounds of the mean of a round'

  def __init__(
    self,
    *,
    serial: str = '',
    benchmark_model: str = '',
    threads: int = 1,
    cooldown_seconds: float = 10.0,
    timeout_seconds: float = 300.0,
  ):
    """Finds the phone.

    Args:
      serial: which one, as `adb devices` says; '' = the only one attached.
      benchmark_model: path of the program for the phone's processor.
      threads: of the interpreter.
      cooldown_seconds: rest before each sample.
      timeout_seconds: longest run of the program.

    Raises:
      UserError: no adb, no phone that can be used, or no such program.
    """
    self.threads = threads
    self._cooldown = cooldown_seconds
    self._timeout = timeout_seconds
    self._binary = pathlib.Path(benchmark_model).expanduser()
    if not self._binary.is_file():
      raise UserError(
        f'profile.benchmark_model is {benchmark_model!r}, must be the path of '
        "TensorFlow Lite's benchmark_model for the phone (latency/README.md "
        'says where to get it)'
      )
    self._serial = choose_phone(_adb('devices'), serial)
    self._properties = _parse_properties(self._shell('getprop'))

  def describe(self) -> dict[str, dict[str, Any]]:
    known = self._properties
    binary = hashlib.sha256(self._binary.read_bytes()).hexdigest()
    return {
      'device': {
        'kind': 'adb',
        **{
          k: known[name] for k, name in _PROPERTIES.items() if known.get(name)
        },
      },
      'software': {
        'runtime': 'benchmark_model, XNNPACK',
        'benchmark_model_sha256': binary,
        'android': known.get('ro.build.version.release', ''),
        'build': known.get('ro.build.id', ''),
      },
    }

  def conditions(self) -> dict[str, Any]:
    temperature = re.search(r'temperature: (\d+)', self._ask('dumpsys battery'))
    governors = self._ask(
      'cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor 2>/dev/null'
    )
    return {
      'battery_celsius': int(temperature[1]) / 10 if temperature else None,
      'governors': governors.split(),
      'cooldown_seconds': self._cooldown,
    }

  @contextlib.contextmanager
  def session(
    self, models: dict[str, bytes], warmup_runs: int, runs_per_round: int
  ) -> Iterator[Take]:
    with self._folder() as folder:
      pushed: dict[str, str] = {}

      def take(name: str) -> float:
        if name not in pushed:
          pushed[name] = f'{folder}/model{len(pushed)}.tflite'
          self._push(models[name], pushed[name])
        time.sleep(self._cooldown)
        output = self._benchmark(
          folder,
          pushed[name],
          f'--warmup_runs={warmup_runs}',
          f'--num_runs={runs_per_round}',
        )
        return benchmark_output.parse_average(output)

      yield take

  def operation_times(self, model: bytes, runs: int) -> list[OperationTime]:
    """By the newest flags that the program knows."""
    why = ''
    try:
      with self._folder() as folder:
        graph = f'{folder}/model.tflite'
        self._push(model, graph)
        for number, flags in enumerate(_PROFILE_FLAGS):
          try:
            file = f'{folder}/profile{number}'
            told = self._profile(folder, graph, runs, file, flags)
            if 'proto' in flags:
              return benchmark_output.parse_proto(told)
            text = told.decode(errors='replace')
            return benchmark_output.parse_csv(text, runs)
          except Exception as e:  # Whatever an unknown program may write.
            why = str(e)
    except UserError as e:
      why = str(e)
    say(f'times of single operations are left out: {" ".join(why.split())}')
    return []

  def _profile(
    self, folder: str, graph: str, runs: int, file: str, flags: str
  ) -> bytes:
    """What the program writes into `file` with these flags.

    Raises:
      UserError: it wrote nothing: about unknown flags it only warns.
    """
    time.sleep(self._cooldown)
    self._benchmark(
      folder,
      graph,
      f'--num_runs={runs}',
      '--enable_op_profiling=true',
      flags.format(file),
    )
    there = self._shell(f'test -s {file} && echo there || echo none')
    if there.strip() != 'there':
      raise UserError('this benchmark_model knows no flag that writes them')
    return self._pull(file)

  # --- commands ---------------------------------------------------------------

  @contextlib.contextmanager
  def _folder(self) -> Iterator[str]:
    """A folder on the phone with the program in it, removed at the end."""
    folder = f'{_PHONE_FOLDER}/spnas_jax_{uuid.uuid4().hex[:12]}'
    try:
      self._shell(f'mkdir -p {folder}')
      program = f'{folder}/benchmark_model'
      self._push(self._binary.read_bytes(), program)
      self._shell(f'chmod 755 {program}')
      yield folder
    finally:
      # A phone that is gone cannot be tidied up; the first error is the one to
      # report.
      with contextlib.suppress(UserError):
        self._shell(f'rm -rf {folder}')

  def _benchmark(self, folder: str, graph: str, *flags: str) -> str:
    command = ' '.join(
      (
        f'{folder}/benchmark_model',
        f'--graph={graph}',
        f'--num_threads={self.threads}',
        '--use_xnnpack=true',
        *flags,
        '2>&1',
      )
    )
    return self._shell(command, self._timeout)

  def _ask(self, command: str) -> str:
    """Output of a command that is only nice to have; '' if it fails."""
    try:
      return self._shell(command)
    except UserError:
      return ''

  def _shell(self, command: str, timeout: float = _SHORT_SECONDS) -> str:
    return _adb('-s', self._serial, 'shell', command, timeout=timeout)

  def _push(self, content: bytes, target: str) -> None:
    with tempfile.NamedTemporaryFile() as file:
      file.write(content)
      file.flush()
      _adb('-s', self._serial, 'push', file.name, target, timeout=self._timeout)

  def _pull(self, source: str) -> bytes:
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


def _adb(*arguments: str, timeout: float = _SHORT_SECONDS) -> str:
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
