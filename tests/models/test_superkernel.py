"""Superkernels (Eqs 1-3): masks, the effective kernel, the hard indicator."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from jax.test_util import check_grads

from spnas_jax.models.depthwise import depthwise_conv
from spnas_jax.models.superkernel import (
  channel_masks,
  channel_scale,
  indicator,
  kernel_masks,
  nested,
  superkernel,
)

kernel_sets = st.sets(st.sampled_from((1, 3, 5, 7, 9)), min_size=1).map(
  lambda chosen: tuple(sorted(chosen))
)
expansion_sets = st.sets(st.integers(1, 8), min_size=1).map(
  lambda chosen: tuple(sorted(chosen))
)


@tiny.steady
@given(kernel_sets, expansion_sets, st.integers(1, 9))
def test_masks_partition_the_superkernel(kernels, expansions, in_channels):
  """Every weight belongs to exactly one subset, for general candidate sets.

  The first j subsets together are candidate j: its centred square, its first
  channels.
  """
  rings = kernel_masks(kernels)
  halves = channel_masks(expansions, in_channels)
  for masks in (rings, halves):
    assert set(np.unique(masks)) <= {0.0, 1.0}
    np.testing.assert_array_equal(masks.sum(0), 1.0)
  size = kernels[-1]
  offset = np.abs(np.arange(size) - size // 2)
  for j, kernel in enumerate(kernels):
    inside = np.maximum.outer(offset, offset) <= kernel // 2
    np.testing.assert_array_equal(rings[: j + 1].sum(0)[..., 0, 0], inside)
  for j, expansion in enumerate(expansions):
    first = np.arange(expansions[-1] * in_channels) < expansion * in_channels
    np.testing.assert_array_equal(halves[: j + 1].sum(0), first)


@pytest.mark.parametrize(
  ('kernels', 'padding', 'implementation'),
  [
    ((3, 5), 'same', 'auto'),
    ((3, 5), 'same', 'primitive'),
    ((3, 5, 7), 'same', 'primitive'),
    ((3, 5, 7), 'symmetric', 'primitive'),
  ],
)
@pytest.mark.parametrize('stride', [1, 2])
def test_masked_kernel_equals_the_small_convolution(
  stride, kernels, padding, implementation
):
  """A superkernel reduced to a smaller size *is* that convolution.

  Masked 5x5 against true 3x3, masked 7x7 against true 5x5 and 3x3, computed by
  XLA's own convolution; an even and an odd side. Sums of at most 49 products of
  order 1 differ by rounding only: 1e-5, where the values are about 5.
  """
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, 8, 9, 4)), jnp.float32)
  largest = kernels[-1]
  shape = (largest, largest, 1, 4)
  weights = jnp.asarray(rng.normal(size=shape), jnp.float32)
  masked = tiny.jit(
    functools.partial(
      depthwise_conv,
      stride=stride,
      padding=padding,
      implementation=implementation,
    )
  )
  for rank, kernel in enumerate(kernels[:-1]):
    gates = (np.arange(len(kernels) - 1) < rank).astype(np.float32)
    got = masked(x, superkernel(weights, jnp.asarray(gates), kernels))
    margin = (largest - kernel) // 2
    cut = slice(margin, largest - margin)
    pads = 'SAME' if padding == 'same' else [(kernel // 2, kernel // 2)] * 2
    wanted = lax.conv_general_dilated(
      x,
      weights[cut, cut],
      (stride, stride),
      pads,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=4,
    )
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


def test_superkernel_is_eqs_1_to_3():
  """The effective kernel, weight by weight, for every combination of gates."""
  rng = np.random.default_rng(1)
  weights = rng.normal(size=(5, 5, 1, 12)).astype(np.float32)
  for use_5x5, use_e6, use_layer in np.ndindex(2, 2, 2):
    wanted = np.zeros_like(weights)
    for y, x, _, c in np.ndindex(weights.shape):
      in_3x3 = 1 <= y <= 3 and 1 <= x <= 3
      w_k = weights[y, x, 0, c] * (1 if in_3x3 else use_5x5)  # Eq. 2
      wanted[y, x, 0, c] = use_layer * (1 if c < 6 else use_e6) * w_k  # Eq. 3
    scale = use_layer * channel_scale(jnp.array([float(use_e6)]), (3, 6), 2)
    got = superkernel(
      jnp.asarray(weights), jnp.array([float(use_5x5)]), (3, 5), scale
    )
    np.testing.assert_array_equal(got, wanted)


def test_one_candidate_leaves_the_weights_alone():
  """Without a choice of kernel size there is no mask at all."""
  weights = jnp.ones((3, 3, 1, 2))
  assert superkernel(weights, jnp.zeros(0), (3,)) is weights


def test_nested_subsets_close_together():
  """A closed gate closes every subset above it."""
  cases = {
    (1, 1, 1): (1, 1, 1, 1),
    (1, 0, 1): (1, 1, 0, 0),
    (0, 1, 1): (1, 0, 0, 0),
    (): (1,),
  }
  for gates, wanted in cases.items():
    got = nested(jnp.array(gates, jnp.float32))
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_indicator_is_exactly_0_or_1(dtype):
  """The surrogate does not leak into the decision; equality means use."""
  x = jnp.asarray(np.linspace(-40, 40, 4001), dtype)
  threshold = jnp.zeros((), dtype)
  for f in (indicator, jax.jit(indicator)):
    got = f(x, threshold)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, np.where(np.asarray(x) >= 0, 1, 0))
  assert indicator(jnp.float32(2.5), jnp.float32(2.5)) == 1


def test_indicator_gradient_is_the_sigmoid_slope():
  """d/ds = sigma'((s - t) / tau) / tau, d/dt its negative; jit == eager.

  Compared with float64 closed forms: relative 1e-4 for the rounding of (s - t)
  / tau, which the exponential multiplies by up to 100; absolute 1e-7 / tau, the
  distance of two float32 near 1, where sigma saturates.
  """
  rng = np.random.default_rng(0)
  importance, threshold = rng.uniform(-20, 20, (2, 2000)).astype(np.float32)
  tau = np.exp(rng.uniform(-3, 3, 2000)).astype(np.float32)

  def total(s, t, temperature):
    return indicator(s, t, temperature).sum()

  slope = jax.grad(total, argnums=(0, 1))
  eager = slope(importance, threshold, tau)
  got = jax.jit(slope)(importance, threshold, tau)
  z = (importance.astype(np.float64) - threshold) / tau
  s = 1 / (1 + np.exp(-np.clip(z, -700, 700)))
  wanted = s * (1 - s) / tau
  atol = 1e-7 / tau
  for one in (got, eager):
    for by, sign in zip(one, (1, -1), strict=True):
      error = np.abs(by - sign * wanted)
      assert np.all(error <= 1e-4 * wanted + atol)


def test_indicator_gradient_is_finite_far_out():
  """A gate thousands of units away has gradient 0, not NaN."""
  x = jnp.array([-1e30, -1e4, 1e4, 1e30])
  gradient = jax.grad(lambda v: indicator(v, jnp.float32(0)).sum())(x)
  np.testing.assert_array_equal(gradient, 0.0)


def test_indicator_gradient_reaches_the_weights():
  """Eq. 2's condition trains weights and thresholds, by the chain rule."""
  weights = jnp.array([0.3, -0.4])
  threshold = jnp.float32(0.2)

  def decision(w, t):
    return indicator(jnp.sqrt(jnp.sum(w**2)), t)

  by_w, by_t = jax.grad(decision, argnums=(0, 1))(weights, threshold)
  z = 0.5 - 0.2
  slope = np.exp(-z) / (1 + np.exp(-z)) ** 2
  # Two or three float32 operations.
  np.testing.assert_allclose(by_t, -slope, rtol=1e-6)
  np.testing.assert_allclose(by_w, slope * weights / 0.5, rtol=1e-6)


def test_effective_kernel_gradients_by_finite_differences():
  """Weights, kernel gates and channel gates: the kernel is linear in each."""
  rng = np.random.default_rng(2)
  weights = jnp.asarray(rng.normal(size=(7, 7, 1, 6)), jnp.float32)

  def effective(w, kernel_gates, expansion_gates):
    scale = channel_scale(expansion_gates, (1, 2, 3), 2)
    return superkernel(w, kernel_gates, (3, 5, 7), scale)

  args = weights, jnp.array([0.7, 0.4]), jnp.array([0.9, 0.2])
  # float32 differences of a multilinear function: no more than rounding.
  check_grads(effective, args, order=1, modes=('rev',), atol=1e-2, rtol=1e-2)
