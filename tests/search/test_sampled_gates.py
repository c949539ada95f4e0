"""Our formulation of the decisions: importance, samples, their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from authors import imagenet_space
from tiny_gates import SPACE, decision_of, kernels_of

from spnas_jax.models.supernet import layer_name
from spnas_jax.search.gates import relative_importance


@pytest.mark.parametrize(
  'space',
  [
    imagenet_space(),
    tiny.space((3, 5, 7), (2, 4, 6), (0.0, 0.25)),
  ],
  ids=['imagenet', 'three sizes and squeeze'],
)
def test_relative_importance_starts_at_one(space):
  """After initialisation every gate's importance is about 1, at any width.

  That is what lets one temperature fit all layers. The root mean square of n
  normal weights has relative spread 1 / sqrt(2n); the smallest subsets have
  n = 432 weights in the ImageNet space and 96 (a squeeze, an expansion's 16
  channels have more) in the tiny one, in numerator and reference: 5 sigma.
  """
  importances = np.asarray(
    tiny.jit(lambda p: relative_importance(space, p))(kernels_of(space))
  )
  smallest = 432 if len(space.layers) == 20 else 96
  atol = 5 * (2 / (2 * smallest)) ** 0.5
  np.testing.assert_allclose(importances, 1.0, atol=atol)


def test_relative_importance_does_not_depend_on_scale():
  """Ratios within a layer; only the skip measures against a fixed scale."""
  run = jax.jit(lambda p: relative_importance(SPACE, p))
  one, ten = run(kernels_of(SPACE)), run(kernels_of(SPACE, scale=10.0))
  for gate, before, after in zip(SPACE.gates, one, ten, strict=True):
    factor = 10.0 if gate.kind == 'keep' else 1.0
    np.testing.assert_allclose(after, factor * before, rtol=1e-5)


def test_relative_importance_in_numpy():
  """RMS over RMS of the subsets the docstring names."""
  params = kernels_of(SPACE, seed=3)
  got = jax.jit(lambda p: relative_importance(SPACE, p))(params)

  def rms(x):
    return np.sqrt(np.mean(np.square(x, dtype=np.float64)))

  for gate, value in zip(SPACE.gates, np.asarray(got), strict=True):
    kernel = np.asarray(params[layer_name(gate.layer)]['depthwise']['kernel'])
    layer = SPACE.layers[gate.layer]
    half = layer.in_channels * 2
    core = np.zeros(kernel.shape, bool)
    core[1:4, 1:4] = True
    wanted = {
      'kernel': rms(kernel[~core]) / rms(kernel[core]),
      'expansion': rms(kernel[..., half:]) / rms(kernel[..., :half]),
      'keep': rms(kernel[..., :half]) / np.sqrt(2 / 25),
    }[gate.kind]
    # float32 sums of a few hundred squares.
    np.testing.assert_allclose(value, wanted, rtol=1e-5)


def test_one_bernoulli_sample_per_gate():
  """Each gate is exactly 0 or 1, open with its own probability, independently.

  Means of 4000 draws within 5 sigma, correlations within 5 / sqrt(4000).
  """
  params = kernels_of(SPACE)
  run = decision_of('sampled', SPACE, temperature=0.5)
  importances = run(params, np.zeros(len(SPACE.gates)), jax.random.key(0))
  logits = np.linspace(-2, 2, len(SPACE.gates))
  thresholds = np.asarray(importances.importance) - 0.5 * logits
  keys = jax.random.split(jax.random.key(1), 4000)
  gates = np.asarray(
    jax.jit(
      lambda keys: jax.vmap(lambda k: run(params, thresholds, k).gates)(keys)
    )(keys)
  )
  assert set(np.unique(gates)) == {0.0, 1.0}
  p = 1 / (1 + np.exp(-logits))
  spread = np.sqrt(p * (1 - p) / 4000)
  assert np.all(np.abs(gates.mean(0) - p) < 5 * spread)
  correlations = np.corrcoef(gates.T) - np.eye(len(p))
  assert np.abs(correlations).max() < 5 / 4000**0.5
  decision = run(params, thresholds, keys[0])
  # float32 subtraction and exponential.
  np.testing.assert_allclose(decision.logits, logits, atol=1e-5)
  np.testing.assert_allclose(decision.runtime_gates, p, rtol=1e-5)
  np.testing.assert_array_equal(decision.runtime_gates, decision.undropped)


def test_sampled_gradient_is_straight_through():
  """d gate / d t = -p (1 - p) / tau whether the sample is 0 or 1.

  And d gate / d weights = p (1 - p) / tau times that of the importance, which
  makes a subset's own weights take part in its decision.
  """
  params = kernels_of(SPACE)
  tau = 0.5
  run = decision_of('sampled', SPACE, temperature=tau)
  key = jax.random.key(5)
  count = len(SPACE.gates)
  coefficients = jnp.linspace(1.0, 2.0, count)
  thresholds = jnp.linspace(0.3, 1.7, count)

  def total(p, t):
    return jnp.vdot(coefficients, run(p, t, key).gates)

  decision = run(params, thresholds, key)
  assert 0 < np.asarray(decision.gates).sum() < count  # Samples of both kinds.
  by_weights, by_thresholds = jax.grad(total, (0, 1))(params, thresholds)
  p = np.asarray(decision.runtime_gates, np.float64)
  slope = coefficients * p * (1 - p) / tau
  np.testing.assert_allclose(by_thresholds, -slope, rtol=1e-5)

  def weighted_importance(p):
    return jnp.vdot(jnp.float32(slope), relative_importance(SPACE, p))

  wanted = jax.jit(jax.grad(weighted_importance))(params)
  # Sums of float32 gradients of up to three gates that share a kernel.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    by_weights,
    wanted,
  )


def test_warm_up_opens_gates_by_the_keep_probability():
  """Thresholds rest in warm-up: gradient exactly 0, odds as configured."""
  params = kernels_of(SPACE)
  count = len(SPACE.gates)
  run = decision_of('sampled', SPACE, keep_probability=0.6, warm_up=True)
  thresholds = jnp.linspace(-3.0, 3.0, count)  # Which must not matter.
  keys = jax.random.split(jax.random.key(2), 2000)
  gates = jax.jit(
    lambda keys: jax.vmap(lambda k: run(params, thresholds, k).gates)(keys)
  )(keys)
  assert set(np.unique(gates)) == {0.0, 1.0}  # No rescaling of survivors.
  np.testing.assert_allclose(gates.mean(0), 0.6, atol=5 * (0.24 / 2000) ** 0.5)

  def total(p, t):
    decision = run(p, t, keys[0])
    return (decision.gates + decision.runtime_gates).sum()

  for leaf in jax.tree.leaves(jax.grad(total, (0, 1))(params, thresholds)):
    np.testing.assert_array_equal(leaf, 0.0)
  decision = run(params, thresholds, keys[0])
  np.testing.assert_array_equal(decision.runtime_gates, np.float32(0.6))
  # What the search would pay without dropout is still of the thresholds.
  p = 1 / (1 + np.exp(-np.asarray(decision.logits, np.float64)))
  np.testing.assert_allclose(decision.undropped, p, rtol=1e-5)
