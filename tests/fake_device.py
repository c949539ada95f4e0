"""A device whose times are a function of the model: nothing has to be run."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from spnas_jax.export import tflite
from spnas_jax.latency import entries as table_entries
from spnas_jax.latency.devices import Device, Take

# Time of a call, ms.
CALL_MS = 0.5
# Operations of a model take so long together, ms.
OPERATION_MS = {
  'CONV_2D': 1.0,
  'DEPTHWISE_CONV_2D': 2.0,
  'FULLY_CONNECTED': 0.5,
}


class FakeDevice(Device):
  """Every call costs CALL_MS, every operation its OPERATION_MS.

  Attributes:
    inside: factor on operations of whole networks, which are those with many
      convolutions.
    fail_after: samples after which it breaks off as Ctrl-C would.
    taken: names of the samples taken, in order.
  """

  threads = 1
  quantile = 0.5
  statistic = 'made up'

  def __init__(self, name: str = 'fake', inside: float = 1.0):
    self.name = name
    self.inside = inside
    self.fail_after: int | None = None
    self.taken: list[str] = []

  def describe(self) -> dict[str, dict[str, Any]]:
    return {'device': {'kind': 'fake', 'name': self.name}, 'software': {}}

  @contextlib.contextmanager
  def session(
    self, models: dict[str, bytes], warmup_runs: int, runs_per_round: int
  ) -> Iterator[Take]:
    def take(name: str) -> float:
      if len(self.taken) == self.fail_after:
        raise KeyboardInterrupt
      self.taken.append(name)
      names = tflite.operations(models[name])
      work = sum(OPERATION_MS.get(n, 0.0) for n in names)
      whole = names.count('CONV_2D') > 3
      return CALL_MS + work * (self.inside if whole else 1.0)

    yield take


_random_tflite = table_entries.random_tflite


@functools.cache
def _kept(module, input_shape, precision) -> bytes:
  rng = np.random.default_rng(0)
  return _random_tflite(module, input_shape, rng, precision)


def _kept_tflite(module, input_shape, rng, precision='float32') -> bytes:
  del rng
  return _kept(module, input_shape, precision)


def install(monkeypatch, device: Device) -> None:
  """Makes `open_device` return this one, whoever calls it.

  Models are exported once and kept: the fake times them whatever their weights.
  """
  from spnas_jax.stages import build_table, profile, validate_table

  monkeypatch.setattr(table_entries, 'random_tflite', _kept_tflite)
  for module in (build_table, validate_table, profile):
    monkeypatch.setattr(module, 'open_device', lambda config: device)
