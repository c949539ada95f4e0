"""The objective of search and training (paper Eq. 9), in named parts."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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


def cross_entropy(logits: Array, labels: Array, smoothing: float) -> Array:
  """Mean CE against (1 - smoothing) one-hot + smoothing / classes.

  Args:
    logits: [B, classes], any float type; computed in float32 (a bfloat16
      log-softmax is known to break such trainings).
    labels: int [B].
    smoothing: 0 to below 1.
  """
  classes = logits.shape[-1]
  targets = optax.smooth_labels(jax.nn.one_hot(labels, classes), smoothing)
  losses = optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)
  return losses.mean()


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
