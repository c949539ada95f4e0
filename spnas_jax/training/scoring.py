"""Scoring a network: every example of a split exactly once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from spnas_jax.config.defaults import dataset_facts
from spnas_jax.core.parallel import AXIS, pmap_eval
from spnas_jax.data import input_pipeline
from spnas_jax.models.convnet import ConvNet
from spnas_jax.training.steps import make_eval_step


@functools.lru_cache(maxsize=4)
def convnet_eval_step(model: ConvNet) -> Callable:
  """Compiled (variables, batch) -> sums; one compilation per model."""
  return pmap_eval(make_eval_step(lambda v, x: model.apply(v, x, train=False)))


def score_split(
  eval_step: Callable,
  variables: Any,
  config: ConfigDict,
  split: str,
  dtype: str = 'float32',
) -> dict[str, float]:
  """Scores a split.

  Args:
    eval_step: pmapped, see `steps.make_eval_step`.
    variables: placed on the devices; whatever `eval_step` takes.
    config: `dataset` and `evaluate.batch_size` are read.
    split: 'test', 'validation' or 'train'.
    dtype: of the images.

  Returns:
    {'top1', 'top5' (fractions), 'cross_entropy' (nats), 'num_examples'}.
  """
  # A larger batch than the split would be filled up with zeros.
  available = dataset_facts(config).num_examples(split)
  batch_size = min(config.evaluate.batch_size, available)
  devices = jax.device_count()
  batches = input_pipeline.prefetch_to_devices(
    input_pipeline.eval_batches(
      config.dataset,
      batch_size=-(-batch_size // devices) * devices,
      split=split,
      dtype=dtype,
    ),
    axis_name=AXIS,
  )
  totals: dict[str, float] = {}
  for batch in batches:
    for key, value in jax.device_get(eval_step(variables, batch)).items():
      totals[key] = totals.get(key, 0.0) + float(value)
  count = totals.pop('count')
  return {
    **{key: value / count for key, value in totals.items()},
    'num_examples': round(count),
  }


def spell_scores(scores: dict[str, float], num_classes: int) -> str:
  """'top-1 93.89%, top-5 99.72%'; of up to five classes the second is always
  100% and says nothing."""
  text = f'top-1 {100 * scores["top1"]:.2f}%'
  if num_classes <= 5:
    return text
  return f'{text}, top-5 {100 * scores["top5"]:.2f}%'
