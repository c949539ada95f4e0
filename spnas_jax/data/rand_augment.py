"""RandAugment (Cubuk et al., 2019) as TensorFlow functions of one image.

Needed because the library versions draw from hidden state: here everything
follows from a seed of two integers, so an interrupted run goes on with the very
images it would have seen. Magnitude 0 to 10, with the limits of the authors'
code; unlike there every operation grows stronger with it, and cutout is left to
`train.random_erasing`. Imported only where records are read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spnas_jax.core import tensorflow_setup

tf = tensorflow_setup.load_tensorflow()

Tensor = Any
MAX_MAGNITUDE = 10.0
# What comes into view from outside, and translation at full magnitude as a
# share of the image's side (100 of 224 px in the authors' code).
FILL = 128.0
TRANSLATION = 100 / 224


def rand_augment(
  image: Tensor, seed: Tensor, operations: int, magnitude: float
) -> Tensor:
  """Applies some random operations, one after the other.

  Args:
    image: [size, size, channels] float32, 0..255, static shape.
    seed: [2] int64.
    operations: how many.
    magnitude: 0 to `MAX_MAGNITUDE`, of every one.

  Returns:
    An image like `image`.
  """
  level = magnitude / MAX_MAGNITUDE
  image = tf.clip_by_value(image, 0.0, 255.0)
  for own in tf.unstack(
    tf.random.experimental.stateless_split(seed, operations), num=operations
  ):
    draws = tf.random.stateless_uniform([2], own)
    index = tf.cast(draws[0] * len(OPERATIONS), tf.int32)
    sign = tf.where(draws[1] < 0.5, -1.0, 1.0)

    def branch(operation: Callable, image=image, sign=sign) -> Callable:
      return lambda: operation(image, level, sign)

    image = tf.switch_case(
      tf.minimum(index, len(OPERATIONS) - 1),
      [branch(operation) for operation in OPERATIONS],
    )
  return image


# --- operations: (image, level 0..1, sign -1 or 1) -> image -------------------


def auto_contrast(image: Tensor, level: float, sign: Tensor) -> Tensor:
  """Every channel's darkest pixel to 0, its brightest to 255."""
  low = tf.reduce_min(image, [0, 1])
  high = tf.reduce_max(image, [0, 1])
  scale = tf.where(high > low, 255.0 / tf.maximum(high - low, 1e-6), 1.0)
  return (image - tf.where(high > low, low, 0.0)) * scale


def equalize(image: Tensor, level: float, sign: Tensor) -> Tensor:
  """Every channel's histogram made flat, the way PIL does."""
  pixels = tf.cast(tf.round(image), tf.int32)
  channels = tf.unstack(pixels, axis=-1)
  return tf.stack([_equalize(channel) for channel in channels], -1)


def _equalize(channel: Tensor) -> Tensor:
  histogram = tf.math.bincount(
    tf.reshape(channel, [-1]), minlength=256, maxlength=256
  )
  used = tf.boolean_mask(histogram, histogram > 0)
  step = (tf.reduce_sum(used) - used[-1]) // 255
  table = (tf.cumsum(histogram, exclusive=True) + step // 2) // tf.maximum(
    step, 1
  )
  flat = tf.gather(tf.clip_by_value(table, 0, 255), channel)
  return tf.cast(tf.where(step > 0, flat, channel), tf.float32)


def invert(image: Tensor, level: float, sign: Tensor) -> Tensor:
  """Negative."""
  return 255.0 - image


def posterize(image: Tensor, level: float, sign: Tensor) -> Tensor:
  """Keeps 4 of 8 bits at magnitude 0, none of them at the full one."""
  step = 2.0 ** (8 - int(4 * (1 - level)))
  return tf.floor(image / step) * step


def solarize(image: Tensor, level: float, sign: Tensor) -> Tensor:
  """Inverts pixels from a threshold on."""
  return tf.where(image < 256 * (1 - level), image, 255.0 - image)


def solarize_add(image: Tensor, level: float, sign: Tensor) -> Tensor:
  """Brightens the dark half."""
  brighter = tf.minimum(image + 110 * level, 255.0)
  return tf.where(image < 128, brighter, image)


