"""Is a difference more than chance explains?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

# Two-sided: how often a difference due to chance may be called clear.
LEVEL = 0.05


class Difference(NamedTuple):
  """Of two groups' means.

  Attributes:
    value: second mean minus first, in the unit of the samples.
    standard_error: of `value` if both groups are drawn alike.
    degrees_of_freedom: of the standard error.
  """

  value: float
  standard_error: float
  degrees_of_freedom: int

  @property
  def margin(self) -> float:
    """What |value| exceeds in `LEVEL` of all cases by chance alone."""
    quantile = scipy.stats.t.ppf(1 - LEVEL / 2, self.degrees_of_freedom)
    return float(quantile * self.standard_error)

  @property
  def clear(self) -> bool:
    """Whether it is more than chance explains."""
    return abs(self.value) > self.margin


def difference(
  first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray
) -> Difference | None:
  """Difference of two groups under the hypothesis that both are drawn alike.

  A sample is one network: the mean over its trainings where there are several,
  the same number for all. Networks differ, and so do trainings of one; the
  spread of the samples holds both. A found network is one more draw, so with n
  random and m found ones the standard error is s sqrt(1/n + 1/m), s the spread
  within the groups, pooled: s sqrt(1 + 1/n) for a single one (Student's test).
  Assumes near-normal samples; a network that was found twice counts once.

  Args:
    first: at least one sample.
    second: at least one sample.

  Returns:
    None where no spread is known: fewer than three samples in all, or those of
    a group all alike, as a few accuracies on a small test set may be.
  """
  first, second = np.asarray(first, float), np.asarray(second, float)
  n, m = len(first), len(second)
  freedom = n + m - 2
  if not n or not m or freedom < 1:
    return None
  squares = sum(((x - x.mean()) ** 2).sum() for x in (first, second))
  if not squares:
    return None
  error = math.sqrt(squares / freedom * (1 / n + 1 / m))
  return Difference(float(second.mean() - first.mean()), error, freedom)


def network_means(rows: Iterable[dict[str, Any]], kind: str) -> np.ndarray:
  """Top-1 of the 'found' or 'random' networks, each over its trainings."""
  by_arch: dict[str, list[float]] = {}
  for row in rows:
    if row['kind'] == kind:
      by_arch.setdefault(row['architecture'], []).append(row['top1'])
  return np.array([np.mean(values) for values in by_arch.values()])
