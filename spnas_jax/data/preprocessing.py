"""Image operations of the record pipeline, as pure TensorFlow functions.

Each works the same called eagerly and inside `tf.data`. Random ones take a
seed of two integers and draw nothing else. Imported only where records are
read, because TensorFlow takes seconds to import.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spnas_jax.core import tensorflow_setup

tf = tensorflow_setup.load_tensorflow()

# Random resized crops: share of the image's area, and width / height.
CROP_AREA = (0.08, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10

# Side of the evaluation crop over the image's short side: 224 of 256.
EVAL_CROP = 224 / (224 + 32)

Tensor = Any


def centre_crop_window(height: Tensor, width: Tensor) -> Tensor:
  """Window of the central square with `EVAL_CROP` of the short side.

  Args:
    height: [] int32, pixels.
    width: [] int32, pixels.

  Returns:
    [4] int32: top, left, height, width.
  """
  short = tf.cast(tf.minimum(height, width), tf.float32)
  side = tf.maximum(tf.cast(EVAL_CROP * short, tf.int32), 1)
  return tf.stack(
    [(height - side + 1) // 2, (width - side + 1) // 2, side, side]
  )


def random_crop_window(height: Tensor, width: Tensor, seed: Tensor) -> Tensor:
  """Window of a random part of the image.

  Area and aspect are drawn from `CROP_AREA` and `CROP_ASPECT`. If no attempt
  fits into the image, which happens to very long ones, it is the central crop.

  Args:
    height: [] int32, pixels.
    width: [] int32, pixels.
    seed: [2] int64.

  Returns:
    [4] int32: top, left, height, width.
  """
  begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
    tf.stack([height, width, 1]),
    bounding_boxes=tf.zeros([1, 0, 4]),
    seed=seed,
    # The box is the whole image, of which any part will do.
    min_object_covered=0.0,
    area_range=CROP_AREA,
    aspect_ratio_range=CROP_ASPECT,
    max_attempts=CROP_ATTEMPTS,
    use_image_if_no_bounding_boxes=True,
  )
  # The operation says that it failed by returning the whole image.
  failed = tf.logical_and(tf.equal(size[0], height), tf.equal(size[1], width))
  return tf.where(
    failed,
    centre_crop_window(height, width),
    tf.concat([begin[:2], size[:2]], axis=0),
  )


def resize(image: Tensor, size: int, interpolation: str) -> Tensor:
  """Resizes to a square.

  Args:
    image: [height, width, channels] uint8.
    size: pixels.
    interpolation: 'bilinear' or 'bicubic', which may leave 0..255.

  Returns:
    [size, size, channels] float32.
  """
  return tf.image.resize(image, [size, size], method=interpolation)


def to_pixels(image: Tensor) -> Tensor:
  """Rounds to values that an 8-bit image can hold; float32 to uint8.

  What is evaluated is rounded, so that an exported network that is fed 8-bit
  images sees the same. Training does without, for speed.
  """
  return tf.saturate_cast(tf.round(image), tf.uint8)


def pad_and_crop(image: Tensor, padding: int, seed: Tensor) -> Tensor:
  """Pads with black and crops back to the image's size at a random place.

  Args:
    image: [height, width, channels], static shape.
    padding: pixels on each side.
    seed: [2] int64.

  Returns:
    An image like `image`.
  """
  height, width, _ = image.shape
  top_left = tf.random.stateless_uniform(
    [2], seed, maxval=2 * padding + 1, dtype=tf.int32
  )
  sides = [padding, padding]
  padded = tf.pad(image, [sides, sides, [0, 0]])
  return tf.image.crop_to_bounding_box(
    padded, top_left[0], top_left[1], height, width
  )


def random_flip(image: Tensor, seed: Tensor) -> Tensor:
  """Mirrors left and right with probability 1/2; image [h, w, c], seed [2]."""
  return tf.image.stateless_random_flip_left_right(image, seed)


def normalize(
  image: Tensor, scale: np.ndarray, offset: np.ndarray, dtype: str
) -> Tensor:
  """Turns pixels into `pixel * scale + offset`, computed in float32.

  Args:
    image: [height, width, channels] uint8 or float32, 0..255, static shape.
    scale: [channels] float32.
    offset: [channels] float32.
    dtype: 'float32' or 'bfloat16'.
  """
  height, width, channels = image.shape
  # A row at a time: TensorFlow takes five times as long where the axis that is
  # shared has three elements.
  rows = tf.reshape(tf.cast(image, tf.float32), [height, width * channels])
  rows = rows * np.tile(scale, width) + np.tile(offset, width)
  return tf.cast(tf.reshape(rows, [height, width, channels]), dtype)
