"""Batches of a data set that was resized once and is kept in memory."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from spnas_jax.data import augmentation, datasets
from spnas_jax.data.folder_names import set_name

Batch = dict[str, np.ndarray]

# Keys that do not change what is kept, at values that need no thought.
_INDIFFERENT = {
  'augment': 'none',
  'crop_padding': 0,
  'mean': (),
  'std': (),
  'shuffle_buffer': 1,
}


def split_arrays(
  dataset_config: ConfigDict, split: str
) -> tuple[np.ndarray, np.ndarray]:
  """A whole split, read once for all callers.

  Returns:
    images [n, size, size, channels] uint8, labels [n] int32; read-only. Without
    those that cannot be read, as far as `dataset.max_unreadable` allows it.
  """
  # By name a folder is the state of it that was prepared.
  plain = {**_INDIFFERENT, 'name': set_name(dataset_config), 'folder': ''}
  return _read_split(
    FrozenConfigDict({**dataset_config.to_dict(), **plain}), split
  )


# Training, evaluation and calibration of a run share what is in memory.
@functools.lru_cache(maxsize=4)
def _read_split(
  dataset_config: FrozenConfigDict, split: str
) -> tuple[np.ndarray, np.ndarray]:
  from spnas_jax.data import record_batches

  count = datasets.info(dataset_config).num_examples(split)
  images, labels = record_batches.read(dataset_config, split, count)
  images.flags.writeable = False
  labels.flags.writeable = False
  return images, labels


def train_batches(
  dataset_config: ConfigDict,
  split: str,
  *,
  batch_size: int,
  seed: int,
  start_step: int,
  dtype: str,
  process_index: int,
  process_count: int,
) -> Iterator[Batch]:
  """Endless batches; see `input_pipeline.train_batches`.

  All processes draw the same plan for an epoch and take their slice of every
  batch, so the global batches are the same for any number of processes. Where
  images could not be read, the first ones are seen twice an epoch instead.
  """
  images, labels = split_arrays(dataset_config, split)
  count = datasets.info(dataset_config).num_examples(split)
  steps = count // batch_size
  local_batch = batch_size // process_count
  for epoch in itertools.count(start_step // steps):
    plan = augmentation.plan_epoch(dataset_config, count, seed, epoch)
    for step in range(max(start_step - epoch * steps, 0), steps):
      begin = step * batch_size + process_index * local_batch
      here = slice(begin, begin + local_batch)
      rows = plan.order[here] % len(images)
      pixels = images[rows]
      if dataset_config.augment != 'none':
        pixels = augmentation.crop_and_flip(
          pixels,
          plan.top_left[here],
          plan.flip[here],
          dataset_config.crop_padding,
        )
      yield {
        'image': augmentation.normalize(pixels, dataset_config, dtype),
        'label': labels[rows],
      }


def eval_pass(
  dataset_config: ConfigDict,
  split: str,
  *,
  batch_size: int,
  dtype: str,
  process_index: int,
  process_count: int,
) -> Iterator[Batch]:
  """This process' slice of every batch of one pass; the last may be short."""
  images, labels = split_arrays(dataset_config, split)
  local_batch = batch_size // process_count
  for begin in range(process_index * local_batch, len(images), batch_size):
    here = slice(begin, begin + local_batch)
    pixels = images[here]
    if dtype != 'uint8':
      pixels = augmentation.normalize(pixels, dataset_config, dtype)
    yield {'image': pixels, 'label': labels[here]}
