"""From soft decisions to a network that meets the target.

A multiple-choice knapsack: one candidate for every layer, the likelihood of the
gates as value, milliseconds as weight. Deterministic; NumPy only.
"""

from __future__ import annotations

import numpy as np

from spnas_jax.core.errors import UserError
from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.space import Choice, Choices, SearchSpace

BINS = 4000
# Unit of log-likelihoods, nats: gates at the limit of their
# log-odds differ by float32 rounding only, which must not choose a network.
GRAIN = 1e-3


def choice_log_likelihoods(
  space: SearchSpace, logits: np.ndarray
) -> list[dict[Choice | None, float]]:
  """Natural log of each candidate's probability under independent gates.

  Gates that a candidate does not depend on (those of a skipped layer, those
  above a closed one) are summed out.

  Args:
    space: the search space.
    logits: [num_gates], log-odds of each gate being open.
  """
  logits = np.asarray(logits, np.float64)
  log_open = -np.logaddexp(0.0, -logits)
  log_closed = -np.logaddexp(0.0, logits)

  def nested(positions):
    """Log-probability of each candidate of a nested set."""
    positions = list(positions)
    opened = np.concatenate([[0.0], np.cumsum(log_open[positions])])
    return opened + np.concatenate([log_closed[positions], [0.0]])

  result: list[dict[Choice | None, float]] = []
  for i, layer in enumerate(space.layers):
    keep = list(space.gate_index[i, 'keep'])
    kept = float(log_open[keep].sum())
    kernel, expansion, squeeze = (
      nested(space.gate_index[i, kind])
      for kind in ('kernel', 'expansion', 'squeeze')
    )
    own: dict[Choice | None, float] = {}
    for k, size in enumerate(layer.kernels):
      for e, ratio in enumerate(layer.expansions):
        for s, squeeze_ratio in enumerate(layer.squeeze_ratios):
          own[Choice(size, ratio, squeeze_ratio)] = float(
            kept + kernel[k] + expansion[e] + squeeze[s]
          )
    if layer.skippable:
      own[None] = float(log_closed[keep].sum())
    result.append(own)
  return result


def choice_costs(
  table: LatencyTable, space: SearchSpace
) -> tuple[float, list[dict[Choice | None, float]]]:
  """(constant ms, ms of each candidate of each layer; a skip costs 0)."""
  constant, costs = table.costs(space)
  result: list[dict[Choice | None, float]] = []
  for i, layer in enumerate(space.layers):
    own: dict[Choice | None, float] = {
      choice: float(
        costs[
          i,
          layer.kernels.index(choice.kernel),
          layer.expansions.index(choice.expansion),
          layer.squeeze_ratios.index(choice.squeeze_ratio),
        ]
      )
      for choice in layer.choices
    }
    if layer.skippable:
      own[None] = 0.0
    result.append(own)
  return constant, result


def choice_bytes(
  table: LatencyTable, space: SearchSpace
) -> tuple[int, list[dict[Choice | None, float]]]:
  """(constant bytes, bytes of each candidate of each layer) of a .tflite file.

  The table must have sizes (`LatencyTable.predict_bytes`).
  """

  def size(choices: Choices) -> int:
    found = table.predict_bytes(space.architecture_of(choices))
    assert found is not None
    return found

  # A layer that cannot be skipped counts from its smallest candidate.
  smallest: Choices = tuple(
    None if layer.skippable else layer.choices[0] for layer in space.layers
  )
  constant = size(smallest)
  result: list[dict[Choice | None, float]] = []
  for i, layer in enumerate(space.layers):
    own: dict[Choice | None, float] = {}
    for choice in layer.candidates:
      changed = (*smallest[:i], choice, *smallest[i + 1 :])
      own[choice] = float(size(changed) - constant)
    result.append(own)
  return constant, result


def project(
  space: SearchSpace,
  table: LatencyTable,
  logits: np.ndarray,
  target_ms: float,
  slack: float,
  max_bytes: float | None = None,
) -> Choices:
  """The likeliest network with target (1 - slack) <= ms <= target.

  Args:
    space: the search space.
    table: latency of its candidates.
    logits: [num_gates] log-odds of the gates.
    target_ms, slack, max_bytes: see `project_likelihoods`.

  Returns:
    One choice per layer. `table.predict` of the network is <= target_ms.
  """
  values = choice_log_likelihoods(space, logits)
  return project_likelihoods(space, table, values, target_ms, slack, max_bytes)


