"""Scoring a network: every example of a split exactly once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from spnas_jax.config.spaces import dataset_facts
from spnas_jax.core.parallel import AXIS, mapped_eval
from spnas_jax.data import augmentation, input_pipeline
from spnas_jax.models.convnet import ConvNet
from spnas_jax.training.steps import (
  WORST,
  make_detailed_eval_step,
  make_eval_step,
)


@functools.lru_cache(maxsize=4)
def convnet_eval_step(model: ConvNet) -> Callable:
  """Compiled (variables, batch) -> sums; one compilation per model."""
  return mapped_eval(
    make_eval_step(lambda v, x: model.apply(v, x, train=False))
  )


@functools.lru_cache(maxsize=1)
def convnet_detailed_step(model: ConvNet) -> Callable:
  """The same for `score_in_detail`."""
  return mapped_eval(
    make_detailed_eval_step(
      lambda v, x: model.apply(v, x, train=False), jax.process_count()
    )
  )


def score_split(
  eval_step: Callable,
  variables: Any,
  config: ConfigDict,
  split: str,
  dtype: str = 'float32',
) -> dict[str, float]:
  """Scores a split.

  Args:
    eval_step: mapped over devices, see `steps.make_eval_step`.
    variables: placed on the devices; whatever `eval_step` takes.
    config: `dataset` and `evaluate.batch_size` are read.
    split: 'test', 'validation' or 'train'.
    dtype: of the images.

  Returns:
    {'top1', 'top5' (fractions), 'cross_entropy' (nats), 'num_examples'}.
  """
  batches = input_pipeline.eval_batches(
    config.dataset,
    batch_size=_batch_size(config, split),
    split=split,
    dtype=dtype,
  )
  totals: dict[str, Any] = {}
  for batch in input_pipeline.prefetch_to_devices(batches, axis_name=AXIS):
    _add(totals, jax.device_get(eval_step(variables, batch)))
  return _means(totals)


def _batch_size(config: ConfigDict, split: str) -> int:
  """Images per step over all devices."""
  # A larger batch than the split would be filled up with zeros.
  available = dataset_facts(config).num_examples(split)
  batch_size = min(config.evaluate.batch_size, available)
  devices = jax.device_count()
  return -(-batch_size // devices) * devices


def _add(totals: dict[str, Any], sums: dict[str, Any]) -> None:
  """Adds a batch's float32 sums, in float64."""
  for key, value in sums.items():
    totals[key] = totals.get(key, 0.0) + np.float64(value)


def _means(totals: dict[str, Any]) -> dict[str, float]:
  count = totals['count']
  return {
    **{k: float(totals[k] / count) for k in ('top1', 'top5', 'cross_entropy')},
    'num_examples': round(count),
  }


# --- in detail ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Details:
  """A split's scores, and where the network errs.

  Attributes:
    scores: what `score_split` returns.
    images, right: int64 [classes], images of each class and how many of them
      were recognised.
    confusion: int64 [classes, classes], images by true class (row) and answer;
      None for more than `steps.MATRIX_CLASSES` classes. Its diagonal is
      `right`.
    worst: the up to `steps.WORST` most confident wrong answers, the most
      confident first: 'confidence' float32 [n], a fraction; 'true', 'predicted'
      int32 [n]; 'index' int64 [n], the position in the split, counted over the
      images that can be read.
    pixels: uint8 [n, H, W, C], their images before they were normalised.
  """

  scores: dict[str, float]
  images: np.ndarray
  right: np.ndarray
  confusion: np.ndarray | None
  worst: dict[str, np.ndarray]
  pixels: np.ndarray

  @property
  def recall(self) -> np.ndarray:
    """float64 [classes], fractions; NaN for a class without images."""
    return np.where(
      self.images > 0, self.right / np.maximum(self.images, 1), np.nan
    )