def _blend(other: Tensor, image: Tensor, level: float, sign: Tensor) -> Tensor:
  """`other` at factor 0.1, `image` at 1, beyond it up to 1.9."""
  factor = 1 + 0.9 * level * sign
  return tf.clip_by_value(other + factor * (image - other), 0.0, 255.0)


def color(image: Tensor, level: float, sign: Tensor) -> Tensor:
  """Less or more saturation; a grey image stays as it is."""
  return _blend(_grey(image), image, level, sign)


def contrast(image: Tensor, level: float, sign: Tensor) -> Tensor:
  """Towards or away from the mean grey."""
  mean = tf.reduce_mean(_grey(image))
  return _blend(tf.fill(tf.shape(image), mean), image, level, sign)


def brightness(image: Tensor, level: float, sign: Tensor) -> Tensor:
  """Towards black or away from it."""
  return _blend(tf.zeros_like(image), image, level, sign)


def sharpness(image: Tensor, level: float, sign: Tensor) -> Tensor:
  """Towards or away from a smoothed copy; the border stays as it is."""
  channels = image.shape[-1]
  kernel = tf.constant([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
  kernel = tf.tile(kernel[:, :, None, None], [1, 1, channels, 1])
  smooth = tf.nn.depthwise_conv2d(image[None], kernel, [1] * 4, 'VALID')[0]
  frame = tf.pad(tf.ones_like(smooth), [[1, 1], [1, 1], [0, 0]])
  smooth = tf.pad(smooth, [[1, 1], [1, 1], [0, 0]])
  return _blend(tf.where(frame > 0, smooth, image), image, level, sign)


def rotate(image: Tensor, level: float, sign: Tensor) -> Tensor:
  """By up to 30 degrees about the centre."""
  angle = sign * level * (30 * 3.14159265 / 180)
  cos, sin = tf.cos(angle), tf.sin(angle)
  y, x = (image.shape[0] - 1) / 2, (image.shape[1] - 1) / 2
  return _transform(
    image, cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y
  )


def shear_x(image: Tensor, level: float, sign: Tensor) -> Tensor:
  """Rows move sideways, by up to 0.3 px a row."""
  return _transform(image, 1, 0.3 * level * sign, 0, 0, 1, 0)


def shear_y(image: Tensor, level: float, sign: Tensor) -> Tensor:
  """Columns move up or down, by up to 0.3 px a column."""
  return _transform(image, 1, 0, 0, 0.3 * level * sign, 1, 0)


def translate_x(image: Tensor, level: float, sign: Tensor) -> Tensor:
  """Sideways by up to 45% of the width."""
  shift = TRANSLATION * level * image.shape[1] * sign
  return _transform(image, 1, 0, shift, 0, 1, 0)


def translate_y(image: Tensor, level: float, sign: Tensor) -> Tensor:
  """Up or down by up to 45% of the height."""
  shift = TRANSLATION * level * image.shape[0] * sign
  return _transform(image, 1, 0, 0, 0, 1, shift)


def _grey(image: Tensor) -> Tensor:
  """Luma in every channel."""
  if image.shape[-1] == 1:
    return image
  luma = tf.tensordot(image, tf.constant([0.299, 0.587, 0.114]), 1)
  return tf.tile(luma[..., None], [1, 1, 3])


def _transform(image: Tensor, *matrix) -> Tensor:
  """Where pixel (x, y) comes from: (a x + b y + c, d x + e y + f)."""
  numbers = [tf.cast(number, tf.float32) for number in (*matrix, 0, 0)]
  return tf.raw_ops.ImageProjectiveTransformV3(
    images=image[None],
    transforms=tf.stack(numbers)[None],
    output_shape=image.shape[:2],
    fill_value=FILL,
    interpolation='NEAREST',
    fill_mode='CONSTANT',
  )[0]


OPERATIONS = (
  auto_contrast,
  equalize,
  invert,
  posterize,
  solarize,
  solarize_add,
  color,
  contrast,
  brightness,
  sharpness,
  rotate,
  shear_x,
  shear_y,
  translate_x,
  translate_y,
)
