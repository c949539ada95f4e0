"""The CPU's depthwise form against XLA's convolution, and who gets which."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from spnas_jax.depthwise import depthwise_conv

CHANNELS = 4
# [batch, height, width]: even and odd, smaller than any kernel, one tile of the
# kernel gradient and several (in one direction and both, not whole multiples),
# batches that make groups of four, two and one.
SHAPES = ((4, 7, 7), (1, 2, 3), (3, 1, 1), (2, 6, 21), (8, 17, 10))
# Half a unit in the last place, relative: the error of one operation.
FLOAT32_ROUNDING = 2.0**-24
BFLOAT16_ROUNDING = 2.0**-9


def reference(x, kernel, stride, padding):
  """XLA's convolution, in float32."""
  k = kernel.shape[0]
  pads = 'SAME' if padding == 'same' else [(k // 2, k // 2)] * 2
  return lax.conv_general_dilated(
    x.astype(jnp.float32),
    kernel.astype(jnp.float32),
    (stride, stride),
    pads,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=x.shape[-1],
  )


def with_gradients(conv, x, kernel, weights):
  """conv(x, kernel) and the gradients of sum(weights * conv(x, kernel))."""
  y, pullback = jax.vjp(conv, x, kernel)
  return (y, *pullback(weights.astype(y.dtype)))


def make_inputs(shape, k, stride, dtype=jnp.float32):
  """Random x, kernel and weights of the output."""
  batch, height, width = shape
  output = (batch, -(-height // stride), -(-width // stride), CHANNELS)
  rng = np.random.default_rng([*shape, k, stride])
  return tuple(
    jnp.asarray(rng.standard_normal(s), dtype)
    for s in ((*shape, CHANNELS), (k, k, 1, CHANNELS), output)
  )


def both_forms(shapes, k, stride, padding, dtype):
  """[(ours, expected, absolute)] per shape, from one compilation.

  `absolute` is the same sums over absolute values: what rounding errors are
  proportional to.
  """
  ours = functools.partial(depthwise_conv, stride=stride, padding=padding)
  expected = functools.partial(reference, stride=stride, padding=padding)

  def compute(inputs):
    return [
      (
        with_gradients(ours, *args),
        with_gradients(expected, *(a.astype(jnp.float32) for a in args)),
        with_gradients(
          expected, *(jnp.abs(a.astype(jnp.float32)) for a in args)
        ),
      )
      for args in inputs
    ]

  return jax.jit(compute)([make_inputs(s, k, stride, dtype) for s in shapes])


def num_terms(x_shape, k, output_shape):
  """How many products are summed in y, dx and dkernel, at most."""
  return k * k, k * k, int(np.prod(output_shape[:3]))


@pytest.mark.parametrize('padding', ['same', 'symmetric'])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('k', [1, 3, 5, 7])
def test_equals_the_primitive(k, stride, padding):
  # Adding n numbers in any order is off by at most n roundings of the sum of
  # their absolute values, and both forms may be.
  for ours, expected, absolute in both_forms(
    SHAPES, k, stride, padding, jnp.float32
  ):
    for a, b, size, n in zip(
      ours, expected, absolute, num_terms(None, k, ours[0].shape), strict=True
    ):
      assert a.shape == b.shape
      assert a.dtype == jnp.float32
      bound = 2 * n * FLOAT32_ROUNDING * size
      np.testing.assert_array_less(np.abs(a - b), bound + 1e-30)