def project_likelihoods(
  space: SearchSpace,
  table: LatencyTable,
  values: list[dict[Choice | None, float]],
  target_ms: float,
  slack: float,
  max_bytes: float | None = None,
) -> Choices:
  """`project` where a layer's candidates have log-likelihoods of their own.

  A second limit, on the size of the file, is a price on bytes (a Lagrange
  multiplier): the smallest price under which the likeliest network is small
  enough, found by bisection. The network meets both limits; one that is a
  little likelier may exist.

  If no network lies in the band, the result is the
  likeliest among the slowest networks that meet the target.

  Args:
    space: the search space.
    table: latency of its candidates.
    values: for each layer, candidate (None = skip) -> log-likelihood.
    target_ms: upper end; not below the fastest network of the space.
    slack: fraction, width of the band.
    max_bytes: largest file; None = any.

  Raises:
    UserError: no network within target_ms is so small.
  """
  if max_bytes is not None:
    return _small_enough(space, table, values, target_ms, slack, max_bytes)
  constant, costs = choice_costs(table, space)
  limit = target_ms
  for _ in range(20):
    found = _knapsack(values, costs, limit - constant, slack * limit)
    # A positional table charges the kept layers of a stage its first rows,
    # which may differ from the rows they came from by a few microseconds.
    over = table.predict(space.architecture_of(found)) - target_ms
    if over <= 1e-9 * target_ms:
      return found
    limit -= over
  return found


# Prices that are tried, each four times the last, and how many refine it.
_PRICES, _REFINED = 20, 8


def _small_enough(
  space: SearchSpace,
  table: LatencyTable,
  values: list[dict[Choice | None, float]],
  target_ms: float,
  slack: float,
  max_bytes: float,
) -> Choices:
  """The likeliest network under the smallest sufficient price of a byte."""
  constant, sizes = choice_bytes(table, space)

  def under(price: float) -> tuple[Choices, float]:
    priced = [
      {c: v - price * size[c] for c, v in own.items()}
      for own, size in zip(values, sizes, strict=True)
    ]
    found = project_likelihoods(space, table, priced, target_ms, slack)
    total = constant + sum(
      size[c] for size, c in zip(sizes, found, strict=True)
    )
    return found, total

  found, total = under(0.0)
  if total <= max_bytes:
    return found
  spread = max(max(own.values()) - min(own.values()) for own in sizes)
  low, high = 0.0, GRAIN / max(spread, 1.0)
  for _ in range(_PRICES):
    found, total = under(high)
    if total <= max_bytes:
      break
    low, high = high, 4 * high
  else:
    raise UserError(
      f'search.max_kb is {max_bytes / 1000:g}, allowed: {total / 1000:.4g} or '
      f'more, the smallest network at {target_ms:.4g} ms'
    )
  for _ in range(_REFINED):
    middle = (low + high) / 2
    other, total = under(middle)
    if total <= max_bytes:
      found, high = other, middle
    else:
      low = middle
  return found


def _knapsack(values, costs, budget: float, slack_ms: float):
  """Exact up to a grid of BINS steps, each state with its true cost.

  Of equally likely networks it is the slowest: the target allows for it.
  """
  width = max(budget, 1e-12) / BINS
  # bin -> (grains, true cost, choices); one state a bin, the likeliest.
  states: dict[int, tuple[int, float, tuple]] = {0: (0, 0.0, ())}
  rest = [min(c.values()) for c in costs]
  for i, (own_values, own_costs) in enumerate(zip(values, costs, strict=True)):
    needed = sum(rest[i + 1 :])
    grains = {choice: round(v / GRAIN) for choice, v in own_values.items()}
    new: dict[int, tuple[int, float, tuple]] = {}
    for value, cost, chosen in states.values():
      for choice, price in own_costs.items():
        total = cost + price
        if total + needed > budget * (1 + 1e-12):
          continue
        state = (value + grains[choice], total, (*chosen, choice))
        bin_ = int(total / width)
        if bin_ not in new or state[:2] > new[bin_][:2]:
          new[bin_] = state
    states = new
  candidates = list(states.values())
  if not candidates:  # The budget is the fastest network's own, to rounding.
    return tuple(min(c, key=c.__getitem__) for c in costs)
  # Equal costs added in another order differ in their last digits.
  same = 1e-9 * budget
  within = [s for s in candidates if s[1] >= budget - slack_ms - same]
  if not within:
    slowest = max(s[1] for s in candidates)
    within = [s for s in candidates if s[1] >= slowest - slack_ms - same]
  return max(within, key=lambda s: s[:2])[2]