def score_in_detail(
  detailed_step: Callable, variables: Any, config: ConfigDict, split: str
) -> Details:
  """Scores a split in one pass, as `score_split` does, and says more.

  Args:
    detailed_step: mapped over devices, see `steps.make_detailed_eval_step`.
    variables: placed on the devices.
    config: `dataset` and `evaluate.batch_size` are read.
    split: 'test', 'validation' or 'train'.
  """
  batch_size = _batch_size(config, split)
  batches = input_pipeline.eval_batches(
    config.dataset, batch_size=batch_size, split=split
  )
  totals: dict[str, Any] = {}
  worst: dict[str, np.ndarray] = {}
  for batch in input_pipeline.prefetch_to_devices(
    numbered(batches, jax.process_index()), axis_name=AXIS
  ):
    sums, rows = jax.device_get(detailed_step(variables, batch))
    _add(totals, sums)
    worst = _worst_of(worst, rows)
  confusion = totals.get('confusion')
  process, ordinal = worst.pop('process'), worst.pop('ordinal')
  worst['index'] = position(
    process, ordinal, totals['examples'], batch_size, config.dataset.cache
  )
  pixels = _pixels(worst.pop('image'), config.dataset)
  return Details(
    _means(totals),
    totals['images'].astype(np.int64),
    totals['right'].astype(np.int64),
    None if confusion is None else confusion.astype(np.int64),
    worst,
    pixels,
  )


def numbered(
  batches: Iterable[input_pipeline.Batch], process: int
) -> Iterator[input_pipeline.Batch]:
  """Says of every example which process has it, and as its how manieth.

  Args:
    batches: of one process; examples stand before the filling.
    process: its number.

  Yields:
    The batches with 'process' and 'ordinal' (from 0), int32 [local_batch].
  """
  seen = 0
  for batch in batches:
    rows = len(batch['mask'])
    yield {
      **batch,
      'process': np.full(rows, process, np.int32),
      'ordinal': np.arange(seen, seen + rows, dtype=np.int32),
    }
    seen += int(batch['mask'].sum())


def position(
  process: np.ndarray,
  ordinal: np.ndarray,
  examples: np.ndarray,
  batch_size: int,
  cached: bool,
) -> np.ndarray:
  """Where an example is in its split, int64 [n].

  Args:
    process, ordinal: [n], see `numbered`.
    examples: [processes], how many each process has.
    batch_size: images per step over all processes.
    cached: `dataset.cache`. Cached images are shared out batch by batch, of
      records each process reads one stretch.
  """
  process, ordinal = process.astype(np.int64), ordinal.astype(np.int64)
  if not cached:
    before = np.cumsum(examples) - examples
    return before.astype(np.int64)[process] + ordinal
  local = batch_size // len(examples)
  batch, row = np.divmod(ordinal, local)
  return batch * batch_size + process * local + row


def _worst_of(
  kept: dict[str, np.ndarray], rows: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """The most confident of those kept and a batch's; of equal ones the first."""
  if kept:
    rows = {key: np.concatenate([kept[key], x]) for key, x in rows.items()}
  confidence = rows['confidence']
  order = np.argsort(-confidence, kind='stable')
  order = order[confidence[order] >= 0][:WORST]
  return {key: x[order] for key, x in rows.items()}


def _pixels(images: np.ndarray, dataset: ConfigDict) -> np.ndarray:
  """Undoes the normalisation, exactly: a level of grey is far above rounding.

  Args:
    images: float32 [n, H, W, C].
    dataset: the section.

  Returns:
    uint8 [n, H, W, C].
  """
  scale, offset = augmentation.scale_and_offset(dataset, images.shape[-1])
  return np.rint((images - offset) / scale).clip(0, 255).astype(np.uint8)


def spell_scores(scores: dict[str, float], num_classes: int) -> str:
  """'top-1 93.89%, top-5 99.72%'; of up to five classes the second is always
  100% and says nothing."""
  text = f'top-1 {100 * scores["top1"]:.2f}%'
  if num_classes <= 5:
    return text
  return f'{text}, top-5 {100 * scores["top5"]:.2f}%'
