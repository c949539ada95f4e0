"""What TensorBoard shows of a search: its gates and its superkernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from spnas_jax.models.supernet import layer_name
from spnas_jax.networks.space import Gate, SearchSpace
from spnas_jax.search.multipath import path_log_likelihoods
from spnas_jax.search.multipath_step import MultiPathState
from spnas_jax.search.search_step import Search
from spnas_jax.training.events import Drawn
from spnas_jax.training.train_state import TrainState

# Pixels of an image's side are about this, whatever the kernel's size.
_SIDE = 120
# A gate of the kind 'keep' decides whether its layer is skipped.
_KINDS = {'keep': 'skip'}


def search_drawn(
  search: Search, state: TrainState, metrics: dict[str, np.ndarray]
) -> Drawn:
  """Gates and superkernels after a step.

  Args:
    search: the search.
    state: after the step.
    metrics: of the step, 'logit' among them: float32 [num_gates].

  Returns:
    Histograms `threshold/KIND` and `probability/KIND` (of being open; for KIND
    skip, of the layer being skipped) and an image for each layer. There are no
    histograms where gates are not trained: during the warm-up, which is all of
    a search whose method decides afterwards.
  """
  space = search.supernet.space
  kernels = [
    state.params[layer_name(i)]['depthwise']['kernel']
    for i in range(len(space.layers))
  ]
  kernels, thresholds = jax.device_get((kernels, state.params['thresholds']))
  images = {
    f'superkernel/{layer_name(i)}': kernel_image(kernel)
    for i, kernel in enumerate(kernels)
  }
  if int(state.step) <= search.phases.warm_up:
    return Drawn(images=images)
  logits = np.asarray(metrics['logit'], np.float64)
  signs = np.array([-1 if gate.kind == 'keep' else 1 for gate in space.gates])
  probabilities = 1 / (1 + np.exp(-signs * logits))
  # Reproductions of the authors' code have thresholds that nothing reads.
  thresholds = thresholds[: len(space.gates)]
  return Drawn(
    by_kind('threshold', space.gates, thresholds)
    | by_kind('probability', space.gates, probabilities),
    images,
  )


def by_kind(
  name: str, gates: Sequence[Gate], values: np.ndarray
) -> dict[str, np.ndarray]:
  """Values [num_gates] as {'NAME/KIND': those of that kind}."""
  kinds = np.array([_KINDS.get(gate.kind, gate.kind) for gate in gates])
  return {f'{name}/{kind}': values[kinds == kind] for kind in np.unique(kinds)}


def worths_drawn(space: SearchSpace, result: dict[str, Any]) -> Drawn:
  """What each decision was worth, nats per image.

  Args:
    space: the search space.
    result: of the search; its 'decisions' are in the order of the gates.
  """
  worths = np.array([row['worth'] for row in result['decisions']])
  return Drawn(by_kind('worth', space.gates, worths))


def paths_drawn(space: SearchSpace, state: MultiPathState) -> Drawn:
  """How likely every path of a multi-path search is, skips by themselves."""
  logits = jax.device_get(state.path_logits)
  layers = path_log_likelihoods(space, logits)
  rows = [item for layer in layers for item in layer.items()]
  found = {
    'probability/path': [p for choice, p in rows if choice is not None],
    'probability/skip': [p for choice, p in rows if choice is None],
  }
  return Drawn({k: np.exp(v) for k, v in found.items() if v})


def kernel_image(kernel: Any) -> np.ndarray:
  """A superkernel [K, K, 1, C] as uint8 [about 120, about 120, 1].

  Mean absolute weight over the channels; the largest is white, 0 is black.
  """
  strength = np.abs(np.asarray(kernel, np.float32)).mean(axis=(2, 3))
  shades = np.round(255 * strength / max(float(strength.max()), 1e-30))
  scale = max(1, _SIDE // len(shades))
  return np.kron(shades, np.ones((scale, scale))).astype(np.uint8)[..., None]
