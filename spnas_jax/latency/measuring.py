"""Measurements that survive an interruption and say how long they take."""

from __future__ import annotations

import json
import time

from ml_collections import ConfigDict

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.console import say
from spnas_jax.core.progress import Progress
from spnas_jax.latency.devices import Device, Samples, Timing
from spnas_jax.latency.exchange import ExchangeDevice

# Seconds of samples that an interruption which nothing can catch may cost.
_SAVE_SECONDS = 2.0


def measure(
  stage: str,
  workdir: Workdir,
  device: Device,
  models: dict[str, bytes],
  settings: ConfigDict,
) -> dict[str, Timing]:
  """Times models; continues from the samples that a stopped run left.

  Samples are kept in the workdir as `STAGE/samples.json` until `forget`. The
  caller has claimed the stage, so they belong to the same models and device.

  Args:
    stage: name of the stage.
    workdir: where samples are kept.
    device: what measures.
    models: name -> model.
    settings: `warmup_runs`, `rounds` and `runs_per_round` are read.

  Returns:
    name -> timing.

  Raises:
    Waiting: the models are there for somebody else to time.
  """
  if isinstance(device, ExchangeDevice):
    return device.exchanged(stage, workdir, models)
  name = f'{stage}/samples.json'
  samples: Samples = {}
  if (workdir / name).exists():
    samples = json.loads((workdir / name).read_text())
  total = len(models) * settings.rounds
  found = sum(len(samples.get(model, ())) for model in models)
  if found:
    say(f'{stage}: continues after {found} of {total} samples')
  saved = time.monotonic()
  taken = 0

  def on_sample() -> None:
    nonlocal taken, saved
    taken += 1
    now = time.monotonic()
    if now - saved > _SAVE_SECONDS:
      workdir.write(name, json.dumps(samples))
      saved = now
    progress.advance()

  try:
    with Progress(stage, 'samples', total, found) as progress:
      return device.measure(
        models,
        warmup_runs=settings.warmup_runs,
        rounds=settings.rounds,
        runs_per_round=settings.runs_per_round,
        samples=samples,
        on_sample=on_sample,
      )
  finally:
    if taken:
      workdir.write(name, json.dumps(samples))


def forget(stage: str, workdir: Workdir) -> None:
  """Removes a finished stage's samples: run again, it measures again."""
  (workdir / f'{stage}/samples.json').unlink(missing_ok=True)


def protocol(device: Device, settings: ConfigDict) -> dict[str, object]:
  """How numbers were measured, for tables and results."""
  if isinstance(device, ExchangeDevice):
    return {'statistic': device.statistic, 'spread': 'interquartile range'}
  return {
    'warmup_runs': settings.warmup_runs,
    'rounds': settings.rounds,
    'runs_per_round': settings.runs_per_round,
    'statistic': device.statistic,
    'spread': 'interquartile range',
    'order': 'rounds interleaved over all models',
  }
