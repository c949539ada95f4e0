"""How well predicted and measured latencies agree, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

# Share of the networks that the band holds.
HELD = 0.95


class Agreement(NamedTuple):
  """Of networks that were predicted and measured.

  Attributes:
    networks: how many they are.
    mean_pct: mean of |predicted / measured - 1|, percent.
    band_pct: what `HELD` of them do not exceed, percent; all of them where they
      are fewer than 20.
    rmse_ms: root mean square of the differences.
    rank: Spearman's correlation; None where it is not defined.
  """

  networks: int
  mean_pct: float
  band_pct: float
  rmse_ms: float
  rank: float | None


def agreement(
  predicted_ms: Sequence[float] | np.ndarray,
  measured_ms: Sequence[float] | np.ndarray,
) -> Agreement:
  """Compares two lists of times, one entry for each network; not empty."""
  predicted = np.asarray(predicted_ms, float)
  measured = np.asarray(measured_ms, float)
  errors = 100 * np.abs(predicted / measured - 1)
  rank = None
  if len({*predicted}) > 1 and len({*measured}) > 1:
    rank = float(stats.spearmanr(predicted, measured).statistic)
  return Agreement(
    len(predicted),
    float(errors.mean()),
    float(np.quantile(errors, HELD, method='higher')),
    float(np.sqrt(np.mean((predicted - measured) ** 2))),
    rank,
  )
