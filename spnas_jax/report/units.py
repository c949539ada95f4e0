"""The unit of a time: µs below a tenth of a millisecond, as one says it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple


class Unit(NamedTuple):
  """A unit of time.

  Attributes:
    name: 'ms' or 'µs'.
    per_ms: how many make a millisecond.
  """

  name: str
  per_ms: float


MS, US = Unit('ms', 1.0), Unit('µs', 1000.0)
_SMALL_MS = 0.1


def unit_of(times_ms: Iterable[float | None]) -> Unit:
  """The one unit of all times of a picture or a column, by the largest."""
  known = [abs(t) for t in times_ms if t is not None and math.isfinite(t)]
  return US if 0 < max(known, default=0.0) < _SMALL_MS else MS
