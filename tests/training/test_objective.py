"""Eq. 9 and its cross-entropy, against NumPy and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spnas_jax.training.objective import (
  class_weights,
  cross_entropy,
  objective,
)


def reference_cross_entropy(logits, labels, smoothing):
  """In float64, written out."""
  logits = np.asarray(logits, np.float64)
  classes = logits.shape[-1]
  targets = np.full(logits.shape, smoothing / classes)
  targets[np.arange(len(labels)), labels] += 1 - smoothing
  shifted = logits - logits.max(-1, keepdims=True)
  log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
  return -(targets * log_p).sum(-1).mean()


@pytest.mark.parametrize('smoothing', [0.0, 0.1, 0.5])
def test_label_smoothing(smoothing):
  """(1 - smoothing) one-hot + smoothing / classes, mean over the batch.

  float32 against float64: 1e-6 relative.
  """
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 5, (16, 7)).astype(np.float32)
  labels = rng.integers(7, size=16)
  got = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
  wanted = reference_cross_entropy(logits, labels, smoothing)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_bfloat16_logits_are_computed_in_float32():
  """The log-softmax of bfloat16 logits has float32's precision, not theirs.

  Rounding anything inside to bfloat16 would show as a relative error of about
  1e-3; the logits' own rounding is part of both sides.
  """
  rng = np.random.default_rng(1)
  logits = jnp.asarray(rng.normal(0, 5, (64, 100)), jnp.bfloat16)
  labels = rng.integers(100, size=64)
  got = cross_entropy(logits, jnp.asarray(labels), 0.1)
  assert got.dtype == jnp.float32
  wanted = reference_cross_entropy(np.asarray(logits, np.float32), labels, 0.1)
  np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_class_weights_by_hand():
  """Images / (classes * images of the class); their mean over the images is 1.

  Six images, classes of 3, 1 and 2: 6/9, 6/3, 6/6. A class without images has
  weight 0 and leaves the others as if it did not exist.
  """
  counts = np.array([3, 1, 2])
  weights = class_weights(counts)
  assert weights.dtype == np.float32
  np.testing.assert_allclose(weights, [2 / 3, 2.0, 1.0], rtol=1e-7)
  np.testing.assert_allclose((weights * counts).sum() / 6, 1.0, rtol=1e-7)
  np.testing.assert_array_equal(
    class_weights(np.array([3, 0, 1, 2])), np.insert(weights, 1, 0)
  )


def test_weighted_cross_entropy_by_hand():
  """Three examples of two classes, whose CE are ln 2, ln 4 and ln 4/3.

  With weights 3 and 1/2: (3 ln 2 + 3 ln 4 + 1/2 ln 4/3) / 3; equal weights of 1
  change no bit.
  """
  logits = jnp.log(jnp.array([[1.0, 1.0], [1.0, 3.0], [1.0, 3.0]]))
  labels = jnp.array([0, 0, 1])
  got = cross_entropy(logits, labels, 0.0, np.array([3.0, 0.5]))
  wanted = (3 * np.log(2) + 3 * np.log(4) + 0.5 * np.log(4 / 3)) / 3
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, wanted, rtol=1e-6)
  plain = cross_entropy(logits, labels, 0.0)
  assert cross_entropy(logits, labels, 0.0, np.ones(2)) == plain


def test_large_logits_do_not_overflow():
  """A confident network has a finite loss."""
  logits = jnp.array([[1e4, -1e4], [-1e4, 1e4]])
  assert cross_entropy(logits, jnp.array([0, 1]), 0.0) == 0.0
  wrong = cross_entropy(logits, jnp.array([1, 0]), 0.0)
  np.testing.assert_allclose(wrong, 2e4, rtol=1e-6)


def test_parts_sum_to_the_total():
  """total = CE + lambda ln R + weight decay; each part is what it says."""
  rng = np.random.default_rng(2)
  weights = {
    'a': jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
    'b': [jnp.asarray(rng.normal(size=5), jnp.bfloat16)],
  }
  terms = objective(jnp.float32(2.5), jnp.float32(80.0), 20.0, weights, 1e-2)
  assert terms.cross_entropy == 2.5
  assert terms.runtime_ms == 80.0
  # The authors' 0.020 * 1000 * ln(80 ms) = 87.64.
  np.testing.assert_allclose(terms.runtime_term, 20 * np.log(80), rtol=1e-6)
  squares = sum(
    np.sum(np.square(np.asarray(leaf, np.float64)))
    for leaf in jax.tree.leaves(weights)
  )
  np.testing.assert_allclose(terms.weight_decay, 0.005 * squares, rtol=1e-6)
  parts = terms.cross_entropy + terms.runtime_term + terms.weight_decay
  assert terms.total == parts
  for leaf in terms:
    assert jnp.result_type(leaf) == jnp.float32 and jnp.shape(leaf) == ()


def test_nothing_decayed():
  """An empty tree of weights is a decay of 0, not an error."""
  terms = objective(jnp.float32(1), jnp.float32(1), 0.0, [], 1e-5)
  assert terms.weight_decay == 0 and terms.total == 1


def total(runtime_ms, lambda_):
  return objective(jnp.float32(1), runtime_ms, lambda_, [], 0.0).total


def test_lambda_0_removes_the_runtime_gradient():
  """Exactly: in warm-up and with an idle controller R must pull at nothing."""
  gradient = jax.grad(total)
  assert gradient(jnp.float32(70.0), 0.0) == 0.0
  assert gradient(jnp.float32(70.0), 5.0) > 0.0
  assert gradient(jnp.float32(70.0), -5.0) < 0.0


@pytest.mark.parametrize('runtime_ms', [0.05, 1.0, 80.0, 5000.0])
def test_runtime_gradient_by_finite_differences(runtime_ms):
  """d total / d R = lambda / R, also below 1 ms, where ln R is negative.

  Central differences of float32 over 2% of R: their own error is 2e-4 relative
  (third derivative), plus 1e-6 / 0.02 of rounding per unit of ln R.
  """
  got = jax.grad(total)(jnp.float32(runtime_ms), 3.0)
  step = 0.01 * runtime_ms
  high, low = (
    float(total(jnp.float32(runtime_ms + sign * step), 3.0)) for sign in (1, -1)
  )
  np.testing.assert_allclose(got, (high - low) / (2 * step), rtol=2e-3)
  np.testing.assert_allclose(got, 3.0 / runtime_ms, rtol=1e-6)
