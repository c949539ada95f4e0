"""The objective of search and training (paper Eq. 9), in named parts."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array


class Objective(NamedTuple):
  """Parts of the loss, float32 scalars.

  Attributes:
    cross_entropy: label-smoothed CE, nats per image.
    runtime_ms: R of Eq. 9.
    runtime_term: lambda * ln(R / ms).
    weight_decay: coefficient * 1/2 sum of squares.
    total: what is minimised.
  """

  cross_entropy: Array
  runtime_ms: Array
  runtime_term: Array
  weight_decay: Array
  total: Array


def cross_entropy(
  logits: Array,
  labels: Array,
  smoothing: float,
  weights: np.ndarray | None = None,
) -> Array:
  """Mean CE against (1 - smoothing) one-hot + smoothing / classes.

  Args:
    logits: [B, classes], any float type; computed in float32 (a bfloat16
      log-softmax is known to break such trainings).
    labels: int [B].
    smoothing: 0 to below 1.
    weights: float32 [classes], what an example of each class counts; the sum is
      still divided by B, so that devices can average theirs. None = 1 each.
  """
  classes = logits.shape[-1]
  targets = optax.smooth_labels(jax.nn.one_hot(labels, classes), smoothing)
  losses = optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)
  if weights is not None:
    losses = losses * jnp.asarray(weights, jnp.float32)[labels]
  return losses.mean()


def class_weights(counts: np.ndarray) -> np.ndarray:
  """Weights under which every class counts as much as any other.

  Args:
    counts: int [classes], training images of each class.

  Returns:
    float32 [classes]: images / (classes * images of the class), so that the
    mean over the images is 1. Classes without images have weight 0 and are not
    counted.
  """
  present = counts > 0
  even = counts.sum() / max(int(present.sum()), 1)
  return np.where(present, even / np.maximum(counts, 1), 0).astype(np.float32)


def objective(
  ce: Array,
  runtime_ms: Array,
  lambda_: Array | float,
  decayed: Any,
  weight_decay: float,
) -> Objective:
  """CE + lambda ln R + weight decay (Eq. 9; the L2 term is the recipe's).

  Args:
    ce: cross-entropy, [].
    runtime_ms: R, [] ms.
    lambda_: weight of ln R. The authors' 0.020 is 20 here: their code
      multiplies by 1000.
    decayed: tree of the weights under L2.
    weight_decay: coefficient of 1/2 sum of squares.
  """
  runtime_term = lambda_ * jnp.log(runtime_ms)
  squares = [
    jnp.sum(jnp.square(w.astype(jnp.float32))) for w in jax.tree.leaves(decayed)
  ]
  decay = weight_decay * 0.5 * sum(squares, jnp.float32(0))
  return Objective(
    ce, runtime_ms, runtime_term, decay, ce + runtime_term + decay
  )
