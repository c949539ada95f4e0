"""Images that cannot be read: which they are, and how a run goes on.

A pipeline runs at full speed until a batch fails. From that batch on it is read
again in a slower way, in which an image that cannot be decoded does not end the
pipeline. Both give the same images, so a batch is the same whether or not
others failed before it, and a resumed run goes on with what it would have seen.
Imported only where records are read, because TensorFlow takes seconds to
import.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from spnas_jax.core import tensorflow_setup
from spnas_jax.core.errors import UserError
from spnas_jax.data import store as dataset_store
from spnas_jax.data.folder_names import set_name

tf = tensorflow_setup.load_tensorflow()

Batch = dict[str, np.ndarray]
Record = dict[str, Any]

# Datasets of one image that are open at a time on the slower way.
_OPEN = 32

# (folder, data set, split) of which it was told that images cannot be read, and
# with a fourth word how many: once is enough.
_told: set[tuple[str, ...]] = set()


def read(records: Any, decode: Callable[..., Record], tolerant: bool) -> Any:
  """Maps (position, record) to images, many at a time and in order.

  Args:
    records: tf.data.Dataset of (position, record); `tolerant` needs the keys
      'image' and 'place', which names the record.
    decode: what is done with each; fails for an image that cannot be read.
    tolerant: put zeros in place of what fails, and say so.

  Returns:
    tf.data.Dataset of what `decode` returns; `tolerant` adds 'readable' (bool),
    'place', and what could not be read as 'encoded' (string).
  """
  if not tolerant:
    return records.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
  spec = records.map(decode).element_spec

  def readable(position: Any, record: Record) -> Record:
    return {
      **decode(position, record),
      'readable': True,
      'encoded': '',
      'place': record['place'],
    }

  def not_readable(position: Any, record: Record) -> Record:
    return {
      **{key: tf.zeros(s.shape, s.dtype) for key, s in spec.items()},
      'readable': False,
      'encoded': record['image'],
      'place': record['place'],
    }

  def one(position: Any, record: Record) -> Any:
    alone = tf.data.Dataset.from_tensors((position, record))
    return (
      alone.map(readable)
      .ignore_errors()
      .concatenate(alone.map(not_readable))
      .take(1)
    )

  return records.interleave(
    one,
    cycle_length=_OPEN,
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )


def iterate(
  dataset_config: ConfigDict,
  split: str,
  *,
  pipeline: Callable[[int, bool], Any],
  without: Callable[[Batch, np.ndarray], Batch],
  problem: Callable[[bytes], str],
  share: Any,
  tell: Callable[[str], None],
) -> Iterator[Batch]:
  """Yields NumPy batches; what cannot be read is left out or the user's error.

  Args:
    dataset_config: the `dataset` section.
    split: 'train', 'validation' or 'test'.
    pipeline: (first batch, tolerant) -> tf.data.Dataset of batches, see `read`.
    without: (batch, readable [n] bool) -> the batch without the others:
      `dropped` or `replaced`.
    problem: says why the bytes of a file cannot be read.
    share: tfds' facts of the records that are read: num_examples and
      file_instructions.
    tell: prints a line.

  Raises:
    UserError: a file of records is damaged, or more images than
      `dataset.max_unreadable` allows.
  """
  # Looked up now: when the interpreter ends, modules go before generators.
  damage = tf.errors.OpError
  key = dataset_store.data_dir(dataset_config), set_name(dataset_config), split
  done = 0
  try:
    if key not in _told:
      for batch in pipeline(0, False).as_numpy_iterator():
        yield batch
        done += 1
      return
  except damage:
    pass
  lost: list[str] = []
  try:
    for batch in pipeline(done, True).as_numpy_iterator():
      readable = batch.pop('readable')
      places, encoded = batch.pop('place'), batch.pop('encoded')
      for row in np.flatnonzero(~readable):
        lost.append(f'{places[row].decode()} ({problem(encoded[row])})')
        _check_share(dataset_config, split, lost, share.num_examples)
        if key not in _told:
          _told.add(key)
          tell(f'data: left out of {split!r}, as it cannot be read: {lost[0]}')
      yield batch if readable.all() else without(batch, readable)
  except damage as error:
    raise _damaged_file(dataset_config, share, error) from error
  counted = (*key, 'counted')
  if lost and counted not in _told:
    _told.add(counted)
    tell(
      f'data: {len(lost)} of {share.num_examples} images of {split!r} were '
      'left out, as they cannot be read'
    )


def dropped(batch: Batch, readable: np.ndarray) -> Batch:
  """The readable rows only: what evaluation counts."""
  return {key: value[readable] for key, value in batch.items()}


def replaced(batch: Batch, readable: np.ndarray) -> Batch:
  """In place of every other row the next readable one, round the batch.

  Raises:
    UserError: there is none.
  """
  rows = np.flatnonzero(readable)
  if not len(rows):
    raise UserError(
      f'dataset.max_unreadable: none of the {len(readable)} images of a batch '
      'can be read, so none can take their place; use a larger batch_size, or '
      'put the images right and prepare the data set again.'
    )
  chosen = rows[np.searchsorted(rows, np.arange(len(readable))) % len(rows)]
  return {key: value[chosen] for key, value in batch.items()}


def _check_share(
  dataset_config: ConfigDict, split: str, lost: list[str], num_images: int
) -> None:
  """Raises UserError if more was lost than `max_unreadable` allows."""
  share = dataset_config.max_unreadable
  allowed = math.floor(share * num_images + 1e-9)
  if len(lost) > allowed:
    folder = dataset_store.data_dir(dataset_config)
    more = f', and {len(lost) - 1} before it' if len(lost) > 1 else ''
    raise UserError(
      f'dataset.name is {set_name(dataset_config)!r}: an image of {split!r} '
      f'under dataset.data_dir={folder!r} cannot be read: {lost[-1]}{more}; '
      'put it right and prepare the data set again, or set '
      'dataset.max_unreadable to '
      f'the share of images that may be left out ({share:g} now: {allowed} of '
      f'{num_images}).'
    )


def _damaged_file(
  dataset_config: ConfigDict, share: Any, error: Exception
) -> UserError:
  """The error for records that cannot be read, naming their file."""
  folder = dataset_store.data_dir(dataset_config)
  files = sorted({str(f.filename) for f in share.file_instructions})
  name = next((file for file in files if not _is_whole(file)), '')
  what = f'{name!r}' if name else f'a file under dataset.data_dir={folder!r}'
  return UserError(
    f'dataset.name is {set_name(dataset_config)!r}: {what} is damaged '
    f'({dataset_store.first_line(error)}); prepare the data set again.'
  )


def _is_whole(file: str) -> bool:
  """Whether a file of records can be read to its end."""
  try:
    for _ in tf.data.TFRecordDataset(file):
      pass
    return True
  except tf.errors.OpError:
    return False
