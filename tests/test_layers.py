"""Layers: how convolutions start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spnas_jax import zoo
from spnas_jax.layers import Conv, Style


@pytest.mark.parametrize(
  ('kernel', 'inputs', 'features', 'groups', 'fan_out'),
  [
    (1, 64, 384, 1, 384),
    (1, 64, 64, 2, 32),
    (1, 112, 224, 4, 56),
    (3, 1, 64, 1, 9 * 64),  # A stem for grey images is not depthwise.
  ],
)
def test_convolutions_start_with_a_spread_by_their_fan_out(
  kernel, inputs, features, groups, fan_out
):
  conv = Conv(features, kernel, 1, Style(), groups)
  x = jnp.zeros((1, 4, 4, inputs))
  weights = conv.init(jax.random.key(0), x)['params']['kernel']
  assert weights.shape == (kernel, kernel, inputs // groups, features)
  # The relative error of a standard deviation of n numbers is 1 / sqrt(2 n).
  tolerance = 4 / (2 * weights.size) ** 0.5
  assert np.std(weights) == pytest.approx((2 / fan_out) ** 0.5, rel=tolerance)


def test_fbnet_a_has_the_grouped_convolutions_that_this_is_for():
  assert {block.groups for block in zoo.get('fbnet_a').blocks} == {1, 2}
