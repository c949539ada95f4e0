"""What can run and time TFLite models: this machine, or a phone over adb.

A device takes *samples*: one number of ms per model and round. Rounds go over
all models in turn, so that whatever the device does to speeds in the meantime
(heat, other programs) it does to all of them alike. The result for a model is
the median of its samples.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from spnas_jax.errors import UserError

Samples = dict[str, list[float]]
Take = Callable[[str], float]


@dataclasses.dataclass(frozen=True)
class Timing:
  """Time of one inference.

  Attributes:
    median_ms: median of the samples.
    spread_ms: their interquartile range.
    count: number of samples, which are spread over as many rounds.
  """

  median_ms: float
  spread_ms: float
  count: int


@dataclasses.dataclass(frozen=True)
class OperationTime:
  """Time of one operation inside an inference, where a device tells it.

  Attributes:
    name: what the runtime calls the operation.
    mean_ms: mean over the inferences.
    count: number of inferences.
  """

  name: str
  mean_ms: float
  count: int


class Device(abc.ABC):
  """Something that times models.

  Attributes:
    threads: of the interpreter.
    statistic: what one sample is, in words.
  """

  threads: int
  statistic: str

  @abc.abstractmethod
  def describe(self) -> dict[str, dict[str, Any]]:
    """{'device', 'software'}: facts that stay the same between measurements.

    Tables hold for one 'device' only.
    """

  def conditions(self) -> dict[str, Any]:
    """What the device is like at the moment: temperature, governor, load."""
    return {}

  def operation_times(self, model: bytes, runs: int) -> list[OperationTime]:
    """Times of a model's operations in order; empty = the device can't tell."""
    del model, runs
    return []

  @abc.abstractmethod
  def session(
    self, models: dict[str, bytes], warmup_runs: int, runs_per_round: int
  ) -> contextlib.AbstractContextManager[Take]:
    """Prepares for measuring.

    The context gives a function that takes one sample, ms, of the model with a
    name, after `warmup_runs` runs that do not count.
    """

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
      runs_per_round: fewest runs behind a sample.
      samples: those already taken, by name; added to in place.
      on_sample: called after every sample.

    Returns:
      name -> timing.

    Raises:
      UserError: the device cannot be used, or not any more.
    """
    samples = {} if samples is None else samples
    with self.session(models, warmup_runs, runs_per_round) as take:
      for count in range(1, rounds + 1):
        for name in models:
          taken = samples.setdefault(name, [])
          if len(taken) < count:
            taken.append(take(name))
            on_sample()
    return {name: summarise(samples[name][:rounds]) for name in models}


def summarise(samples: Sequence[float]) -> Timing:
  """Median and interquartile range of samples in ms."""
  low, median, high = np.percentile(samples, [25, 50, 75])
  return Timing(float(median), float(high - low), len(samples))


def open_device(config: ConfigDict) -> Device:
  """The device of `config.device`, with the settings of `config.profile`.

  Raises:
    UserError: there is no such device, or it cannot be reached.
  """
  if config.device == 'host':
    from spnas_jax.device_host import HostDevice

    return HostDevice(threads=config.profile.threads)
  if config.device == 'adb':
    from spnas_jax.device_adb import AdbDevice

    return AdbDevice(
      serial=config.profile.adb_serial,
      benchmark_model=config.profile.benchmark_model,
      threads=config.profile.threads,
      cooldown_seconds=config.profile.cooldown_seconds,
      timeout_seconds=config.profile.timeout_seconds,
    )
  raise UserError(f"device is {config.device!r}, allowed: 'host', 'adb'")
