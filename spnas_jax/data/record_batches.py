"""Batches straight from records: what large JPEG data sets are read with.

Records are shuffled, skipped and shared out undecoded; decoding, cropping,
resizing and flipping happen in one parallel map. Imported only where records
are read, because TensorFlow takes seconds to import.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from spnas_jax.core import tensorflow_setup
from spnas_jax.core.console import say
from spnas_jax.data import (
  augmentation,
  datasets,
  image_decoding,
  preprocessing,
  unreadable,
)
from spnas_jax.data import store as dataset_store

tf = tensorflow_setup.load_tensorflow()
tfds = tensorflow_setup.load_tfds()

Batch = dict[str, np.ndarray]

# Images per step where a split is read in one go.
_READ_BATCH = 512


def train_epoch(
  dataset_config: ConfigDict,
  split: str,
  *,
  local_batch: int,
  steps: int,
  seed: int,
  epoch: int,
  first_step: int,
  dtype: str,
  share: int,
  shares: int,
) -> Iterator[Batch]:
  """Batches of one epoch from a given step on.

  They come from one even share of the split, so the composition of the global
  batches depends on the number of shares.

  Args:
    dataset_config: the `dataset` section.
    split: 'train' or 'validation'.
    local_batch: images per step of this share.
    steps: steps of an epoch.
    seed: seed of the run.
    epoch: number of the epoch, counted from 0.
    first_step: steps of this epoch to skip; their records are read and
      dropped, never decoded.
    dtype: 'float32' or 'bfloat16'.
    share: number of this share, from 0.
    shares: how many there are.
  """
  builder = datasets.open_builder(dataset_config)
  instruction = tfds.even_splits(
    datasets.read_instruction(dataset_config, builder, split),
    shares,
    drop_remainder=True,
  )[share]
  shuffle_seed, image_seed = (
    int(value)
    for value in np.random.SeedSequence([seed, epoch, share]).generate_state(
      2, np.uint32
    )
  )
  images = _ImageReader.of(dataset_config, builder, dtype)
  augmented = _augmented(images)

  def decode(position: Any, record: dict[str, Any]) -> dict[str, Any]:
    return {
      'image': augmented(record['image'], tf.stack([image_seed, position])),
      'label': tf.cast(record['label'], tf.int32),
    }

  def pipeline(first: int, tolerant: bool) -> Any:
    skipped = (first_step + first) * local_batch
    records = _records(
      dataset_config, builder, instruction, shuffle_seed, tolerant
    )
    return (
      unreadable.read(
        records.skip(skipped).enumerate(skipped), decode, tolerant
      )
      .batch(local_batch, drop_remainder=True)
      .take(steps - first_step - first)
      .prefetch(tf.data.AUTOTUNE)
    )

  return unreadable.iterate(
    dataset_config,
    split,
    pipeline=pipeline,
    without=unreadable.replaced,
    problem=images.problem,
    share=builder.info.splits[instruction],
    tell=_teller(shares),
  )


def eval_pass(
  dataset_config: ConfigDict,
  split: str,
  *,
  local_batch: int,
  dtype: str,
  process_index: int = 0,
  process_count: int = 1,
  shuffle_seed: int | None = None,
) -> Iterator[Batch]:
  """One pass over this process' even share of a split; the last batch is short.

  Args:
    dataset_config: the `dataset` section.
    split: 'train', 'validation' or 'test'.
    local_batch: images per step of this process.
    dtype: 'float32', 'bfloat16', or 'uint8' for pixels as they are.
    process_index: number of this process.
    process_count: number of processes.
    shuffle_seed: shuffles if it is not None.
  """
  builder = datasets.open_builder(dataset_config)
  whole = datasets.read_instruction(dataset_config, builder, split)
  instruction = tfds.even_splits(whole, process_count)[process_index]
  images = _ImageReader.of(dataset_config, builder, dtype)
  plain = _plain(images)

  def decode(position: Any, record: dict[str, Any]) -> dict[str, Any]:
    del position
    return {
      'image': plain(record['image']),
      'label': tf.cast(record['label'], tf.int32),
    }

  def pipeline(first: int, tolerant: bool) -> Any:
    records = _records(
      dataset_config, builder, instruction, shuffle_seed, tolerant
    )
    skipped = first * local_batch
    return (
      unreadable.read(
        records.skip(skipped).enumerate(skipped), decode, tolerant
      )
      .batch(local_batch)
      .prefetch(tf.data.AUTOTUNE)
    )

  return unreadable.iterate(
    dataset_config,
    split,
    pipeline=pipeline,
    without=unreadable.dropped,
    problem=images.problem,
    share=builder.info.splits[instruction],
    tell=_teller(process_count),
  )


def read(
  dataset_config: ConfigDict,
  split: str,
  n: int,
  shuffle_seed: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """The first n examples of a split as evaluation sees them.

  Args:
    dataset_config: the `dataset` section.
    split: 'train', 'validation' or 'test'.
    n: how many; all of them if there are fewer.
    shuffle_seed: shuffles first if it is not None.

  Returns:
    images [n, size, size, channels] uint8, labels [n] int32.
  """
  images: list[np.ndarray] = []
  labels: list[np.ndarray] = []
  for batch in eval_pass(
    dataset_config,
    split,
    local_batch=min(n, _READ_BATCH),
    dtype='uint8',
    shuffle_seed=shuffle_seed,
  ):
    images.append(batch['image'])
    labels.append(batch['label'])
    if sum(map(len, labels)) >= n:
      break
  return np.concatenate(images)[:n], np.concatenate(labels)[:n]


class _ImageReader(NamedTuple):
  """From an encoded image to network input, as the configuration says.

  Equal readers decode alike, so what TensorFlow traced for one serves all: the
  next epoch, and the next pass.

  Attributes:
    augment, crop_padding, interpolation: keys of the `dataset` section.
    size: side of the image, px.
    channels: of the data set.
    scale, offset: what pixels become network input with, for each channel.
    dtype: 'float32', 'bfloat16', or 'uint8' for pixels as they are.
  """

  augment: str
  crop_padding: int
  interpolation: str
  size: int
  channels: int
  scale: tuple[float, ...]
  offset: tuple[float, ...]
  dtype: str

  @classmethod
  def of(
    cls, dataset_config: ConfigDict, builder: Any, dtype: str
  ) -> _ImageReader:
    """The reader of a `dataset` section.

    Raises:
      UserError: `mean` or `std` has another length than there are channels.
    """
    c, channels = dataset_config, builder.info.features['image'].shape[-1]
    scale, offset = (
      ((), ())
      if dtype == 'uint8'
      else augmentation.scale_and_offset(dataset_config, channels)
    )
    return cls(
      c.augment,
      c.crop_padding,
      c.interpolation,
      c.image_size,
      channels,
      tuple(map(float, scale)),
      tuple(map(float, offset)),
      dtype,
    )

  def augmented(self, encoded: Any, seed: Any) -> Any:
    """Random training view, [size, size, channels] `dtype`.

    Args:
      encoded: [] string.
      seed: [2] int64.
    """
    crop_seed, flip_seed = tf.unstack(
      tf.random.experimental.stateless_split(seed, 2)
    )
    if self.augment == 'inception':
      image = self._resize(
        image_decoding.decode_window(
          encoded,
          self.channels,
          lambda height, width: preprocessing.random_crop_window(
            height, width, crop_seed
          ),
        )
      )
    else:
      image = self._resize(image_decoding.decode(encoded, self.channels))
    if self.augment in ('crop', 'crop_flip'):
      image = preprocessing.pad_and_crop(image, self.crop_padding, crop_seed)
    if self.augment in ('crop_flip', 'inception'):
      image = preprocessing.random_flip(image, flip_seed)
    return self._normalized(image)

  def plain(self, encoded: Any) -> Any:
    """View for evaluation, [size, size, channels] `dtype`, from [] string."""
    if self.augment == 'inception':
      image = image_decoding.decode_window(
        encoded, self.channels, preprocessing.centre_crop_window
      )
    else:
      image = image_decoding.decode(encoded, self.channels)
    return self._normalized(preprocessing.to_pixels(self._resize(image)))

  def problem(self, encoded: bytes) -> str:
    """Why an image cannot be read, in a few words."""
    try:
      self.plain(tf.constant(encoded))
    except tf.errors.OpError as error:
      return dataset_store.first_line(error)
    return 'only a part of it can be read'

  def _normalized(self, image: Any) -> Any:
    """Pixels as network input, or as they are for dtype 'uint8'."""
    if self.dtype == 'uint8':
      return image
    scale, offset = (
      np.array(values, np.float32) for values in (self.scale, self.offset)
    )
    return preprocessing.normalize(image, scale, offset, self.dtype)

  def _resize(self, image: Any) -> Any:
    image = preprocessing.resize(image, self.size, self.interpolation)
    return tf.ensure_shape(image, [self.size, self.size, self.channels])


# A trace takes TensorFlow a second, and an epoch makes a pipeline of its own.
@functools.lru_cache(maxsize=8)
def _augmented(reader: _ImageReader) -> Any:
  return tf.function(
    reader.augmented,
    input_signature=[
      tf.TensorSpec([], tf.string),
      tf.TensorSpec([2], tf.int64),
    ],
  )


@functools.lru_cache(maxsize=8)
def _plain(reader: _ImageReader) -> Any:
  return tf.function(
    reader.plain, input_signature=[tf.TensorSpec([], tf.string)]
  )


def _records(
  dataset_config: ConfigDict,
  builder: Any,
  instruction: Any,
  shuffle_seed: int | None,
  with_places: bool,
) -> Any:
  """tf.data.Dataset of {'image': encoded string, 'label': int64}.

  `with_places` adds 'place', which names a record: 'FILE, record 17', and its
  own name if it has one.
  """
  options = tf.data.Options()
  options.deterministic = True
  # Threads of our own, one per core (0 means that), which do not split an
  # operation further: there are always enough images to keep them busy.
  options.threading.private_threadpool_size = 0
  options.threading.max_intra_op_parallelism = 1
  records = builder.as_dataset(
    split=instruction,
    shuffle_files=shuffle_seed is not None,
    decoders={'image': tfds.decode.SkipDecoding()},
    read_config=tfds.ReadConfig(
      options=options,
      shuffle_seed=shuffle_seed,
      # Its answer would depend on the size of the data set.
      try_autocache=False,
      skip_prefetch=True,
      enable_ordering_guard=False,
      add_tfds_id=with_places,
    ),
  )
  if shuffle_seed is not None:
    records = records.shuffle(dataset_config.shuffle_buffer, shuffle_seed)
  if with_places:
    names = [
      key
      for key, feature in builder.info.features.items()
      if isinstance(feature, tfds.features.Text) and 'name' in key
    ]
    records = records.map(lambda record: _with_place(record, names))
  return records


def _with_place(record: dict[str, Any], names: list[str]) -> dict[str, Any]:
  place = tf.strings.regex_replace(
    record['tfds_id'], r'__(\d+)$', r', record \1'
  )
  words = [part for name in names for part in (f', {name} ', record[name])]
  return {**record, 'place': tf.strings.join([place, *words])}


def _teller(shares: int) -> Callable[[str], None]:
  """How lines are printed: a share that no other process reads, by its own."""
  return say if shares == 1 else functools.partial(print, flush=True)
