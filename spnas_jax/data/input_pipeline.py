"""Batches of images, the same for every run with the same configuration.

A training stream is a pure function of configuration, seed and step, so that a
resumed run continues bit for bit. Small data sets are resized once and kept in
memory, where a batch costs well under a millisecond; large ones are read from
their records (`record_batches.py`).
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.data import (
  augmentation,
  cached_batches,
  datasets,
  pixel_statistics,
)
from spnas_jax.data.known_datasets import DatasetInfo, known

Batch = dict[str, np.ndarray]

# Training images that statistics are taken of where none are known: their error
# is far below a level of grey.
_STATISTICS_IMAGES = 2048


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
  data give the same global batches for any number of processes, records for any
  that divides `dataset.record_shares`.

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
  index, count = _process(batch_size, process_index, process_count)
  facts = _checked_info(dataset_config)
  steps = facts.steps_per_epoch(batch_size, split)
  if dataset_config.cache:
    # Read here and now, so that what is wrong with the data is said at once.
    cached_batches.split_arrays(dataset_config, split)
    return cached_batches.train_batches(
      dataset_config,
      split,
      batch_size=batch_size,
      seed=seed,
      start_step=start_step,
      dtype=dtype,
      process_index=index,
      process_count=count,
    )
  from spnas_jax.data import record_batches

  shares = _shares(dataset_config, batch_size, count)
  own = shares // count

  def epochs() -> Iterator[Batch]:
    for epoch in itertools.count(start_step // steps):
      parts = [
        record_batches.train_epoch(
          dataset_config,
          split,
          local_batch=batch_size // shares,
          steps=steps,
          seed=seed,
          epoch=epoch,
          first_step=max(start_step - epoch * steps, 0),
          dtype=dtype,
          share=share,
          shares=shares,
        )
        for share in range(index * own, (index + 1) * own)
      ]
      if own == 1:
        yield from parts[0]
        continue
      for batches in zip(*parts, strict=True):
        yield {
          key: np.concatenate([batch[key] for batch in batches])
          for key in batches[0]
        }

  return epochs()


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
  index, count = _process(batch_size, process_index, process_count)
  facts = _checked_info(dataset_config)
  num_batches = -(-facts.num_examples(split) // batch_size)
  if dataset_config.cache:
    batches = cached_batches.eval_pass(
      dataset_config,
      split,
      batch_size=batch_size,
      dtype=dtype,
      process_index=index,
      process_count=count,
    )
  else:
    from spnas_jax.data import record_batches

    batches = record_batches.eval_pass(
      dataset_config,
      split,
      local_batch=batch_size // count,
      dtype=dtype,
      process_index=index,
      process_count=count,
    )
  side = dataset_config.image_size
  return _padded(
    batches,
    num_batches,
    (batch_size // count, side, side, facts.channels),
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
    images, _ = cached_batches.split_arrays(dataset_config, 'train')
    return images[np.random.default_rng([seed]).permutation(len(images))[:n]]
  from spnas_jax.data import record_batches

  return record_batches.read(dataset_config, 'train', n, shuffle_seed=seed)[0]


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
    images, labels = cached_batches.split_arrays(dataset_config, 'test')
    return images[:n].copy(), labels[:n].copy()
  from spnas_jax.data import record_batches

  return record_batches.read(dataset_config, 'test', n)


def fill_statistics(dataset_config: ConfigDict) -> None:
  """Puts numbers into `mean` and `std` where they are unset.

  Known ones, or those of 2,048 training images in a fixed random order, as
  evaluation sees them, rounded to four decimals: the same in every process and
  every run.

  Raises:
    UserError: the data set is not known and cannot be read.
  """
  if not dataset_config.mean and known(dataset_config) is None:
    from spnas_jax.data import record_batches  # TensorFlow.

    plain = dataset_config.copy_and_resolve_references()
    plain.update(mean=(0.0,), std=(1.0,))
    images, _ = record_batches.read(
      plain, 'train', _STATISTICS_IMAGES, shuffle_seed=0
    )
    # [channels, 256], whole numbers: no float copy of all images, and the order
    # in which they are read does not matter.
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for image in images:
      for channel, row in enumerate(counts):
        row += np.bincount(image[..., channel].ravel(), minlength=256)
    share, values = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
    mean = share @ values
    std = np.sqrt(np.maximum(share @ values**2 - mean**2, 0))
    low, high = pixel_statistics.RANGES['std']
    dataset_config.mean = tuple(mean.round(4).tolist())
    dataset_config.std = tuple(std.clip(low, high).round(4).tolist())
    say(
      f'data: dataset.mean={dataset_config.mean}, dataset.std='
      f'{dataset_config.std}, of the training images'
    )
  else:
    dataset_config.mean, dataset_config.std = pixel_statistics.statistics(
      dataset_config
    )


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


def _process(
  batch_size: int, process_index: int | None, process_count: int | None
) -> tuple[int, int]:
  """Fills in what JAX says; a batch must be shared out evenly."""
  index = jax.process_index() if process_index is None else process_index
  count = jax.process_count() if process_count is None else process_count
  if batch_size < 1 or batch_size % count:
    raise UserError(
      f'batch_size is {batch_size}, allowed: a multiple of the number of '
      f'processes, {count}.'
    )
  return index, count


def _shares(
  dataset_config: ConfigDict, batch_size: int, process_count: int
) -> int:
  """Shares of the training records: those of a process are read by it alone."""
  shares = dataset_config.record_shares or process_count
  if shares % process_count or batch_size % shares:
    raise UserError(
      f'dataset.record_shares is {shares}, allowed: a multiple of the number '
      f'of processes, {process_count}, by which the batch of {batch_size} can '
      'be divided, or 0.'
    )
  return shares


def _checked_info(dataset_config: ConfigDict) -> DatasetInfo:
  """Checks the section, and prepares the data set if it has to be."""
  datasets.check(dataset_config)
  datasets.open_builder(dataset_config)
  facts = datasets.info(dataset_config)
  augmentation.scale_and_offset(dataset_config, facts.channels)
  return facts


def _padded(
  batches: Iterator[Batch],
  num_batches: int,
  image_shape: tuple[int, int, int, int],
  dtype: str,
) -> Iterator[Batch]:
  """Yields `num_batches` full batches with a mask, from as many or fewer."""
  local_batch = image_shape[0]
  for _ in range(num_batches):
    padded = {
      'image': np.zeros(image_shape, jnp.dtype(dtype)),
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
  # To its end: it may have something to say of what it left out.
  next(batches, None)
