"""A computer behind ssh as a device: a Raspberry Pi, a server, a board.

Its own `benchmark_model` or, without one, Python with a LiteRT runtime times
the models. The OpenSSH client connects as it does by hand, so names, keys and
jump hosts come from the user's ssh configuration; it never asks for a password.
"""

from __future__ import annotations

import hashlib
import pathlib
import shlex
import subprocess
from typing import Any

from spnas_jax.core.console import last_line
from spnas_jax.core.errors import UserError
from spnas_jax.latency.benchmark_device import SHORT_SECONDS, BenchmarkDevice

# Times a model as `benchmark_model` does and prints what it prints. On a GPU a
# run only hands work over: it is over when its output has been read.
TIMER = """
import sys, time
import numpy as np

flags = dict(word[2:].split('=', 1) for word in sys.argv[1:] if '=' in word)
NEEDS = 'needs ai-edge-litert (python3 -m pip install ai-edge-litert)'


def noise(shape, dtype):
  return np.random.default_rng(0).uniform(0, 1, shape).astype(dtype)


def on_cpu():
  try:
    from ai_edge_litert.interpreter import Interpreter
  except ImportError:
    try:
      from tflite_runtime.interpreter import Interpreter
    except ImportError:
      sys.exit(NEEDS)
  runner = Interpreter(
    model_path=flags['graph'], num_threads=int(flags.get('num_threads', 1))
  )
  runner.allocate_tensors()
  (source,) = runner.get_input_details()
  runner.set_tensor(source['index'], noise(source['shape'], source['dtype']))
  return runner.invoke


def on_gpu():
  try:
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
  except ImportError:
    sys.exit(NEEDS)
  try:
    model = CompiledModel.from_file(
      flags['graph'], HardwareAccelerator.GPU | HardwareAccelerator.CPU
    )
  except RuntimeError:
    sys.exit('LiteRT finds no GPU that it can use (on Linux it needs a Vulkan '
             'driver and libvulkan.so.1)')
  print('Fully accelerated:', model.is_fully_accelerated())
  key = next(iter(model.get_signature_list()))
  (source,) = model.get_input_tensor_details(key).values()
  (target,) = model.get_output_tensor_details(key).values()
  (given,) = model.create_input_buffers(0)
  (got,) = model.create_output_buffers(0)
  given.write(noise(source['shape'], np.dtype(source['dtype'])))
  count, dtype = int(np.prod(target['shape'])), np.dtype(target['dtype']).type

  def run():
    model.run_by_index(0, [given], [got])
    got.read(count, dtype)

  return run


run = on_gpu() if flags.get('use_gpu') == 'true' else on_cpu()


def repeat(runs, seconds):
  start, done = time.perf_counter(), 0
  while done < runs or time.perf_counter() - start < seconds:
    run()
    done += 1
  return 1e6 * (time.perf_counter() - start) / done


warm = repeat(int(flags.get('warmup_runs', 1)), 0.5)
mean = repeat(int(flags.get('num_runs', 50)), 1.0)
print('Inference timings in us: Init: 0, First inference: 0, '
      f'Warmup (avg): {warm:.6g}, Inference (avg): {mean:.6g}')
"""
# One command, since every connection costs a good part of a second.
_FACTS = (
  'uname -m; uname -sr; nproc 2>/dev/null || echo; '
  "(tr -d '\\0' < /proc/device-tree/model) 2>/dev/null || "
  "sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n1"
)
_CONDITIONS = (
  'cat /sys/class/thermal/thermal_zone0/temp 2>/dev/null || echo; '
  'cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor 2>/dev/null '
  '| sort | uniq; true'
)


