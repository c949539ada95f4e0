"""Batches of images, the same for every run with the same configuration.

A training stream is a pure function of configuration, seed and step, so that a
resumed run continues bit for bit. Small data sets are resized once and kept in
memory, where a batch costs well under a millisecond; large ones are read from
their records (`record_batches.py`).
"""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict, FrozenConfigDict

from spnas_jax import augmentation, datasets
from spnas_jax.errors import UserError

Batch = dict[str, np.ndarray]

INTERPOLATIONS = ('bilinear', 'bicubic')

# Images per step where a split is read in one go.
_READ_BATCH = 512


def train_batches(
  dataset_config: ConfigDict,
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  dtype: str = 'float32',
  split: str = 'train',
  process_index: int | None = None,
  process_count: int | None = None,
) -> Iterator[Batch]:
  """Endless training batches of this process.

  An epoch is `num_examples // batch_size` steps; each is shuffled anew. Cached
  data give the same global batches for any number of processes; records give
  each process an even share of the split (see `record_batches.train_epoch`).

  Args:
    dataset_config: the `dataset` section, see `datasets.default_config`.
    batch_size: images per step over all processes.
    seed: non-negative seed of the run.
    start_step: number of the first step, counted from 0 over all epochs.
    dtype: 'float32' or 'bfloat16', of the images.
    split: 'train', or 'validation' for the images held out.
    process_index: number of this process, by default what JAX says.
    process_count: number of processes, by default what JAX says.

  Yields:
    'image': [local_batch, size, size, channels] of `dtype`, normalised.
    'label': [local_batch] int32.

  Raises:
    UserError: if the configuration is wrong or the data set cannot be read.
  """
  share = _share(batch_size, process_index, process_count)
  facts = _checked_info(dataset_config)
  steps = facts.steps_per_epoch(batch_size, split)
  if dataset_config.cache:
    return _cached_train_batches(
      dataset_config,
      *_cached_split(dataset_config, split),
      batch_size=batch_size,
      seed=seed,
      start_step=start_step,
      dtype=dtype,
      share=share,
    )
  return _record_train_batches(
    dataset_config,
    split,
    steps=steps,
    seed=seed,
    start_step=start_step,
    dtype=dtype,
    share=share,
  )


