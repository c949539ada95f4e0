"""How every picture looks: size, colours, axes.

pyplot and its global state are not used. A picture is as wide as a phone's
page, so that its text stays readable there.
"""

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

# Inches. On the narrowest phones (330 CSS px) a picture shrinks to 0.78.
WIDTH = 4.4
# Pixels of a PNG file in an inch.
DPI = 190
# Points or cells beyond which an SVG file holds their pixels: a shape takes 200
# bytes, so more of them are larger than pixels, and slow to draw.
DENSE = 500
# Points; 8 or more after that.
TEXT, SMALL = 11.0, 10.4


@dataclasses.dataclass(frozen=True)
class Palette:
  """Colours of one theme, told apart also by the colour-blind.

  Attributes:
    surface: background.
    ink, muted, grid: text and lines; secondary text; hairlines.
    blue, orange, green, purple: categories.
    shade: a region of the background.
  """

  surface: str
  ink: str
  muted: str
  grid: str
  blue: str
  orange: str
  green: str
  purple: str
  shade: str

  def kernel(self, size: int) -> str:
    """Colour of a kernel size."""
    return getattr(self, kernel_colour(size))

  @property
  def sequential(self) -> LinearSegmentedColormap:
    """From the surface (little) to the strongest blue (much)."""
    strong = 0.5 * (np.array(to_rgb(self.blue)) + np.array(to_rgb(self.ink)))
    stops = [self.surface, self.blue, tuple(strong)]
    return LinearSegmentedColormap.from_list('sequential', stops)

  @property
  def diverging(self) -> LinearSegmentedColormap:
    """From blue (negative) over the surface to orange (positive)."""
    stops = [self.blue, self.surface, self.orange]
    return LinearSegmentedColormap.from_list('diverging', stops)


def kernel_colour(size: int) -> str:
  """Name of a kernel size's colour, for captions."""
  return {3: 'blue', 5: 'orange', 7: 'purple'}.get(size, 'green')


LIGHT = Palette(
  surface='#ffffff',
  ink='#1b2127',
  muted='#59636e',
  grid='#dfe3e8',
  blue='#0072b2',
  orange='#c75300',
  green='#00795a',
  purple='#8526cc',
  shade='#f1f3f5',
)
DARK = Palette(
  surface='#181c21',
  ink='#e9ecef',
  muted='#a3adb8',
  grid='#343b43',
  blue='#5ab4ec',
  orange='#f2994a',
  green='#3fc39b',
  purple='#b46aef',
  shade='#22282f',
)


def number(value: float) -> str:
  """Four significant digits, trailing zeros kept: 27.00, 0.4831."""
  return f'{value:,.0f}' if abs(value) >= 1e4 else f'{value:#.4g}'.rstrip('.')


def decimals(total: float) -> int:
  """Decimal places that give a total four significant digits.

  Its parts are written with as many, so that they line up and add up.
  """
  return max(0, 3 - math.floor(math.log10(total))) if total > 0 else 0


def png(figure: Figure, dpi: int = DPI) -> bytes:
  """The picture as PNG bytes, without a date or version in them."""
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=dpi, metadata={'Software': None})
  return buffer.getvalue()


def svg(figure: Figure, dpi: int = DPI) -> bytes:
  """The picture as SVG, the same bytes for the same data.

  Letters are outlines: they look right where the font is not installed.

  Args:
    figure: the picture.
    dpi: pixels an inch of what is `rasterized` in it.
  """
  buffer = io.BytesIO()
  with rc_context({'svg.fonttype': 'path', 'svg.hashsalt': 'spnas_jax'}):
    nothing = dict.fromkeys(('Date', 'Creator'))
    figure.savefig(buffer, format='svg', dpi=dpi, metadata=nothing)
  return buffer.getvalue()


def new_figure(colours: Palette, height: float) -> Figure:
  """An empty picture that finds its own margins; `height` in inches."""
  return Figure(
    (WIDTH, height), facecolor=colours.surface, layout='constrained'
  )


def place(
  figure: Figure, left: float, top: float, width: float, height: float
) -> Axes:
  """Axes at inches from the figure's left and upper edge."""
  w, h = figure.get_size_inches()
  return figure.add_axes(
    (left / w, 1 - (top + height) / h, width / w, height / h)
  )


def stacked(count: int, colours: Palette) -> tuple[Figure, list[Axes]]:
  """One or two panels over a common x axis; the first is the taller."""
  heights = [1.7, 1.0][:count]
  figure = new_figure(colours, 0.7 + 1.5 * sum(heights))
  axes = figure.subplots(
    count, 1, sharex=True, squeeze=False, height_ratios=heights
  )[:, 0]
  for ax in axes:
    style(ax, colours)
  return figure, list(axes)


def style(ax: Axes, colours: Palette) -> None:
  """Quiet axes: a base line, hairlines to read heights from."""
  ax.set_facecolor(colours.surface)
  for side, spine in ax.spines.items():
    spine.set_visible(side == 'bottom')
    spine.set_color(colours.muted)
  ax.grid(True, axis='y', color=colours.grid, lw=0.8)
  ax.set_axisbelow(True)
  ax.tick_params(colors=colours.muted, labelsize=SMALL, length=3)
  ax.tick_params(axis='y', length=0)
  ax.xaxis.label.set_fontsize(SMALL)
  ax.xaxis.set_major_locator(MaxNLocator(5))
  ax.yaxis.set_major_locator(MaxNLocator(5))


def style_bar(bar, colours: Palette, label: str) -> None:
  """The same for a colour bar."""
  bar.outline.set_visible(False)
  bar.ax.tick_params(colors=colours.muted, labelsize=SMALL, length=3)
  bar.set_label(label, color=colours.muted, fontsize=SMALL)


def title(ax: Axes, text: str, colours: Palette) -> None:
  """Says what the vertical axis shows, where it can be read upright."""
  ax.set_title(text, loc='left', color=colours.ink, fontsize=TEXT)


def shortened(text: str, width: float) -> str:
  """A text that is at most `width` inches wide, with … in its middle.

  Names of classes often differ at their end only.
  """
  if inches(text) <= width:
    return text
  # The narrowest letters are wider than a fortieth of an inch.
  for kept in range(min(len(text) - 1, round(40 * width)), 1, -1):
    short = f'{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}'
    if inches(short) <= width:
      return short
  return '…'


def inches(text: str) -> float:
  """Width of a small text."""
  font = FontProperties(size=SMALL)
  width, _, _ = text_to_path.get_text_width_height_descent(
    text, font, ismath=False
  )
  return width / 72
