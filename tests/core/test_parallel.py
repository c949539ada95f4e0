"""Means over devices, replicas that agree, batches that split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spnas_jax.core.parallel import (
  AXIS,
  average,
  check_divisible,
  replicas_agree,
  replicate,
)


def test_replicas_agree_sees_a_difference():
  """The check itself: one differing bit on one device is found."""
  same = replicate({'a': jnp.ones(3)})
  assert replicas_agree(same)
  shards = [
    jax.device_put(np.ones(3, np.float32) + 1e-7 * (i == 2), d)
    for i, d in enumerate(jax.local_devices())
  ]
  odd = jax.make_array_from_single_device_arrays(
    (3,), same['a'].sharding, shards
  )
  assert not replicas_agree({'a': odd})


def test_average_is_the_mean_of_every_leaf():
  """Vectors travel in one array; each comes back as its own mean, in place."""
  rng = np.random.default_rng(0)
  tree = {
    'a': rng.normal(size=(4, 3)),
    'b': [rng.normal(size=(4, 2, 3)), rng.normal(size=4)],
    'c': rng.normal(size=(4, 5)),
  }
  tree = jax.tree.map(np.float32, tree)
  got = jax.vmap(average, axis_name=AXIS)(tree)
  for own, whole in zip(
    jax.tree.leaves(got), jax.tree.leaves(tree), strict=True
  ):
    assert own.shape == whole.shape
    # The mean of four float32 numbers.
    np.testing.assert_allclose(
      own, np.broadcast_to(whole.mean(0), whole.shape), rtol=1e-5, atol=1e-7
    )


def test_batches_must_divide():
  """A global batch that does not split over the devices is refused."""
  check_divisible(8)
  with pytest.raises(ValueError, match='multiple of the 4 devices'):
    check_divisible(6)