def eval_batches(
  dataset_config: ConfigDict,
  *,
  batch_size: int,
  split: str = 'test',
  dtype: str = 'float32',
  process_index: int | None = None,
  process_count: int | None = None,
) -> Iterator[Batch]:
  """One pass over a split in which every example counts exactly once.

  Every process gets the same number of batches of the same shape; what is
  missing at the end is filled with zeros and masked.

  Args:
    dataset_config: the `dataset` section, see `datasets.default_config`.
    batch_size: images per step over all processes.
    split: 'test', 'validation' or 'train'.
    dtype: 'float32', 'bfloat16', or 'uint8' for pixels not yet normalised.
    process_index: number of this process, by default what JAX says.
    process_count: number of processes, by default what JAX says.

  Yields:
    'image': [local_batch, size, size, channels] of `dtype`.
    'label': [local_batch] int32.
    'mask': [local_batch] float32, 1 for examples and 0 for filling.

  Raises:
    UserError: if the configuration is wrong or the data set cannot be read.
  """
  share = _share(batch_size, process_index, process_count)
  facts = _checked_info(dataset_config)
  num_batches = -(-facts.num_examples(split) // batch_size)
  if dataset_config.cache:
    batches = _cached_eval_batches(
      dataset_config,
      *_cached_split(dataset_config, split),
      batch_size=batch_size,
      dtype=dtype,
      share=share,
    )
  else:
    batches = _record_pass(dataset_config, split, share, dtype)
  return _pad_all(
    batches,
    num_batches,
    share.local_batch,
    (dataset_config.image_size, dataset_config.image_size, facts.channels),
    dtype,
  )


def calibration_images(
  dataset_config: ConfigDict, n: int, seed: int
) -> np.ndarray:
  """Training images without augmentation, for int8 calibration.

  Args:
    dataset_config: the `dataset` section.
    n: how many; all of them if there are fewer.
    seed: which ones.

  Returns:
    [n, size, size, channels] uint8, not normalised.
  """
  _checked_info(dataset_config)
  if dataset_config.cache:
    images, _ = _cached_split(dataset_config, 'train')
    return images[np.random.default_rng([seed]).permutation(len(images))[:n]]
  return _read(dataset_config, 'train', n, shuffle_seed=seed)[0]


def test_images(
  dataset_config: ConfigDict, n: int
) -> tuple[np.ndarray, np.ndarray]:
  """The first test images as evaluation sees them before normalising.

  Args:
    dataset_config: the `dataset` section.
    n: how many; all of them if there are fewer.

  Returns:
    images [n, size, size, channels] uint8, labels [n] int32.
  """
  _checked_info(dataset_config)
  if dataset_config.cache:
    images, labels = _cached_split(dataset_config, 'test')
    return images[:n].copy(), labels[:n].copy()
  return _read(dataset_config, 'test', n)


def prefetch_to_devices(
  batches: Iterable[Batch],
  devices: Sequence[jax.Device] | None = None,
  *,
  axis_name: str = 'batch',
  size: int = 2,
) -> Iterator[dict[str, jax.Array]]:
  """Keeps batches ahead on this process' devices, in pmap's layout.

  The transfer is started and not waited for. A function mapped with
  `jax.pmap(..., axis_name=axis_name)` over the same devices takes the arrays
  where they lie; under another axis name JAX would compile it once more.

  Args:
    batches: arrays of [local_batch, ...].
    devices: devices to share a batch out to, all local ones by default.
    axis_name: pmap's axis name.
    size: batches that are on the devices beside the one in use.

  Yields:
    The batches as arrays of [devices, local_batch / devices, ...].

  Raises:
    UserError: if a batch cannot be shared out evenly.
  """
  devices = list(jax.local_devices() if devices is None else devices)
  sharding = NamedSharding(
    Mesh(np.array(devices), (axis_name,)), PartitionSpec(axis_name)
  )

  def place(value: np.ndarray) -> jax.Array:
    if len(value) % len(devices):
      raise UserError(
        f'batch_size: {len(value)} images per process cannot be shared out '
        f'evenly to {len(devices)} devices.'
      )
    shape = (len(devices), len(value) // len(devices), *value.shape[1:])
    return jax.device_put(value.reshape(shape), sharding)

  queue: collections.deque[dict[str, jax.Array]] = collections.deque()
  for batch in batches:
    queue.append({key: place(value) for key, value in batch.items()})
    if len(queue) > size:
      yield queue.popleft()
  yield from queue


def check_config(dataset_config: ConfigDict) -> None:
  """Raises UserError if a key of the `dataset` section is out of range."""
  for key, allowed in (
    ('augment', augmentation.AUGMENTS),
    ('interpolation', INTERPOLATIONS),
  ):
    if dataset_config[key] not in allowed:
      raise UserError(
        f'dataset.{key}={dataset_config[key]!r}: allowed are '
        f'{", ".join(allowed)}.'
      )
  for key, least in (
    ('image_size', 1),
    ('crop_padding', 0),
    ('shuffle_buffer', 1),
  ):
    if dataset_config[key] < least:
      raise UserError(
        f'dataset.{key}={dataset_config[key]}: allowed is {least} or more.'
      )
  if dataset_config.cache and dataset_config.augment == 'inception':
    raise UserError(
      "dataset.augment='inception' crops the original pixels, which the cache "
      'does not keep; set dataset.cache=False.'
    )


class _Share(NamedTuple):
  """The part of every global batch that one process handles."""

  index: int
  count: int
  local_batch: int


def _share(
  batch_size: int, process_index: int | None, process_count: int | None
) -> _Share:
  index = jax.process_index() if process_index is None else process_index
  count = jax.process_count() if process_count is None else process_count
  if batch_size < 1 or batch_size % count:
    raise UserError(
      f'batch_size={batch_size}: allowed is a multiple of the number of '
      f'processes, {count}.'
    )
  return _Share(index, count, batch_size // count)


def _checked_info(dataset_config: ConfigDict) -> datasets.DatasetInfo:
  """Checks the section and prepares the data set if that has to be done."""
  check_config(dataset_config)
  datasets.open_builder(dataset_config)
  facts = datasets.info(dataset_config)
  augmentation.scale_and_offset(dataset_config, facts.channels)
  return facts


def _cached_train_batches(
  dataset_config: ConfigDict,
  images: np.ndarray,
  labels: np.ndarray,
  *,
  batch_size: int,
  seed: int,
  start_step: int,
  dtype: str,
  share: _Share,
) -> Iterator[Batch]:
  steps = len(images) // batch_size
  for epoch in itertools.count(start_step // steps):
    plan = augmentation.plan_epoch(dataset_config, len(images), seed, epoch)
    for step in range(max(start_step - epoch * steps, 0), steps):
      begin = step * batch_size + share.index * share.local_batch
      here = slice(begin, begin + share.local_batch)
      rows = plan.order[here]
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


def _record_train_batches(
  dataset_config: ConfigDict,
  split: str,
  *,
  steps: int,
  seed: int,
  start_step: int,
  dtype: str,
  share: _Share,
) -> Iterator[Batch]:
  from spnas_jax import record_batches

  for epoch in itertools.count(start_step // steps):
    yield from itertools.islice(
      record_batches.train_epoch(
        dataset_config,
        split,
        local_batch=share.local_batch,
        seed=seed,
        epoch=epoch,
        first_step=max(start_step - epoch * steps, 0),
        dtype=dtype,
        process_index=share.index,
        process_count=share.count,
      ),
      steps,
    )


def _cached_eval_batches(
  dataset_config: ConfigDict,
  images: np.ndarray,
  labels: np.ndarray,
  *,
  batch_size: int,
  dtype: str,
  share: _Share,
) -> Iterator[Batch]:
  first = share.index * share.local_batch
  for begin in range(first, len(images), batch_size):
    here = slice(begin, begin + share.local_batch)
    pixels = images[here]
    if dtype != 'uint8':
      pixels = augmentation.normalize(pixels, dataset_config, dtype)
    yield {'image': pixels, 'label': labels[here]}


def _pad_all(
  batches: Iterator[Batch],
  num_batches: int,
  local_batch: int,
  image_shape: tuple[int, int, int],
  dtype: str,
) -> Iterator[Batch]:
  """Yields `num_batches` full batches with a mask, from as many or fewer."""
  for _ in range(num_batches):
    padded = {
      'image': np.zeros((local_batch, *image_shape), jax.numpy.dtype(dtype)),
      'label': np.zeros((local_batch,), np.int32),
      'mask': np.zeros((local_batch,), np.float32),
    }
    batch = next(batches, None)
    if batch is not None:
      n = len(batch['label'])
      padded['image'][:n] = batch['image']
      padded['label'][:n] = batch['label']
      padded['mask'][:n] = 1
    yield padded


def _record_pass(
  dataset_config: ConfigDict,
  split: str,
  share: _Share,
  dtype: str,
  shuffle_seed: int | None = None,
) -> Iterator[Batch]:
  from spnas_jax import record_batches

  return record_batches.eval_epoch(
    dataset_config,
    split,
    local_batch=share.local_batch,
    dtype=dtype,
    process_index=share.index,
    process_count=share.count,
    shuffle_seed=shuffle_seed,
  )


def _read(
  dataset_config: ConfigDict,
  split: str,
  n: int,
  shuffle_seed: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """The first n images [n, size, size, channels] uint8 and labels [n] int32."""
  whole = _Share(index=0, count=1, local_batch=min(n, _READ_BATCH))
  batches = itertools.islice(
    _record_pass(dataset_config, split, whole, 'uint8', shuffle_seed),
    -(-n // whole.local_batch),
  )
  images, labels = zip(
    *((batch['image'], batch['label']) for batch in batches), strict=True
  )
  return np.concatenate(images)[:n], np.concatenate(labels)[:n]


def _cached_split(
  dataset_config: ConfigDict, split: str
) -> tuple[np.ndarray, np.ndarray]:
  """images [n, size, size, channels] uint8, labels [n] int32; read-only."""
  # Keys that do not change the cached pixels, so that they share one copy.
  indifferent = {
    'augment': 'none',
    'crop_padding': 0,
    'mean': (0.0,),
    'std': (1.0,),
  }
  return _read_whole_split(
    FrozenConfigDict({**dataset_config.to_dict(), **indifferent}), split
  )


# Training, evaluation and calibration of a run share what is in memory.
@functools.lru_cache(maxsize=4)
def _read_whole_split(
  dataset_config: FrozenConfigDict, split: str
) -> tuple[np.ndarray, np.ndarray]:
  count = datasets.info(dataset_config).num_examples(split)
  images, labels = _read(dataset_config, split, count)
  images.flags.writeable = False
  labels.flags.writeable = False
  return images, labels
