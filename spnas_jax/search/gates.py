"""From weights and thresholds to decisions: three formulations side by side.

| | sampled (default) | official | paper |
|-|-------------------|----------|-------|
| importance | RMS over a reference RMS | L2 norm | squared L2 norm |
| of the kernel | as it is | after its kernel-size gate | same |
| gate | Bernoulli(sigmoid((s - t) / tau)) | 1(norm >= t) | 1(norm >= t) |
| gradient | straight through | sigmoid'(norm - t) | same |
| expansion, skip | after batch norm | on the kernel (Eq. 3) | same |
| warm-up | Bernoulli(keep) | decisions dropped, rest / keep | same |
| runtime | exact, of probabilities | Eqs 11-12, of decisions | same |
| = decoded network | yes, to rounding | no, see `SuperNet` | no |
| thresholds | Adam, no decay | like weights, with decay | same |

`official` follows the authors' code, `paper` the printed equations. Both are
for reproduction: their indicators saturate (sigma'(11) = 1.5e-5 at the first
layer, exactly 0 in float32 from the middle of the network on), which
`sampled` was made to avoid.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from spnas_jax.models.superkernel import (
  channel_masks,
  indicator,
  kernel_masks,
  nested,
)
from spnas_jax.models.supernet import layer_name
from spnas_jax.networks.space import Layer, SearchSpace

# float32 on TPUs as well.
_dot = functools.partial(jnp.dot, precision='highest')


@dataclasses.dataclass(frozen=True)
class Formulation:
  """How decisions are taken.

  Attributes:
    name: value of `search.gates`.
    placement: see `SuperNet`.
    sampled: Bernoulli samples of size-normalised logits; otherwise hard
      indicators of norms.
    power: 1 = L2 norm, 2 = squared L2 norm (hard indicators only).
    unused_thresholds: also a skip threshold for layers that may not be skipped,
      which the authors' code creates and never reads.
    runtime_form: form of the runtime model inside the loss.
  """

  name: str
  placement: str
  sampled: bool
  power: int
  unused_thresholds: bool
  runtime_form: str

  def num_thresholds(self, space: SearchSpace) -> int:
    """Length of the `thresholds` parameter."""
    extra = sum(not layer.skippable for layer in space.layers)
    return len(space.gates) + (extra if self.unused_thresholds else 0)


FORMULATIONS = {
  f.name: f
  for f in (
    Formulation('sampled', 'after_norm', True, 1, False, 'exact'),
    Formulation('official', 'kernel', False, 1, True, 'factorised'),
    Formulation('paper', 'kernel', False, 2, False, 'factorised'),
  )
}


class Decision(NamedTuple):
  """What one step decided, all float32 [num_gates] in the order of the space.

  Attributes:
    gates: what the supernet runs with (sampled, or dropped and rescaled).
    runtime_gates: what the loss's runtime term is of: probabilities
      (`sampled`), or `gates` (`official`, `paper`).
    undropped: `runtime_gates` as they would be without subset dropout.
    logits: (importance - threshold) / temperature.
    importance: of each gate's subset of weights.
  """

  gates: Array
  runtime_gates: Array
  undropped: Array
  logits: Array
  importance: Array


def decide(
  formulation: Formulation,
  space: SearchSpace,
  params: dict[str, Any],
  key: Array,
  *,
  temperature: Array | float = 1.0,
  keep_probability: Array | float = 1.0,
  warm_up: Array | bool = False,
) -> Decision:
  """Takes every decision of the space once.

  Args:
    formulation: one of `FORMULATIONS`.
    space: the search space.
    params: the supernet's parameters, `thresholds` among them.
    key: random key; the same on all devices makes them decide alike.
    temperature: tau of the `sampled` logits.
    keep_probability: during warm-up, of each subset (`sampled`: probability
      that a gate is open; others: inverted dropout, survivors are scaled).
    warm_up: whether subset dropout is on.
  """
  count = len(space.gates)
  thresholds = params['thresholds'][:count]
  if formulation.sampled:
    importances = relative_importance(space, params)
    logits = (importances - thresholds) / temperature
    probability = jax.nn.sigmoid(logits)
    odds = jnp.where(
      warm_up, jnp.full(count, keep_probability, jnp.float32), probability
    )
    sample = (jax.random.uniform(key, (count,)) < odds).astype(jnp.float32)
    gates = jax.lax.stop_gradient(sample - odds) + odds
    return Decision(gates, odds, probability, logits, importances)
  keep = jnp.where(warm_up, keep_probability, 1.0)
  noise = (jax.random.uniform(key, (count,)) < keep) / keep
  gates, importances = _hard(formulation, space, params, thresholds, noise)
  undropped, _ = _hard(formulation, space, params, thresholds, jnp.ones(count))
  return Decision(
    gates, gates, undropped, importances - thresholds, importances
  )


def relative_importance(space: SearchSpace, params: dict[str, Any]) -> Array:
  """Size-normalised importance of every gate, float32 [num_gates].

  RMS of the weights a gate adds, over a reference RMS of the same layer: for
  kernel sizes the core (smallest kernel), for expansion ratios the first
  channels, for a skip the initial standard deviation, for the squeeze its own
  initial standard deviation. All are near 1 after initialisation, whatever the
  layer's width, so one temperature fits all.
  """
  subset, reference, constant = _mean_squares(space)
  sums = jnp.concatenate(
    [
      _sums_of_squares(layer, params[layer_name(i)])
      for i, layer in enumerate(space.layers)
    ]
  )
  # The guard keeps the gradient of the root finite where all weights are 0.
  return jnp.sqrt(_dot(subset, sums) + 1e-12) / jnp.sqrt(
    _dot(reference, sums) + constant
  )


def _sums_of_squares(layer: Layer, group: dict[str, Any]) -> Array:
  """Of the subsets that a layer's decisions are about, float32 [subsets].

  The superkernel's first: the ring of each kernel size by the channels of each
  expansion ratio; after them the squeeze's where it is searched. One vector
  for all gates, since XLA makes a kernel of every operation on a scalar.
  """
  kernel = group['depthwise']['kernel'].astype(jnp.float32)
  rings = kernel_masks(layer.kernels).reshape(len(layer.kernels), -1)
  channels = channel_masks(layer.expansions, layer.in_channels)
  squares = (kernel**2).reshape(rings.shape[1], -1)
  sums = _dot(_dot(rings, squares), channels.T).ravel()
  if len(layer.squeeze_ratios) == 1:
    return sums
  squeeze = group['squeeze']['squeeze_kernel'].astype(jnp.float32)
  return jnp.append(sums, jnp.sum(squeeze**2))


@functools.lru_cache
def _mean_squares(
  space: SearchSpace,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """How a gate's mean squares come from all layers' `_sums_of_squares`.

  Returns:
    float32 [num_gates, sums] for the subset that the gate adds, the same for
    what it is compared with, and what is added to that, [num_gates].
  """
  sizes = [
    np.outer(
      kernel_masks(layer.kernels).sum((1, 2, 3, 4)),
      channel_masks(layer.expansions, layer.in_channels).sum(1),
    )
    for layer in space.layers
  ]
  counts = [
    size.size + (len(layer.squeeze_ratios) > 1)
    for size, layer in zip(sizes, space.layers, strict=True)
  ]
  starts = np.cumsum([0, *counts])
  shape = (len(space.gates), starts[-1])
  subset, reference = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
  constant = np.full(len(space.gates), 1e-12, np.float32)
  for position, gate in enumerate(space.gates):
    layer, size = space.layers[gate.layer], sizes[gate.layer]
    start = starts[gate.layer]
    own, base = (  # Views.
      matrix[position, start : start + size.size].reshape(size.shape)
      for matrix in (subset, reference)
    )
    if gate.kind == 'kernel':
      own[gate.rank] = 1 / size[gate.rank].sum()
      base[0] = 1 / size[0].sum()
    elif gate.kind == 'expansion':
      own[:, gate.rank] = 1 / size[:, gate.rank].sum()
      base[:, 0] = 1 / size[:, 0].sum()
    elif gate.kind == 'keep':
      own[:, 0] = 1 / size[:, 0].sum()
      constant[position] = 2 / layer.kernels[-1] ** 2
    else:
      block = layer.block(layer.choices[-1])
      weights = block.mid_channels * block.squeeze_channels
      subset[position, start + size.size] = 1 / weights
      constant[position] = 2 / block.squeeze_channels
  return subset, reference, constant


def _hard(formulation, space, params, thresholds, noise):
  """Indicators of the subsets' norms; `noise` multiplies each decision."""

  def importance(weights):
    square = jnp.sum(weights.astype(jnp.float32) ** 2)
    # The guard keeps the gradient of the root finite where all weights are 0.
    return square if formulation.power == 2 else jnp.sqrt(square + 1e-12)

  gates: dict[int, Array] = {}
  importances: dict[int, Array] = {}

  def resolve(position, weights):
    importances[position] = importance(weights)
    hard = indicator(importances[position], thresholds[position])
    gates[position] = hard * noise[position]
    return gates[position]

  for i, layer in enumerate(space.layers):
    group = params[layer_name(i)]
    kernel = group['depthwise']['kernel'].astype(jnp.float32)
    rings = kernel_masks(layer.kernels)
    open_ = [
      resolve(p, kernel * rings[j + 1])
      for j, p in enumerate(space.gate_index[i, 'kernel'])
    ]
    if open_:
      kernel = kernel * jnp.tensordot(
        nested(jnp.stack(open_)), rings, axes=1, precision='highest'
      )
    halves = channel_masks(layer.expansions, layer.in_channels)
    for j, p in enumerate(space.gate_index[i, 'expansion']):
      resolve(p, kernel * halves[j + 1])
    for p in space.gate_index[i, 'squeeze']:
      resolve(p, group['squeeze']['squeeze_kernel'])
    for p in space.gate_index[i, 'keep']:
      resolve(p, kernel * halves[0])
  order = range(len(space.gates))
  return (
    jnp.stack([gates[p] for p in order]),
    jnp.stack([importances[p] for p in order]),
  )