class SshDevice(BenchmarkDevice):
  """Another computer, by ssh."""

  parent = '/tmp'

  def __init__(
    self,
    *,
    host: str,
    ssh_config: str = '',
    benchmark_model: str = '',
    python: str = 'python3',
    **settings: Any,
  ):
    """Connects once, to see that it can.

    Args:
      host: as ssh takes it: a name of its configuration, or user@address.
      ssh_config: path of an ssh configuration file; '' = the user's own.
      benchmark_model: path, on this machine, of the program for that computer;
        '' = `python` there, with ai-edge-litert or tflite-runtime.
      python: how Python starts there.
      **settings: see `BenchmarkDevice`.

    Raises:
      UserError: no host is named, it cannot be reached, or no such program.
    """
    if not host or host.startswith('-'):
      raise UserError(
        f'profile.ssh_host is {host!r}, must be a host as ssh takes it, as in '
        "'pi@raspberrypi.local'"
      )
    super().__init__(**settings)
    self._host = host
    self._options = ['-F', ssh_config] if ssh_config else []
    self._python = python
    self._binary = None
    if self.delegate not in ('xnnpack', 'gpu') and not benchmark_model:
      raise UserError(
        f"profile.delegate is {self.delegate!r}, must be 'xnnpack' or 'gpu' "
        'for the Python behind ssh; name a benchmark_model for others'
      )
    if benchmark_model:
      self._binary = pathlib.Path(benchmark_model).expanduser()
      if not self._binary.is_file():
        raise UserError(
          f'profile.benchmark_model is {benchmark_model!r}, must be the path '
          "of TensorFlow Lite's benchmark_model for the computer behind ssh, "
          "or '' for its Python"
        )
    lines = [*self.shell(_FACTS).splitlines(), '', '', '', ''][:4]
    self._machine, self._system, self._cores, self._model = map(
      str.strip, lines
    )

  def program(self) -> bytes:
    return self._binary.read_bytes() if self._binary else TIMER.encode()

  def start(self, program: str) -> str:
    python = shlex.quote(self._python)
    return program if self._binary else f'{python} {program}'

  def describe(self) -> dict[str, dict[str, Any]]:
    kind = (
      f'benchmark_model, {self.delegate}' if self._binary else 'LiteRT, Python'
    )
    digest = hashlib.sha256(self.program()).hexdigest()
    return {
      'device': {
        'kind': 'ssh',
        'machine': self._machine,
        'model': self._model,
        'cores': self._cores,
        **self.placement(),
      },
      'software': {
        'runtime': kind,
        'program_sha256': digest,
        'os': self._system,
      },
    }

  def conditions(self) -> dict[str, Any]:
    temperature, *governors = [*self.ask(_CONDITIONS).splitlines(), '']
    known = temperature.strip().lstrip('-').isdigit()
    return {
      'celsius': int(temperature) / 1000 if known else None,
      'governors': [word for word in governors if word],
      'cooldown_seconds': self.cooldown_seconds,
    }

  def shell(self, command: str, timeout: float = SHORT_SECONDS) -> str:
    return self._ssh(command, b'', timeout).decode(errors='replace')

  def push(self, content: bytes, target: str) -> None:
    self._ssh(f'cat > {shlex.quote(target)}', content, self.timeout_seconds)

  def pull(self, source: str) -> bytes:
    return self._ssh(f'cat {shlex.quote(source)}', b'', self.timeout_seconds)

  def _ssh(self, command: str, given: bytes, timeout: float) -> bytes:
    """Runs a command there and returns what it printed.

    Raises:
      UserError: there is no ssh, the host cannot be reached, the command
        failed, or took too long.
    """
    what = command if len(command) <= 60 else command[:57] + '...'
    try:
      done = subprocess.run(
        [
          'ssh',
          *self._options,
          *('-o', 'BatchMode=yes', '-o', 'ConnectTimeout=15'),
          self._host,
          '--',
          command,
        ],
        input=given,
        capture_output=True,
        timeout=timeout,
        check=False,
      )
    except FileNotFoundError as e:
      raise UserError(
        "device is 'ssh', but there is no program ssh on this machine; install "
        'the OpenSSH client (Debian: apt-get install openssh-client)'
      ) from e
    except OSError as e:
      raise UserError(f'ssh cannot be started ({e.strerror})') from e
    except subprocess.TimeoutExpired as e:
      raise UserError(
        f'ssh {self._host}: no answer to {what!r} in {timeout:g} s '
        '(profile.timeout_seconds is the limit of a measurement)'
      ) from e
    if done.returncode:
      said = last_line((done.stderr or done.stdout).decode(errors='replace'))
      # 255 is ssh's own; anything else is the command's.
      way = 'cannot be reached' if done.returncode == 255 else f'failed: {what}'
      raise UserError(f'profile.ssh_host {self._host!r} {way} ({said})')
    return done.stdout
