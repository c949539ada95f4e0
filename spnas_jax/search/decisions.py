"""What every decision of a found network was worth, and what it costs.

Of each gate two networks are compared, which differ in this decision alone and
are otherwise the found network. A layer that was skipped is taken as kept at
its smallest, and so is one whose own being there is weighed: what enlarges it
is on top of that. Gates of one set open from the lowest on (Eqs. 8-10).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.space import Choices, Gate, Layer, SearchSpace


class Weighed(NamedTuple):
  """Attributes:

  worths: float64 [num_gates], fall of the cross-entropy that a decision brings,
    nats per image; negative = it does harm.
  errors: float64 [num_gates], their standard errors.
  """

  worths: np.ndarray
  errors: np.ndarray


def weigh(
  space: SearchSpace,
  score: Callable[[list[np.ndarray]], list[np.ndarray]],
  found: Choices,
) -> Weighed:
  """Compares the found network with and without each decision.

  Both see the same images, so that what an image adds to both falls out. Errors
  are those of so few images, not of weights that came out otherwise.

  Args:
    space: the search space.
    score: networks, each as gates [num_gates] -> cross-entropies [images] of
      each, nats, the same images in the same order.
    found: the network.
  """
  chosen = space.gates_of(found)
  pairs = [_pair(space, chosen, i) for i in range(len(space.gates))]
  networks = {gates.tobytes(): gates for pair in pairs for gates in pair}
  scores = score(list(networks.values()))
  losses = dict(zip(networks, scores, strict=True))
  gains = [
    losses[without.tobytes()].astype(np.float64) - losses[taken.tobytes()]
    for taken, without in pairs
  ]
  return Weighed(
    np.array([gain.mean() for gain in gains]),
    np.array([_error(gain) for gain in gains]),
  )


def _error(values: np.ndarray) -> float:
  """Standard error of a mean; infinite for a single value."""
  if len(values) < 2:
    return float('inf')
  return float(values.std(ddof=1) / np.sqrt(len(values)))


def explain(
  space: SearchSpace,
  table: LatencyTable,
  found: Choices,
  worths: np.ndarray,
  errors: np.ndarray,
) -> list[dict[str, Any]]:
  """Every decision, what it was worth and what it costs.

  Args:
    space: the search space.
    table: latencies of its operations.
    found: the network.
    worths, errors: [num_gates], nats per image: of `weigh`, or fitted by
      `worth.estimate`.

  Returns:
    For each gate {'layer', 'decision' ('5x5 kernel', 'kept', ...),
    'worth', 'error' (nats per image), 'ms' (what it adds to the found network),
    'taken'}.
  """
  chosen = space.gates_of(found)
  rows = []
  for position, gate in enumerate(space.gates):
    with_ms, without_ms = (
      table.predict(space.architecture_of(space.choices_of(gates)))
      for gates in _pair(space, chosen, position)
    )
    rows.append(
      {
        'layer': gate.layer,
        'decision': _spell(space.layers[gate.layer], gate),
        'worth': float(worths[position]),
        'error': float(errors[position]),
        'ms': float(with_ms - without_ms),
        'taken': bool(chosen[position] > 0.5),
      }
    )
  return rows


def _spell(layer: Layer, gate: Gate) -> str:
  """What the gate admits."""
  if gate.kind == 'kernel':
    size = layer.kernels[gate.rank]
    return f'{size}x{size} kernel'
  if gate.kind == 'expansion':
    return f'expansion {layer.expansions[gate.rank]}'
  if gate.kind == 'squeeze':
    return f'squeeze {layer.squeeze_ratios[gate.rank]:g}'
  return 'kept'


def _pair(
  space: SearchSpace, gates: np.ndarray, position: int
) -> tuple[np.ndarray, np.ndarray]:
  """Gates [num_gates] of two networks: with a decision, and without it."""
  gate = space.gates[position]
  without = gates.copy()
  for kind in ('kernel', 'expansion', 'squeeze'):
    for other in space.gate_index[gate.layer, kind]:
      if gate.kind == 'keep':
        without[other] = 0
      elif gate.kind == kind:
        without[other] = other < position
  for keep in space.gate_index[gate.layer, 'keep']:
    without[keep] = gate.kind != 'keep'
  without[position] = 0
  taken = without.copy()
  taken[position] = 1
  return (
    space.gates_of(space.choices_of(taken)),
    space.gates_of(space.choices_of(without)),
  )
