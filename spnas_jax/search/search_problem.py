"""What a search has to solve: a space, a latency table, targets that fit."""

from __future__ import annotations

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from spnas_jax.config.rules import SHARED_SUPERNET
from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import curve_name
from spnas_jax.core.errors import UserError
from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.space import Choices, SearchSpace
from spnas_jax.search.projection import project


def load_table(config: ConfigDict) -> LatencyTable:
  """The configured table, checked against the image size.

  Raises:
    UserError: no table is named, or it was measured at another size.
  """
  if not config.latency_table:
    raise UserError(
      "latency_table is '', must be the path of a table; make one with "
      '--stage=build_table'
    )
  table = LatencyTable.load(config.latency_table)
  if table.image_size != config.dataset.image_size:
    raise UserError(
      f'latency_table {config.latency_table!r} was measured at '
      f'{table.image_size} px, dataset.image_size is '
      f'{config.dataset.image_size}; they must be equal'
    )
  return table


@dataclasses.dataclass(frozen=True)
class SearchProblem:
  """What a search has to solve.

  Attributes:
    space: the search space.
    table: latency of its networks.
    target_ms: latency to meet; None under a fixed lambda.
    curve_ms: further targets, ascending.
    max_bytes: largest .tflite file; None = any.
    min_ms, max_ms: of the space's fastest and slowest network.
  """

  space: SearchSpace
  table: LatencyTable
  target_ms: float | None
  min_ms: float
  max_ms: float
  curve_ms: tuple[float, ...] = ()
  max_bytes: float | None = None

  @classmethod
  def of(
    cls, config: ConfigDict, table: LatencyTable | None = None
  ) -> SearchProblem:
    """The problem of a configuration.

    Args:
      config: `space` and `search` are read, and the data set's facts.
      table: None = the configured one.

    Raises:
      UserError: space, table and target do not fit together, or the space has
        one network only, or none of its networks can meet the target, or all
        of them do.
    """
    space, table = make_space(config), table or load_table(config)
    if not space.gates:
      raise UserError(
        f'space.kernels is {tuple(config.space.kernels)}: the space holds one '
        'network only; allowed: several kernels, expansions or layers'
      )
    low, high = table.limits(space)
    target = _target(config, table, low, high)
    curve = _curve(config, table, low, high)
    problem = cls(space, table, target, low, high, curve)
    if not config.search.max_kb:
      return problem
    return dataclasses.replace(problem, max_bytes=_max_bytes(config, problem))

  def project(self, logits: np.ndarray, slack: float) -> Choices:
    """The likeliest network that meets the target, see `projection`; without a
    target the decoded one.

    Args:
      logits: [num_gates] log-odds of the gates.
      slack: fraction.
    """
    if self.target_ms is None:
      return self.space.choices_of((logits >= 0).astype(np.float32))
    return project(
      self.space, self.table, logits, self.target_ms, slack, self.max_bytes
    )


def _target(
  config: ConfigDict, table: LatencyTable, low: float, high: float
) -> float | None:
  """The configured target, ms; None under a fixed lambda."""
  c = config.search
  if c.lambda_ is not None:
    if c.method in SHARED_SUPERNET:
      raise UserError(
        f'search.lambda_ is {c.lambda_}, must be unset for search.method '
        f'{c.method!r}, which needs a target'
      )
    if c.target_ms is not None:
      raise UserError(
        f'search.lambda_ is {c.lambda_} and search.target_ms is {c.target_ms}, '
        'allowed: one of them; a fixed lambda has no target'
      )
    return None
  if c.target_ms is None:
    return low + c.target_fraction * (high - low)
  _check_reach('search.target_ms is', c.target_ms, table, low, high)
  return c.target_ms


def _curve(
  config: ConfigDict, table: LatencyTable, low: float, high: float
) -> tuple[float, ...]:
  """Targets of a curve, ms, ascending."""
  c = config.search
  for target in c.targets_ms:
    _check_reach('search.targets_ms has', target, table, low, high)
  if c.targets_ms:
    named = {curve_name(target): float(target) for target in c.targets_ms}
    return tuple(sorted(named.values()))
  return tuple(
    low + (i + 1) / c.curve_points * (high - low) for i in range(c.curve_points)
  )


def _max_bytes(config: ConfigDict, problem: SearchProblem) -> float:
  """`search.max_kb` in bytes.

  Raises:
    UserError: the table has no sizes, lambda is fixed, or no network that meets
      a target is so small.
  """
  c = config.search
  if problem.table.predict_bytes(problem.space.smallest) is None:
    raise UserError(
      f'search.max_kb is {c.max_kb:g}, but {problem.table.name!r} has no '
      'sizes; make a table that has with --stage=build_table'
    )
  if c.lambda_ is not None:
    raise UserError(
      f'search.max_kb is {c.max_kb:g}, must be 0 with a fixed lambda'
    )
  limit = 1000 * c.max_kb
  indifferent = np.zeros(len(problem.space.gates))
  for target in (problem.target_ms, *problem.curve_ms):
    assert target is not None  # A fixed lambda is refused.
    project(problem.space, problem.table, indifferent, target, c.slack, limit)
  return limit


def _check_reach(
  words: str, target: float, table: LatencyTable, low: float, high: float
) -> None:
  """Raises UserError unless networks of the space can meet the target."""
  if not low <= target <= high:
    raise UserError(
      f'{words} {target:g}, allowed: {low:.4g} to {high:.4g} ms, the fastest '
      f'and the slowest network of the space on {table.name!r}'
      f'{_other_unit(target, low, high)}'
    )


def _other_unit(target: float, low: float, high: float) -> str:
  """Hint where a target would fit the range [ms] in another unit."""
  for unit, ms, table_unit in (
    ('seconds', 1e3, 'microseconds'),
    ('microseconds', 1e-3, 'seconds'),
  ):
    # Twice as wide as the range: a wrong unit may also miss it by a little.
    if low / 2 <= target * ms <= 2 * high:
      return (
        f'; {target:g} looks like {unit}: search.target_ms is in ms (or the '
        f'table, whose times must be in ms, is in {table_unit})'
      )
  return ''
