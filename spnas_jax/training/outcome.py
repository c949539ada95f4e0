"""A finished stage as a row of TensorBoard's table of runs (plugin hparams)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from spnas_jax.config import rules
from spnas_jax.config.workdir import Workdir
from spnas_jax.training.events import Drawn, event_writer

# What a person compares between runs, in the order of a table of them.
COMPARED = {
  'search': (
    'seed',
    'dataset.name',
    'dataset.image_size',
    'search.method',
    'search.gates',
    'search.target_ms',
    'search.target_fraction',
    'search.lambda_',
    'search.epochs',
    'search.warmup_epochs',
    'search.batch_size',
    'search.optimizer',
    'search.learning_rate',
    'search.weight_decay',
    'search.label_smoothing',
  ),
  'train': (
    'seed',
    'dataset.name',
    'dataset.image_size',
    'train.init',
    'train.epochs',
    'train.batch_size',
    'train.optimizer',
    'train.learning_rate',
    'train.schedule',
    'train.weight_decay',
    'train.label_smoothing',
    'train.dropout',
    'train.mixup',
    'train.ema_decay',
  ),
}


def write_outcome(
  stage: str,
  workdir: Workdir,
  step: int,
  metrics: Mapping[str, float | None],
  config: ConfigDict | None = None,
  drawn: Drawn | None = None,
) -> None:
  """What a stage ended with, for the table of runs.

  Args:
    stage: 'search' or 'train'.
    workdir: where its events are.
    step: its last.
    metrics: as scalars `final/NAME`; None = not known.
    config: the stage's settings are noted with it; None = they are there.
    drawn: pictures of the end.
  """
  known = {f'final/{k}': v for k, v in metrics.items() if v is not None}
  with event_writer(stage, workdir) as events:
    if config is not None:
      events.settings(_compared(config, stage))
    events.scalars(step, known)
    if drawn is not None:
      events.draw(step, lambda: drawn)


def _compared(config: ConfigDict, stage: str) -> dict[str, Any]:
  """`COMPARED` as far as it is set; TensorBoard knows no None."""
  values = {key: rules.get(config, key) for key in COMPARED[stage]}
  if values.get('search.target_ms') is not None:
    del values['search.target_fraction']
  return {key: value for key, value in values.items() if value is not None}
