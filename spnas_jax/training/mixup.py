"""Mixup: augmentation of whole batches on the device.

Off unless `train.mixup` says otherwise: the published recipes here do without,
timm's later ones and small sets of pictures use it (docs/lab/training_log.md).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


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
