"""`search.method='worth'`: what every decision is worth inside a supernet.

The supernet is trained with every gate open by chance, whatever becomes of it,
so that its weights serve all networks alike. Then random networks are scored
inside it, and their cross-entropies are fitted by

  CE(network) = CE(smallest) - sum of the worths of its open gates,

least squares, where a gate counts as open only if the gates that it stands on
are: a skipped layer has no kernel size (as in the runtime of Eqs. 11-12). Every
score tells something about every gate, and gates of one kind in one stage are
drawn to each other, so that two networks per gate suffice; what the sum leaves
unexplained gives each worth its standard error. The
multiple-choice knapsack (`projection.py`) then takes the most worth that fits a
target, any number of targets from one supernet.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.space import Choice, Choices, SearchSpace
from spnas_jax.search.projection import project_likelihoods

# The knapsack counts in thousandths of its unit: here millionths of a nat.
_UNIT = 1e-3
# Variance of gates around the mean of their kind, over that of what no sum of
# worths explains: the ratios that are weighed against each other.
_RATIOS = 10.0 ** np.arange(-2.0, 6.5, 0.5)


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


def groups(space: SearchSpace) -> np.ndarray:
  """Which stage and kind a gate is of, 0/1 [num_gates, stages x kinds]."""
  of = [(space.layers[gate.layer].stage, gate.kind) for gate in space.gates]
  names = sorted(set(of))
  return np.array([[own == name for name in names] for own in of], np.float64)


def least_networks(space: SearchSpace) -> int:
  """Networks below which no worth has a standard error."""
  return groups(space).shape[1] + 3


def estimate(
  space: SearchSpace, gates: np.ndarray, cross_entropies: np.ndarray
) -> Worth:
  """Fits worths to scored networks; alike gates are drawn to each other.

  A gate's worth is the mean of its kind in its stage plus a deviation. How far
  gates of a kind differ, the scores say: deviations and what the sum leaves
  unexplained are taken for normal, and every ratio of their variances counts by
  its (restricted) likelihood. Few networks so give a mean of each kind, many a
  worth of each gate, and errors that know how little was known.

  Args:
    space: the search space.
    gates: [n, num_gates] in the form of `SearchSpace.gates_of`, n at least
      `least_networks`.
    cross_entropies: [n], nats per image.
  """
  gates = np.asarray(gates, np.float64)
  observed = np.asarray(cross_entropies, np.float64)
  members = groups(space)
  shared = np.column_stack([np.ones(len(gates)), gates @ members])
  fits = [_fit(shared, gates, observed, ratio) for ratio in _RATIOS]
  likelihoods = np.array([fit.likelihood for fit in fits])
  weights = np.exp(likelihoods - likelihoods.max())
  weights /= weights.sum()
  spread = np.column_stack([np.zeros(len(members)), members])
  worths = np.array([-(spread @ f.shared + f.deviations) for f in fits])
  mean = weights @ worths
  variances = [np.diag(fit.covariance(spread)) for fit in fits]
  # Of the worths under each ratio, and of those between ratios.
  squares = weights @ (np.array(variances) + (worths - mean) ** 2)
  return Worth(
    mean,
    np.sqrt(np.maximum(squares, 0)),
    float(weights @ [fit.shared[0] for fit in fits]),
    float(np.sqrt(weights @ [fit.variance for fit in fits])),
  )


class _Fit(NamedTuple):
  """Best linear unbiased prediction under one ratio of variances.

  Attributes:
    shared: [p] constant and means of the kinds, as effects on the loss.
    deviations: [num_gates] from them.
    variance: of what is unexplained.
    likelihood: restricted, natural log, up to a constant.
    inverse: [p + num_gates, p + num_gates] of the normal equations.
  """

  shared: np.ndarray
  deviations: np.ndarray
  variance: float
  likelihood: float
  inverse: np.ndarray

  def covariance(self, spread: np.ndarray) -> np.ndarray:
    """Of all worths; `spread` [num_gates, p] is the kinds' share in them."""
    combine = np.column_stack([spread, np.eye(len(spread))])
    return self.variance * combine @ self.inverse @ combine.T


def _fit(
  shared: np.ndarray, gates: np.ndarray, observed: np.ndarray, ratio: float
) -> _Fit:
  """`ratio`: variance of a deviation over that of what is unexplained."""
  count, width = shared.shape[1], gates.shape[1]
  design = np.column_stack([shared, gates])
  penalty = np.concatenate([np.zeros(count), np.full(width, 1 / ratio)])
  inverse = np.linalg.pinv(design.T @ design + np.diag(penalty))
  solution = inverse @ design.T @ observed
  freedom = len(observed) - np.linalg.matrix_rank(shared)
  # Residuals times observations is the quadratic form of the likelihood.
  left = observed - design @ solution
  variance = max(float(observed @ left), 1e-30) / max(freedom, 1)
  covariance = np.eye(len(observed)) + ratio * gates @ gates.T
  _, volume = np.linalg.slogdet(covariance)
  _, shrunk = np.linalg.slogdet(
    shared.T @ np.linalg.solve(covariance, shared) + 1e-12 * np.eye(count)
  )
  likelihood = -0.5 * (freedom * np.log(variance) + volume + shrunk)
  return _Fit(
    solution[:count], solution[count:], variance, float(likelihood), inverse
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
