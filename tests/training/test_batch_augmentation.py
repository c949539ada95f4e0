"""Mixup and random erasing: what they do to images, and to how many."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from spnas_jax.core.parallel import AXIS
from spnas_jax.training.batch_augmentation import (
  ERASED_AREA,
  mixup,
  random_erasing,
)


def erased(probability, devices, count=1000, size=24):
  """Random erasing of ones, on so many devices: [count, size, size]."""
  f = functools.partial(random_erasing, jax.random.key(5))
  images = jnp.ones((devices, count // devices, size, size, 1))
  out = jax.vmap(
    lambda x: f(x, probability), axis_name=AXIS, axis_size=devices
  )(images)
  return np.asarray(out).reshape(count, size, size)


def test_erased_rectangles():
  """A full rectangle of zeros in the asked share of images.

  A patch larger than the image is left out, so the share is at most the
  probability; the binomial's five sigma are 0.08. Sides are rounded to pixels,
  which moves a small patch's area by up to half.
  """
  out = erased(0.5, 1)
  lost = (out == 0).mean((1, 2))
  assert 0.3 < (lost > 0).mean() < 0.58
  assert lost[lost > 0].min() > 0.5 * ERASED_AREA[0]
  assert lost.max() < 1.2 * ERASED_AREA[1]
  for image in out[lost > 0][:50]:
    rows, columns = np.nonzero(image == 0)
    box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert box == len(rows)
  assert np.unique(out).tolist() == [0, 1]


def test_nothing_is_erased_at_probability_0():
  assert (erased(0.0, 1) == 1).all()


def test_erasing_does_not_depend_on_the_devices():
  np.testing.assert_array_equal(erased(0.7, 1, 64), erased(0.7, 4, 64))


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
