"""Pictures of where a network errs: classes taken for others, worst mistakes.

Pure functions, data in, `matplotlib.figure.Figure` out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spnas_jax.report.plot_style import (
  LIGHT,
  SMALL,
  TEXT,
  WIDTH,
  Palette,
  inches,
  new_figure,
  place,
  shortened,
  style,
  title,
)

# Inches: around a picture, between two lines of text, the longest name of a
# class, and the least width of a cell that holds three digits.
_MARGIN, _LINE, _NAME, _CELL = 0.08, 0.19, 1.2, 0.3
# Thumbnails side by side, and the side of one.
_COLUMNS, _THUMBNAIL = 4, 0.97


class Mistake(NamedTuple):
  """A wrong answer.

  Attributes:
    image: uint8 [h, w, 1 or 3].
    true, predicted: names of classes.
    confidence: of the answer, a fraction.
  """

  image: np.ndarray
  true: str
  predicted: str
  confidence: float


def confusion(
  counts: np.ndarray, names: Sequence[str], colours: Palette = LIGHT
) -> Figure:
  """How often each class is taken for each other one, as a heat map.

  A right answer is the bluer, a wrong one the more orange the larger its share
  of the row. Wrong ones, which are rare, are made stronger than their share.
  The picture is wider than `WIDTH` where the cells would not hold their numbers
  otherwise.

  Args:
    counts: [classes, classes] images by true class (row) and answer.
    names: of the classes.
    colours: theme.
  """
  n = len(counts)
  short = [shortened(name, _NAME) for name in names]
  longest = max(map(inches, short))
  left = _MARGIN + longest + 0.08
  cell = float(np.clip((WIDTH - left - _MARGIN) / n, _CELL, 1.0))
  tall = min(cell, 0.32 if cell > _CELL else 0.25)
  upright = longest > cell - 0.05
  top = _MARGIN + 0.3 + (longest if upright else _LINE)
  figure = Figure(
    (max(WIDTH, left + n * cell + _MARGIN), top + n * tall + _MARGIN),
    facecolor=colours.surface,
  )
  ax = place(figure, left, top, n * cell, n * tall)
  ax.set_axis_off()
  exact = inches(f'{counts.max()}') < cell - 0.03
  _cells(ax, counts, exact, colours)
  letters: dict[str, Any] = {
    'color': colours.ink,
    'fontsize': SMALL,
    'parse_math': False,
  }
  x, y = -0.5 - 0.06 / cell, -0.5 - 0.05 / tall
  turned = 90 if upright else 0
  for i, name in enumerate(short):
    ax.text(x, i, name, ha='right', va='center_baseline', **letters)
    ax.text(i, y, name, ha='center', va='bottom', rotation=turned, **letters)
  unit = 'images' if exact else '% of the row'
  figure.text(
    _MARGIN / figure.get_figwidth(),
    1 - _MARGIN / figure.get_figheight(),
    f'True class (row), answer (column), {unit}',
    va='top',
    color=colours.ink,
    fontsize=TEXT,
  )
  return figure


def confusion_map(counts: np.ndarray, colours: Palette = LIGHT) -> Figure:
  """The same without names and numbers, for more classes than have room."""
  figure = new_figure(colours, WIDTH)
  ax = figure.subplots()
  style(ax, colours)
  ax.imshow(_fills(counts, colours), interpolation='nearest')
  ax.grid(False)
  for axis in (ax.xaxis, ax.yaxis):
    axis.set_major_locator(MaxNLocator(5, integer=True))
  title(ax, 'True class, by its number', colours)
  ax.set_xlabel('answer', color=colours.muted)
  return figure


def _fills(counts: np.ndarray, colours: Palette) -> np.ndarray:
  """RGBA [classes, classes, 4]: right blue, wrong orange, by share of the row.

  Wrong ones, which are rare, are made stronger than their share.
  """
  share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  diagonal = np.eye(len(counts), dtype=bool)
  return colours.diverging((np.where(diagonal, -share, share**0.4) + 1) / 2)


def _cells(ax: Axes, counts: np.ndarray, exact: bool, colours: Palette) -> None:
  """Colours and numbers; `exact` ones are counts, the others percentages."""
  share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  fills = _fills(counts, colours)
  ax.imshow(fills, aspect='auto', interpolation='nearest')
  for i, j in np.argwhere(counts):
    ax.text(
      j,
      i,
      f'{counts[i, j]}' if exact else _whole_percent(share[i, j]),
      ha='center',
      va='center_baseline',
      color=_readable(fills[i, j], colours),
      fontsize=SMALL,
      gid='count',
    )


def _whole_percent(share: float) -> str:
  return '<1' if share < 0.01 else f'{100 * share:.0f}'


def _readable(fill: np.ndarray, colours: Palette) -> str:
  """The theme's text or background colour, whichever stands out more."""
  own = _luminance(fill[:3])

  def contrast(name: str) -> float:
    pair = own, _luminance(np.array(to_rgb(name)))
    return (max(pair) + 0.05) / (min(pair) + 0.05)

  return max((colours.ink, colours.surface), key=contrast)


def _luminance(rgb: np.ndarray) -> float:
  """As WCAG defines it, 0 to 1."""
  linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
  return float(linear @ [0.2126, 0.7152, 0.0722])


def mistakes(rows: Sequence[Mistake], colours: Palette = LIGHT) -> Figure:
  """Images with their class, what they were taken for, and how surely."""
  lines = -(-len(rows) // _COLUMNS)
  pitch = (WIDTH - 2 * _MARGIN) / _COLUMNS
  pitch_down = _THUMBNAIL + 3 * _LINE + 0.16
  height = 2 * _MARGIN + lines * pitch_down - 0.1
  figure = Figure((WIDTH, height), facecolor=colours.surface)
  for i, row in enumerate(rows):
    down, across = divmod(i, _COLUMNS)
    x, y = _MARGIN + pitch * across, _MARGIN + pitch_down * down
    ax = place(figure, x, y, _THUMBNAIL, _THUMBNAIL)
    image = row.image[..., 0] if row.image.shape[-1] == 1 else row.image
    ax.imshow(image, cmap='gray', vmin=0, vmax=255)
    ax.set(xticks=(), yticks=())
    for spine in ax.spines.values():
      spine.set_color(colours.grid)
    room = pitch - 0.06
    for line, (text, colour) in enumerate(
      (
        (shortened(row.true, room), colours.ink),
        (f'→ {shortened(row.predicted, room - 0.2)}', colours.orange),
        (f'{100 * row.confidence:.1f}%', colours.muted),
      )
    ):
      figure.text(
        x / WIDTH,
        1 - (y + _THUMBNAIL + 0.04 + line * _LINE) / height,
        text,
        va='top',
        color=colour,
        fontsize=SMALL,
        parse_math=False,
      )
  return figure
