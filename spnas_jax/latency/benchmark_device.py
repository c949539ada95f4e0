"""Devices that run TensorFlow Lite's own benchmark program, `benchmark_model`.

What is done there is the same for a phone behind adb and a computer behind ssh;
how commands and files get there is what `adb.py` and `ssh.py` say.
"""

from __future__ import annotations

import abc
import contextlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.latency import benchmark_output
from spnas_jax.latency.devices import Device, OperationTime, Take

# Flags that have the times of operations written to a file, newest first.
_PROFILE_FLAGS = (
  '--op_profiling_output_mode=proto --op_profiling_output_file={}',
  '--op_profiling_output_mode=csv --op_profiling_output_file={}',
  '--profiling_output_csv_file={}',
)
# What runs the operations -> flags of the program.
DELEGATES = {
  'xnnpack': ('--use_xnnpack=true',),
  'none': ('--use_xnnpack=false',),
  'gpu': ('--use_gpu=true',),
  'nnapi': ('--use_nnapi=true',),
}
# Longest wait for commands that do not measure, seconds.
SHORT_SECONDS = 60.0


class BenchmarkDevice(Device):
  """Somewhere else, with a shell, where a program times a model.

  Everything is in a folder of its own there, which is removed at the end. A
  sample is the mean of one run of the program, which repeats the model for at
  least a second after half a second of warm-up.

  Attributes:
    parent: folder there in which programs may be kept and started.
    cooldown_seconds: rest before each sample.
    timeout_seconds: longest run of the program.
    delegate: what runs the operations, one of `DELEGATES`.
    cpu_mask: of the cores that may be used, hexadecimal as `taskset` takes it;
      '' = all.
  """

  quantile = 0.5
  tells_operations = True
  statistic = 'median over rounds of the mean of a round'
  parent: str

  def __init__(
    self,
    *,
    threads: int = 1,
    cooldown_seconds: float = 10.0,
    timeout_seconds: float = 300.0,
    delegate: str = 'xnnpack',
    cpu_mask: str = '',
  ):
    """Settings of the program, see the attributes."""
    self.threads = threads
    self.cooldown_seconds = cooldown_seconds
    self.timeout_seconds = timeout_seconds
    self.delegate = delegate
    self.cpu_mask = cpu_mask

  @abc.abstractmethod
  def program(self) -> bytes:
    """The benchmark program, to be started there."""

  @abc.abstractmethod
  def shell(self, command: str, timeout: float = SHORT_SECONDS) -> str:
    """What a command prints there; UserError if it fails or takes too long."""

  @abc.abstractmethod
  def push(self, content: bytes, target: str) -> None:
    """Writes a file there."""

  @abc.abstractmethod
  def pull(self, source: str) -> bytes:
    """Reads a file there."""

  def start(self, program: str) -> str:
    """The words that start the program."""
    return program

  @contextlib.contextmanager
  def session(
    self, models: dict[str, bytes], warmup_runs: int, runs_per_round: int
  ) -> Iterator[Take]:
    with self._folder() as folder:
      pushed: dict[str, str] = {}

      def take(name: str) -> float:
        if name not in pushed:
          pushed[name] = f'{folder}/model{len(pushed)}.tflite'
          self.push(models[name], pushed[name])
        time.sleep(self.cooldown_seconds)
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
        self.push(model, graph)
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
    time.sleep(self.cooldown_seconds)
    self._benchmark(
      folder,
      graph,
      f'--num_runs={runs}',
      '--enable_op_profiling=true',
      flags.format(file),
    )
    there = self.shell(f'test -s {file} && echo there || echo none')
    if there.strip() != 'there':
      raise UserError('this benchmark_model knows no flag that writes them')
    return self.pull(file)

  # --- commands ---------------------------------------------------------------

  @contextlib.contextmanager
  def _folder(self) -> Iterator[str]:
    """A folder there with the program in it, removed at the end."""
    folder = f'{self.parent}/spnas_jax_{uuid.uuid4().hex[:12]}'
    try:
      self.shell(f'mkdir -p {folder}')
      program = f'{folder}/benchmark_model'
      self.push(self.program(), program)
      self.shell(f'chmod 755 {program}')
      yield folder
    finally:
      # A device that is gone cannot be tidied up; the first error is the one to
      # report.
      with contextlib.suppress(UserError):
        self.shell(f'rm -rf {folder}')

  def _benchmark(self, folder: str, graph: str, *flags: str) -> str:
    command = ' '.join(
      (
        *(('taskset', self.cpu_mask) if self.cpu_mask else ()),
        self.start(f'{folder}/benchmark_model'),
        f'--graph={graph}',
        f'--num_threads={self.threads}',
        *DELEGATES[self.delegate],
        *flags,
        '2>&1',
      )
    )
    output = self.shell(command, self.timeout_seconds)
    if self.delegate in ('gpu', 'nnapi'):
      self.fallback = benchmark_output.parse_fallback(output)
    return output

  def placement(self) -> dict[str, Any]:
    """What a table holds for besides the device: delegate and cores.

    Nothing for the defaults, so that tables made without them still hold.
    """
    found = {}
    if self.delegate != 'xnnpack':
      found['delegate'] = self.delegate
    if self.cpu_mask:
      found['cpu_mask'] = self.cpu_mask
    return found

  def ask(self, command: str) -> str:
    """Output of a command that is only nice to have; '' if it fails."""
    try:
      return self.shell(command)
    except UserError:
      return ''
