"""This machine as a device: the LiteRT interpreter in this process."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spnas_jax.config.workdir import versions
from spnas_jax.export import tflite
from spnas_jax.latency.devices import (
  Device,
  Rounds,
  Samples,
  Take,
  load_average,
)

# Shortest duration of a sample: a model that takes a few microseconds is then
# run often enough that one hiccup of the machine does not decide.
_LEAST_NANOSECONDS = 4_000_000
# Between looks at the pace, and the loop that is one: 0.1 to 0.2 ms.
_PACE_NANOSECONDS = 1_000_000
_PACE_LOOPS = 8_000


class HostDevice(Device):
  """LiteRT with XNNPACK on this machine's processor.

  Each round makes an interpreter of its own: its place in memory makes a model
  a few percent faster or slower.

  On a shared machine others slow it down, for milliseconds or for seconds. So
  between runs a fixed loop of Python tells the machine's pace, and times are
  put at one pace (`at_one_pace`). Two threads wait for the slower of two cores,
  and the loop knows one of them: there the fast runs, those that both cores
  left alone, repeat best. How well 8 networks of the ImageNet space at 224 px
  repeat in halves of 60 to 100 rounds, on two virtual cores of a Xeon whose
  pace went from 1.0 to 1.9 (standard deviations, common drift subtracted): one
  thread 0.9%, two 0.5 to 1.1%; without the pace 1.1 to 2% and 1.1 to 3.5%. No
  quiet machine was measured.
  """

  round_seconds = 0.8

  def __init__(self, threads: int = 1):
    """Uses interpreters with this number of threads."""
    self.threads = threads
    self.quantile = 0.25 if threads == 1 else 0.1
    self.statistic = (
      f'{100 * self.quantile:g}% quantile of runs at one pace, over all rounds'
    )

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

    def take(name: str) -> list[list[float]]:
      # The old interpreter still lives: the new one gets other memory.
      runner = tflite.interpreter(models[name], self.threads)
      interpreters[name] = runner
      (source,) = runner.get_input_details()
      image = rng.uniform(0, 1, source['shape']).astype(source['dtype'])
      runner.set_tensor(source['index'], image)
      for _ in range(warmup_runs):
        runner.invoke()
      return _sample(runner, runs_per_round)

    with _pinned(self.threads):
      yield take

  def steady(self, samples: Samples) -> Rounds:
    return at_one_pace(samples)


def _sample(runner: Any, runs: int) -> list[list[float]]:
  """[[ms of a run, ms of the loop before and after it], …].

  Runs that are short come in bursts between two looks at the pace, as one:
  their median. There are at least `runs` runs.
  """
  invoke, clock = runner.invoke, time.perf_counter_ns
  bursts: list[list[float]] = []
  times: list[int] = []
  count, pace = 0, _pace()
  since = start = clock()
  while count < runs or clock() - start < _LEAST_NANOSECONDS or times:
    begin = clock()
    invoke()
    end = clock()
    count += 1
    times.append(end - begin)
    if end - since > _PACE_NANOSECONDS:
      before, pace = pace, _pace()
      bursts.append([float(np.median(times)) / 1e6, (before + pace) / 2e6])
      times = []
      since = clock()
  return bursts


def _pace() -> int:
  """Nanoseconds of a loop that does nothing: how fast the core runs now."""
  begin = time.perf_counter_ns()
  for _ in range(_PACE_LOOPS):
    pass
  return time.perf_counter_ns() - begin


def at_one_pace(samples: Samples) -> Rounds:
  """Times as if the machine had always run at the same pace.

  How much of a change of pace is a change of times, in logarithms, is a slope
  that the samples themselves give: 1 where others take a share of the core, 0
  where pace and times are unrelated. The pace is the lower quartile of all.

  Args:
    samples: name -> rounds: [[ms, pace in ms], …], positive. A bare number is
      ms of a version that did not look at the pace; it stays.

  Returns:
    name -> rounds: ms.
  """
  logs = {
    name: [np.log(np.reshape(s, (-1, 2))) for s in own if isinstance(s, list)]
    for name, own in samples.items()
  }
  known = [np.concatenate(own) for own in logs.values() if own]
  if not known:
    return {name: [[s] for s in own] for name, own in samples.items()}
  pace = float(np.quantile(np.concatenate(known)[:, 1], 0.25))
  centred = np.concatenate([own - np.median(own, 0) for own in known])
  variance = float(centred[:, 1] @ centred[:, 1])
  slope = 0.0
  if variance > 0:
    slope = float(np.clip(centred[:, 0] @ centred[:, 1] / variance, 0, 1.5))

  def steady(sample: Any) -> Sequence[float]:
    if not isinstance(sample, list):
      return [sample]
    ms, own_pace = np.reshape(sample, (-1, 2)).T
    return ms * (np.exp(pace) / own_pace) ** slope

  return {name: [steady(s) for s in own] for name, own in samples.items()}


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
