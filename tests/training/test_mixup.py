"""Mixup: what it does to images."""

import jax
import jax.numpy as jnp
import numpy as np

from spnas_jax.training.mixup import mixup


def test_mixup_blends_with_the_mirror_place():
  """The weight is in [0, 1], follows the key, and is applied as it is told."""
  images = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4, 4, 3)))
  weights = []
  for seed in range(20):
    mixed, weight = mixup(jax.random.key(seed), images, 0.2)
    np.testing.assert_allclose(
      mixed, weight * images + (1 - weight) * images[::-1], rtol=1e-6, atol=1e-6
    )
    weights.append(float(weight))
  assert 0 <= min(weights) < 0.2 and 0.8 < max(weights) <= 1
  mixed, _ = mixup(jax.random.key(0), images.astype(jnp.bfloat16), 0.2)
  assert mixed.dtype == jnp.bfloat16
