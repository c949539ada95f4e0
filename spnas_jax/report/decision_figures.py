"""Pictures of what decisions were worth and what they cost.

Pure functions, data in, `matplotlib.figure.Figure` out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spnas_jax.report.plot_style import (
  LIGHT,
  SMALL,
  Palette,
  new_figure,
  style,
  title,
)
from spnas_jax.report.units import unit_of

_ROW = 0.24  # Inches.


def worths(rows: Sequence[dict[str, Any]], colours: Palette = LIGHT) -> Figure:
  """What each decision brings for its time, the best bargain first.

  Args:
    rows: 'decisions' of a search: 'layer', 'decision', 'worth' and 'error'
      (nats), 'ms', 'taken'.
    colours: theme.
  """
  scale = max(float(np.median([row['ms'] for row in rows])), 1e-9)
  unit = unit_of([scale])
  drawn = sorted(rows, key=lambda row: -row['worth'] / _price(row, scale))
  figure = new_figure(colours, _ROW * len(drawn) + 0.9)
  ax = figure.subplots()
  style(ax, colours)
  for y, row in enumerate(drawn):
    price = _price(row, scale)
    ax.barh(
      y,
      1000 * row['worth'] / price,
      xerr=1000 * row['error'] / price,
      height=0.7,
      color=colours.blue if row['taken'] else 'none',
      edgecolor=colours.blue if row['taken'] else colours.muted,
      ecolor=colours.ink,
      error_kw={'lw': 1},
      gid='taken' if row['taken'] else 'refused',
    )
  ax.axvline(0, color=colours.muted, lw=0.8)
  names = [f'layer {row["layer"]}: {row["decision"]}' for row in drawn]
  ax.set_yticks(range(len(drawn)), names, fontsize=SMALL)
  ax.set_ylim(len(drawn) - 0.5, -0.5)
  ax.grid(False)
  title(ax, 'Worth for its time', colours)
  ax.set_xlabel(
    'thousandths of a nat, for the time of\nthe median decision '
    f'({unit.per_ms * scale:.3g} {unit.name})',
    color=colours.muted,
  )
  return figure


def _price(row: dict[str, Any], scale: float) -> float:
  """Times the median decision's milliseconds; at least a tenth of them, so that
  one that is nearly free does not squeeze all others flat."""
  return max(row['ms'] / scale, 0.1)
