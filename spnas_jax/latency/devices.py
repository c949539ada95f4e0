"""What can run and time TFLite models: this machine, or a phone over adb.

A device takes *samples*: ms of a run or of several, per model and round. Rounds
go over all models in turn, so that whatever the device does to speeds in the
meantime (heat, other programs) it does to all of them alike. A table holds the
statistic of the samples that repeats best on its kind of device.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# Times that samples are drawn again for a standard error.
_RESAMPLED = 200

# A sample is ms, or what a device's `steady` makes ms of: for each model and
# round the ms of one run or of several.
Samples = dict[str, list[Any]]
Rounds = dict[str, list[Sequence[float]]]
Take = Callable[[str], Any]


@dataclasses.dataclass(frozen=True)
class Timing:
  """Time of one inference.

  Attributes:
    ms: the device's statistic of all runs kept, what tables hold.
    median_ms: their median.
    spread_ms: their interquartile range.
    count: number of rounds.
    error_ms: standard error of `ms`, by drawing the rounds again.
  """

  ms: float
  median_ms: float
  spread_ms: float
  count: int
  error_ms: float = 0.0


@dataclasses.dataclass(frozen=True)
class OperationTime:
  """Time of one operation inside an inference, if the device reports it.

  Attributes:
    name: what the runtime calls the operation.
    mean_ms: mean over the inferences.
    count: number of inferences.
  """

  name: str
  mean_ms: float
  count: int


@dataclasses.dataclass(frozen=True)
class Fallback:
  """Operations that a delegate left to the CPU.

  Attributes:
    count: how many; None if the tool does not say.
    names: their kinds, as far as it names them.
  """

  count: int | None
  names: tuple[str, ...]


class Device(abc.ABC):
  """Something that times models.

  Attributes:
    threads: of the interpreter.
    quantile: of the samples, which is a timing's `ms`; 0 = the smallest.
    statistic: what `ms` is, in words.
    round_seconds: shortest duration of a round; time to rest, and to see more
      of what else runs on the device.
    tells_operations: `operation_times` may know them.
    fallback: what a delegate left to the CPU in the model timed last; None
      where there is no delegate that is to run everything.
  """

  threads: int
  quantile: float
  statistic: str
  round_seconds: float = 0.0
  tells_operations: bool = False
  fallback: Fallback | None = None

  @abc.abstractmethod
  def describe(self) -> dict[str, dict[str, Any]]:
    """{'device', 'software'}: facts that stay the same between measurements.

    Tables hold for one 'device' only.
    """

  def conditions(self) -> dict[str, Any]:
    """What the device is like at the moment: temperature, governor, load.

    Nice to know: what cannot be read is None or empty, never an error.
    """
    return {}

  def operation_times(self, model: bytes, runs: int) -> list[OperationTime]:
    """Times of a model's operations in order; empty = the device can't tell.

    Nice to know: never an error; why there are none is printed.
    """
    del model, runs
    return []

  @abc.abstractmethod
  def session(
    self, models: dict[str, bytes], warmup_runs: int, runs_per_round: int
  ) -> contextlib.AbstractContextManager[Take]:
    """Prepares for measuring.

    The context gives a function that takes one sample of the model with a name,
    after `warmup_runs` runs that do not count.
    """

  def steady(self, samples: Samples) -> Rounds:
    """ms of each sample, freed of what the device knows of its own changes."""
    return {name: [[sample] for sample in own] for name, own in samples.items()}

  def measure(
    self,
    models: dict[str, bytes],
    *,
    warmup_runs: int,
    rounds: int,
    runs_per_round: int,
    samples: Samples | None = None,
    on_sample: Callable[[], None] = lambda: None,
  ) -> dict[str, Timing]:
    """Times models, interleaved.

    Args:
      models: name -> TFLite model.
      warmup_runs: runs before each sample that do not count.
      rounds: samples of each model.
      runs_per_round: smallest number of runs in a sample.
      samples: those already taken, by name; extended in place.
      on_sample: called after every sample.

    Returns:
      name -> timing.

    Raises:
      UserError: the device cannot be used, or no longer.
    """
    samples = {} if samples is None else samples
    with self.session(models, warmup_runs, runs_per_round) as take:
      for count in range(1, rounds + 1):
        end = time.monotonic() + self.round_seconds
        missing = [n for n in models if len(samples.get(n, ())) < count]
        for name in missing:
          samples.setdefault(name, []).append(take(name))
          on_sample()
        if missing and count < rounds:
          time.sleep(max(0.0, end - time.monotonic()))
    ms = self.steady({name: samples[name][:rounds] for name in models})
    return {name: summarise(ms[name], self.quantile) for name in models}


def load_average() -> float | None:
  """This machine's load of the last minute; None where it is unknown."""
  try:
    return round(os.getloadavg()[0], 2)
  except (AttributeError, OSError):  # Windows has none, a sandbox may hide it.
    return None


def summarise(rounds: Sequence[Sequence[float]], quantile: float) -> Timing:
  """Statistics of rounds, each the ms of one run or of several."""
  every = np.concatenate(rounds)
  wanted, low, median, high = np.quantile(every, [quantile, 0.25, 0.5, 0.75])
  # Rounds differ by where a model lies in memory and by what else runs: no
  # normal distribution, so the spread does not say how well a quantile repeats.
  rng = np.random.default_rng(0)
  again = [
    np.quantile(np.concatenate([rounds[i] for i in drawn]), quantile)
    for drawn in rng.integers(len(rounds), size=(_RESAMPLED, len(rounds)))
  ]
  return Timing(
    ms=float(wanted),
    median_ms=float(median),
    spread_ms=float(high - low),
    count=len(rounds),
    error_ms=float(np.std(again)),
  )
