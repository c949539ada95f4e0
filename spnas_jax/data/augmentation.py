"""Augmentation and normalisation of cached images, in NumPy.

A batch of small images is prepared in well under a millisecond this way, less
than it takes to pass it through `tf.data`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spnas_jax.core.errors import UserError
from spnas_jax.data import pixel_statistics


class EpochPlan(NamedTuple):
  """What happens to every example of one epoch, in the order it is seen.

  Attributes:
    order: [n] int64, the example at each position.
    top_left: [n, 2] int64, where its crop begins in the padded image, pixels.
    flip: [n] bool, whether it is mirrored.
  """

  order: np.ndarray
  top_left: np.ndarray
  flip: np.ndarray


def plan_epoch(
  dataset_config: ConfigDict, num_examples: int, seed: int, epoch: int
) -> EpochPlan:
  """Draws the order and the augmentation of a whole epoch.

  A pure function of its arguments: every process draws the same plan and
  follows its own part, and a resumed run draws the one it was stopped in.
  """
  augment, padding = dataset_config.augment, dataset_config.crop_padding
  if augment == 'none':
    padding = 0
  random = np.random.default_rng([seed, epoch])
  order = random.permutation(num_examples)
  top_left = random.integers(0, 2 * padding + 1, (num_examples, 2))
  flip = random.random(num_examples) < 0.5
  if augment != 'crop_flip':
    flip[:] = False
  return EpochPlan(order, top_left, flip)


def crop_and_flip(
  images: np.ndarray, top_left: np.ndarray, flip: np.ndarray, padding: int
) -> np.ndarray:
  """Pads with black, crops back to the same size and mirrors.

  Args:
    images: [n, height, width, channels] uint8.
    top_left: [n, 2] integer, 0 to 2 * padding.
    flip: [n] bool.
    padding: pixels on each side.

  Returns:
    A new array like `images`.
  """
  n, height, width, channels = images.shape
  padded = np.zeros(
    (n, height + 2 * padding, width + 2 * padding, channels), images.dtype
  )
  padded[:, padding : padding + height, padding : padding + width] = images
  # A view of every possible crop, from which one gather copies the chosen:
  # [n, top, left, height, width, channels].
  crops = np.moveaxis(
    np.lib.stride_tricks.sliding_window_view(padded, (height, width), (1, 2)),
    3,
    -1,
  )
  cropped = crops[np.arange(n), top_left[:, 0], top_left[:, 1]]
  cropped[flip] = cropped[flip, :, ::-1]
  return cropped


def scale_and_offset(
  dataset_config: ConfigDict, channels: int
) -> tuple[np.ndarray, np.ndarray]:
  """Spells (pixel / 255 - mean) / std as `pixel * scale + offset`.

  Args:
    dataset_config: the `dataset` section; `mean` and `std` are fractions.
    channels: of the images.

  Returns:
    scale, offset: [channels] float32 each.

  Raises:
    UserError: if `mean` or `std` has another length, or is not known.
  """
  both = pixel_statistics.statistics(dataset_config)
  for key, values in zip(('mean', 'std'), both, strict=True):
    if len(values) not in (1, channels):
      raise UserError(
        f'dataset.{key} is {values}, allowed: one number, or one for each of '
        f'the {channels} channels.'
      )
  mean, std = (
    np.broadcast_to(np.asarray(values, np.float64), (channels,))
    for values in both
  )
  scale = 1 / (255 * std)
  return scale.astype(np.float32), (-mean / std).astype(np.float32)


def normalize(
  images: np.ndarray, dataset_config: ConfigDict, dtype: str = 'float32'
) -> np.ndarray:
  """Normalises pixels the way the network expects them.

  Args:
    images: [..., channels] uint8.
    dataset_config: the `dataset` section, for `mean` and `std`.
    dtype: 'float32' or 'bfloat16'; computed in float32 either way.
  """
  scale, offset = scale_and_offset(dataset_config, images.shape[-1])
  pixels = images.astype(np.float32)
  pixels *= scale
  pixels += offset
  return pixels.astype(jnp.dtype(dtype), copy=False)
