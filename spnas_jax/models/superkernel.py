"""Superkernels: all candidate depthwise kernels inside one (paper Eqs 1-3).

Pure functions of arrays. A superkernel has shape [K, K, 1, C]: K the largest
candidate kernel size, C the channels of the largest candidate expansion ratio.
Smaller kernel sizes are its centre, smaller expansion ratios its first channels
(Fig. 3). Subsets are ordered: `kernel_masks` and `channel_masks` return the
innermost subset first, then what each further candidate adds; together they
partition the superkernel.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@functools.lru_cache
def kernel_masks(kernels: tuple[int, ...]) -> np.ndarray:
  """0/1 masks [len(kernels), K, K, 1, 1]: the core, then each outer shell.

  Args:
    kernels: candidate sizes, ascending and odd, as in (3, 5).
  """
  size = kernels[-1]
  masks = np.zeros((len(kernels), size, size, 1, 1), np.float32)
  covered = np.zeros((size, size, 1, 1), np.float32)
  for i, kernel in enumerate(kernels):
    margin = (size - kernel) // 2
    inside = np.zeros_like(covered)
    inside[margin : size - margin, margin : size - margin] = 1.0
    masks[i] = inside - covered
    covered = inside
  return masks


@functools.lru_cache
def channel_masks(expansions: tuple[int, ...], in_channels: int) -> np.ndarray:
  """0/1 masks [len(expansions), C]: first channels, then what each ratio adds.

  Args:
    expansions: candidate ratios, ascending, as in (3, 6).
    in_channels: channels before the expand convolution.
  """
  masks = np.zeros((len(expansions), expansions[-1] * in_channels), np.float32)
  start = 0
  for i, expansion in enumerate(expansions):
    stop = expansion * in_channels
    masks[i, start:stop] = 1.0
    start = stop
  return masks


@jax.custom_jvp
def _step(logit: Array) -> Array:
  return (logit >= 0).astype(logit.dtype)


@_step.defjvp
def _step_jvp(primals, tangents):
  (logit,), (tangent,) = primals, tangents
  s = jax.nn.sigmoid(logit)
  return _step(logit), s * (1 - s) * tangent


def indicator(
  importance: Array, threshold: Array, temperature: Array | float = 1.0
) -> Array:
  """Hard decision 1(importance >= threshold), sigmoid gradient (after Eq. 2).

  Forward is exactly 0 or 1. Backward replaces the step by
  sigmoid((importance - threshold) / temperature), the paper's relaxation at
  temperature 1. At equality the decision is "use", as in the authors' code; the
  printed text has a strict inequality, which differs on a null set only.

  Args:
    importance: [...] float32, importance of weight subsets.
    threshold: broadcastable, float32, trainable.
    temperature: > 0; small sharpens the surrogate.

  Returns:
    Shape and dtype of `importance - threshold`, values in {0, 1}.
  """
  return _step((importance - threshold) / temperature)


def nested(gates: Array) -> Array:
  """Coefficients of nested subsets: [1, g1, g1 g2, ...], shape [n + 1].

  A subset is used if its own gate and every gate below it are open.
  """
  one = jnp.ones(1, gates.dtype)
  return jnp.concatenate([one, jnp.cumprod(gates)])


def _weighted(coefficients: Array, masks: np.ndarray) -> Array:
  """Sum of coefficient x mask, in float32 on TPUs as well."""
  return jnp.tensordot(coefficients, masks, axes=1, precision='highest')


def superkernel(
  weights: Array,
  kernel_gates: Array,
  kernels: tuple[int, ...],
  channel_scale: Array | None = None,
) -> Array:
  """The effective depthwise kernel (Eqs 1-3).

  Args:
    weights: [K, K, 1, C], the superkernel.
    kernel_gates: [len(kernels) - 1] float32, one for each outer shell.
    kernels: candidate sizes, ascending, the last being K.
    channel_scale: [C] or None. Eq. 3 multiplies the kernel's channels by their
      expansion and skip decisions; formulations that decide after the batch
      norm leave it out.

  Returns:
    [K, K, 1, C]; what is not selected is exactly 0.
  """
  if len(kernels) > 1:
    mask = _weighted(nested(kernel_gates), kernel_masks(kernels))
    weights = weights * mask.astype(weights.dtype)
  if channel_scale is not None:
    weights = weights * channel_scale.astype(weights.dtype)
  return weights


def channel_scale(
  expansion_gates: Array, expansions: tuple[int, ...], in_channels: int
) -> Array:
  """Decision of every depthwise channel, float32 [C] (inner part of Eq. 3)."""
  masks = channel_masks(expansions, in_channels)
  return _weighted(nested(expansion_gates), masks)
