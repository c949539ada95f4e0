"""`search.method='worth'`: what every decision is worth inside a supernet.

The supernet is trained with every gate open by chance, whatever becomes of it,
so that its weights serve all networks alike. Then random networks are scored
inside it, and their cross-entropies are fitted by

  CE(network) = CE(smallest) - sum of the worths of its open gates,

least squares, where a gate counts as open only if the gates that it stands on
are: a skipped layer has no kernel size (as in the runtime of Eqs. 11-12). Every
score tells something about every gate, so that a few networks per gate suffice;
what the sum leaves unexplained gives each worth its standard error. The
multiple-choice knapsack (`projection.py`) then takes the most worth that fits a
target, any number of targets from one supernet.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.space import Choice, Choices, Gate, Layer, SearchSpace
from spnas_jax.search.projection import project_likelihoods

# The knapsack counts in thousandths of its unit: here millionths of a nat.
_UNIT = 1e-3


class Worth(NamedTuple):
  """Attributes, all in nats per image:

  worths: float64 [num_gates], fall of the cross-entropy that opening a gate
    brings, on average over random networks; negative = it does harm.
  errors: float64 [num_gates], their standard errors.
  smallest: cross-entropy of the network with all gates closed, as fitted.
  residual: root mean square of what the sum does not explain.
  """

  worths: np.ndarray
  errors: np.ndarray
  smallest: float
  residual: float

  def predict(self, gates: np.ndarray) -> np.ndarray:
    """Cross-entropies [...] of networks, gates [..., num_gates] of
    `SearchSpace.gates_of`."""
    return self.smallest - np.asarray(gates, np.float64) @ self.worths


def draw(
  space: SearchSpace, count: int, probability: float, rng: np.random.Generator
) -> np.ndarray:
  """Different random networks, each gate open with the probability.

  Returns:
    float32 [n, num_gates] in the form of `SearchSpace.gates_of`; n < `count`
    only where the space gives no more.
  """
  found: dict[bytes, np.ndarray] = {}
  misses = 0
  while len(found) < count and misses < 100 + 10 * count:
    opened = rng.random(len(space.gates)) < probability
    gates = space.gates_of(space.choices_of(opened.astype(np.float32)))
    misses += gates.tobytes() in found
    found[gates.tobytes()] = gates
  return np.stack(list(found.values()))


def least_networks(space: SearchSpace) -> int:
  """Networks below which no worth has a standard error."""
  return len(space.gates) + 2


def estimate(gates: np.ndarray, cross_entropies: np.ndarray) -> Worth:
  """Least squares over scored networks.

  Args:
    gates: [n, num_gates] in the form of `SearchSpace.gates_of`, n at least
      num_gates + 2.
    cross_entropies: [n], nats per image.
  """
  design = np.column_stack([np.ones(len(gates)), gates]).astype(np.float64)
  observed = np.asarray(cross_entropies, np.float64)
  fitted, _, rank, _ = np.linalg.lstsq(design, observed, rcond=None)
  squares = np.sum((observed - design @ fitted) ** 2)
  variance = squares / (len(gates) - rank)
  covariance = variance * np.linalg.pinv(design.T @ design)
  return Worth(
    -fitted[1:],
    np.sqrt(np.maximum(np.diag(covariance)[1:], 0)),
    float(fitted[0]),
    float(np.sqrt(variance)),
  )


def choose(
  space: SearchSpace,
  table: LatencyTable,
  worth: Worth,
  target_ms: float,
  slack: float,
  max_bytes: float | None = None,
) -> Choices:
  """The network of the most worth with target (1 - slack) <= ms <= target.

  Where none lies in that band: see `project_likelihoods`.
  """
  values: list[dict[Choice | None, float]] = []
  for i, layer in enumerate(space.layers):
    own: dict[Choice | None, float] = {}
    for candidate in layer.candidates:
      alone: list[Choice | None] = [None] * len(space.layers)
      alone[i] = candidate
      gates = space.gates_of(tuple(alone))
      own[candidate] = float(gates @ worth.worths) / _UNIT
    values.append(own)
  return project_likelihoods(space, table, values, target_ms, slack, max_bytes)


def explain(
  space: SearchSpace, table: LatencyTable, worth: Worth, found: Choices
) -> list[dict[str, Any]]:
  """Every decision, what it was worth and what it costs.

  Returns:
    For each gate {'layer', 'decision' ('5x5 kernel', 'kept', ...),
    'worth', 'error' (nats per image), 'ms' (what it adds to the found network,
    a skipped layer taken as kept at its smallest), 'taken'}.
  """
  chosen = space.gates_of(found)
  rows = []
  for position, gate in enumerate(space.gates):
    rows.append(
      {
        'layer': gate.layer,
        'decision': _spell(space.layers[gate.layer], gate),
        'worth': float(worth.worths[position]),
        'error': float(worth.errors[position]),
        'ms': _added_ms(space, table, chosen, position),
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


def _added_ms(
  space: SearchSpace, table: LatencyTable, gates: np.ndarray, position: int
) -> float:
  """ms of a network with the gate minus ms without it.

  A layer by itself is its smallest candidate; what enlarges it is on top of
  that. Gates of one set open from the lowest on.
  """
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
  with_it = without.copy()
  with_it[position] = 1
  ms = [
    table.predict(space.architecture_of(space.choices_of(each)))
    for each in (with_it, without)
  ]
  return float(ms[0] - ms[1])
