"""This machine as a device: the LiteRT interpreter in this process."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from spnas_jax.config.workdir import versions
from spnas_jax.export import tflite
from spnas_jax.latency.devices import Device, Take, load_average

# Shortest duration of a sample: a model that takes a few microseconds is then
# run often enough that one hiccup of the machine does not decide.
_LEAST_NANOSECONDS = 4_000_000


class HostDevice(Device):
  """LiteRT with XNNPACK on this machine's processor.

  A round counts by its fastest run, the rounds by their lower quartile. Each
  round makes an interpreter of its own: its place in memory makes a model
  a few percent faster or slower. The fastest of all rounds is the luckiest
  place; the median follows other programs, which slow a shared machine down for
  seconds at a time. 40 networks of the ImageNet space at 224 px, 20 rounds:
  networks repeat within 0.67% of each other by the fastest round, 0.36% by the
  lower quartile, 0.32% by the median; next to a training run 0.73, 0.47
  and 0.38% (standard deviations, common drift subtracted).
  """

  quantile = 0.25
  statistic = "lower quartile over rounds of a round's fastest run"
  round_seconds = 0.8

  def __init__(self, threads: int = 1):
    """Uses interpreters with this number of threads."""
    self.threads = threads

  def describe(self) -> dict[str, dict[str, Any]]:
    return {
      'device': {'kind': 'host', **_processor(), 'cores': os.cpu_count()},
      'software': {
        'runtime': 'LiteRT, XNNPACK',
        'ai-edge-litert': versions().get('ai-edge-litert', 'unknown'),
        'os': f'{platform.system()} {platform.release()}',
        'python': platform.python_version(),
      },
    }

  def conditions(self) -> dict[str, Any]:
    return {'load_1_min': load_average()}

  @contextlib.contextmanager
  def session(
    self, models: dict[str, bytes], warmup_runs: int, runs_per_round: int
  ) -> Iterator[Take]:
    interpreters: dict[str, Any] = {}
    rng = np.random.default_rng(0)

    def take(name: str) -> float:
      # The old interpreter still lives: the new one gets other memory.
      runner = tflite.interpreter(models[name], self.threads)
      interpreters[name] = runner
      (source,) = runner.get_input_details()
      image = rng.uniform(0, 1, source['shape']).astype(source['dtype'])
      runner.set_tensor(source['index'], image)
      for _ in range(warmup_runs):
        runner.invoke()
      return _fastest_run(runner, runs_per_round)

    with _pinned(self.threads):
      yield take


def _fastest_run(runner: Any, runs: int) -> float:
  """Fastest of at least `runs` runs, ms."""
  invoke, clock = runner.invoke, time.perf_counter_ns
  fastest = float('inf')
  spent = done = 0
  while done < runs or spent < _LEAST_NANOSECONDS:
    begin = clock()
    invoke()
    took = clock() - begin
    spent += took
    done += 1
    fastest = min(fastest, took)
  return fastest / 1e6


@contextlib.contextmanager
def _pinned(count: int) -> Iterator[None]:
  """Keeps this thread, and those it starts, on `count` cores where possible."""
  if not hasattr(os, 'sched_setaffinity'):
    yield
    return
  allowed = os.sched_getaffinity(0)
  with contextlib.suppress(OSError):  # A sandbox may forbid it.
    os.sched_setaffinity(0, sorted(allowed)[-count:])
  try:
    yield
  finally:
    with contextlib.suppress(OSError):
      os.sched_setaffinity(0, allowed)


def _processor() -> dict[str, Any]:
  """The processor's name and, on Linux, the numbers that tell models apart."""
  facts = {'machine': platform.machine(), 'name': platform.processor()}
  with contextlib.suppress(OSError), open('/proc/cpuinfo') as file:
    for line in file:
      field, _, value = (part.strip() for part in line.partition(':'))
      if field == 'model name':
        facts['name'] = value
      elif field in ('cpu family', 'model'):
        facts[field.replace(' ', '_')] = value
      elif not line.strip():
        break  # The other cores are the same.
  facts['name'] = facts['name'] or facts['machine']
  return facts
