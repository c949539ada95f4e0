"""Augmentation of whole batches on the device: mixup and random erasing.

Both are off unless `train.mixup` or `train.random_erasing` says otherwise: the
published recipes here do without, timm's later ones use them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from spnas_jax.core.parallel import AXIS

# Share of the image's area that is erased, and height / width of the patch
# (Zhong et al., 2017, and timm).
ERASED_AREA = (0.02, 1 / 3)
ERASED_ASPECT = (0.3, 1 / 0.3)


def mixup(key: Array, images: Array, alpha: float) -> tuple[Array, Array]:
  """Blends every image with that at the mirrored place in the device's batch.

  Zhang et al., 2017; one weight for the whole batch, as timm draws it. The loss
  is blended likewise: weight * CE(labels) + (1 - weight) * CE(labels[::-1]).

  Args:
    key: the same on all devices, so they agree on the weight.
    images: [b, H, W, C] of this device.
    alpha: of the Beta(alpha, alpha) distribution, above 0.

  Returns:
    (images like `images`, weight [] float32).
  """
  weight = jax.random.beta(key, alpha, alpha).astype(jnp.float32)
  own = weight.astype(images.dtype)
  return own * images + (1 - own) * images[::-1], weight


def random_erasing(key: Array, images: Array, probability: float) -> Array:
  """Puts a rectangle of zeros, the mean pixel, into some of the images.

  Drawn for the global batch and sliced, so an example loses the same rectangle
  however many devices share the batch.

  Args:
    key: the same on all devices.
    images: [b, H, W, C] of this device, normalised.
    probability: of an image to lose anything, fraction.
  """
  local, height, width, _ = images.shape
  total = local * lax.psum(1, AXIS)
  numbers = jax.random.uniform(key, (total, 5))
  start = lax.axis_index(AXIS) * local
  chance, area, aspect, top, left = lax.dynamic_slice_in_dim(
    numbers, start, local
  ).T
  area = (ERASED_AREA[0] + area * (ERASED_AREA[1] - ERASED_AREA[0])) * (
    height * width
  )
  low, high = jnp.log(jnp.asarray(ERASED_ASPECT))
  aspect = jnp.exp(low + aspect * (high - low))
  rows, row = _interval(jnp.sqrt(area * aspect), top, height)
  columns, column = _interval(jnp.sqrt(area / aspect), left, width)
  inside = rows[:, :, None] & columns[:, None, :]
  # A patch that is longer than the image is not cut to fit but left out.
  erased = inside & (row & column & (chance < probability))[:, None, None]
  return jnp.where(erased[..., None], 0, images)


def _interval(length: Array, place: Array, size: int) -> tuple[Array, Array]:
  """([b, size] bool: where the patch is, [b] bool: whether it fits)."""
  length = jnp.round(length)
  begin = jnp.floor(place * (size - length + 1))[:, None]
  at = jnp.arange(size)
  return (at >= begin) & (at < begin + length[:, None]), length <= size
