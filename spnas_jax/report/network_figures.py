"""Pictures of what a search decided: layers, times, superkernels, gates.

Pure functions, data in, `matplotlib.figure.Figure` out (paper Figs 5 and 6).
Grids of panels are laid out by hand: the automatic layout is slow on them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from spnas_jax.report.plot_style import (
  DENSE,
  LIGHT,
  SMALL,
  WIDTH,
  Palette,
  decimals,
  new_figure,
  number,
  place,
  style,
  style_bar,
  title,
)
from spnas_jax.report.units import Unit, unit_of

# Inches: height of a row of `network` and `layer_times`, and where its columns
# are.
_ROW = 0.27
_NAME_LEFT, _BLOCK_CENTRE, _BLOCK_WIDTH, _SHAPE_LEFT = 0.38, 2.06, 0.94, 2.64
# Most superkernels side by side, and the height of one with its title.
_COLUMNS, _CELL = 5, 1.12
# Between panels of gates, with the title.
_GAP = 0.38


class NetworkRow(NamedTuple):
  """One part of a network, from the image to the classifier.

  Attributes:
    name: as in 'MBConv 5x5-6'.
    shape: height x width x channels of its output.
    kernel: depthwise kernel size; 0 = not a block.
    expansion: of a block.
    ms: predicted time; None = not known.
    skipped: the search left this layer out.
    layer: index in the space; None = a part that was not searched.
  """

  name: str
  shape: str
  kernel: int = 0
  expansion: int = 0
  ms: float | None = None
  skipped: bool = False
  layer: int | None = None


class PartTime(NamedTuple):
  """Time that one part of a network takes.

  Attributes:
    name: as in '5x5-6'.
    ms: predicted; 0 for a skipped layer.
    slowest_ms: of the layer's slowest candidate; None = nothing to choose.
    kernel: depthwise kernel size, sets the colour; 0 = not a searched block.
    measured_ms: inside the whole network; None = not known.
  """

  name: str
  ms: float
  slowest_ms: float | None = None
  kernel: int = 0
  measured_ms: float | None = None


class Superkernel(NamedTuple):
  """The weights of one searchable layer after the search.

  Attributes:
    weights: [K, K, 1, C].
    layer: index in the space.
    stage: layers of one stage stand in one row.
    kernel: the size that was chosen; 0 = the layer was skipped.
    name: what was chosen, as in '5x5-6'.
  """

  weights: np.ndarray
  layer: int
  stage: int
  kernel: int
  name: str


class GateRow(NamedTuple):
  """Which gate a row of `gate_history` is: its layer and what it admits."""

  layer: int
  group: str


def network(rows: Sequence[NetworkRow], colours: Palette = LIGHT) -> Figure:
  """A network drawn layer by layer, from the image down (Fig. 5).

  A block's width is its expansion ratio, its height and colour its kernel size;
  a skipped layer is a faint outline.
  """
  height = _ROW * (len(rows) + 1.3)
  figure = Figure((WIDTH, height), facecolor=colours.surface)
  ax = figure.add_axes((0, 0, 1, 1))
  ax.set(xlim=(0, WIDTH), ylim=(height, 0))
  ax.set_axis_off()
  right = WIDTH - 0.08
  widest = max([row.expansion for row in rows] + [1])
  tallest = max([row.kernel for row in rows] + [1])

  def write(x, y, text, colour=colours.ink, **kwargs):
    kwargs = {'fontsize': SMALL, 'va': 'center', 'color': colour, **kwargs}
    ax.text(x, y, text, **kwargs)

  unit = unit_of(row.ms for row in rows)
  total = unit.per_ms * sum(row.ms or 0.0 for row in rows)
  places = decimals(total)
  for x, text, side in (
    (_NAME_LEFT, 'operation', 'left'),
    (_SHAPE_LEFT, 'output', 'left'),
    (right, unit.name if total else '', 'right'),
  ):
    write(x, 0.5 * _ROW, text, colours.muted, ha=side)
  middle = [(i + 1.5) * _ROW for i in range(len(rows))]
  if rows:
    ax.plot(
      [_BLOCK_CENTRE] * 2,
      [middle[0], middle[-1]],
      color=colours.muted,
      lw=1,
      zorder=0,
    )
  for y, row in zip(middle, rows, strict=True):
    width = _BLOCK_WIDTH * (row.expansion / widest if row.kernel else 1)
    tall = 0.84 * _ROW * (row.kernel / tallest if row.kernel else 0.6)
    fill = colours.muted if row.layer is None else colours.kernel(row.kernel)
    ax.add_patch(
      Rectangle(
        (_BLOCK_CENTRE - width / 2, y - tall / 2),
        width,
        tall,
        facecolor=colours.surface if row.skipped else fill,
        edgecolor=colours.muted if row.skipped else fill,
        ls=':' if row.skipped else '-',
        lw=0.9,
        gid='skipped' if row.skipped else 'block',
      )
    )
    colour = colours.muted if row.skipped else colours.ink
    write(_NAME_LEFT, y, row.name, colour)
    if row.layer is not None:
      write(0.28, y, str(row.layer), colours.muted, ha='right')
    write(_SHAPE_LEFT, y, row.shape, colours.muted)
    if row.ms is not None:
      write(right, y, f'{unit.per_ms * row.ms:.{places}f}', ha='right')
  return figure


def layer_times(parts: Sequence[PartTime], colours: Palette = LIGHT) -> Figure:
  """Predicted time of a network's parts; dotted: the slowest candidate's."""
  figure = new_figure(colours, _ROW * len(parts) + 0.75)
  ax = figure.subplots()
  style(ax, colours)
  # That of `network`, which stands beside it.
  unit = unit_of(part.ms for part in parts)
  parts = [_in_unit(part, unit) for part in parts]
  total = sum(part.ms for part in parts)
  places = decimals(total)
  for y, part in enumerate(parts):
    colour = colours.kernel(part.kernel) if part.kernel else colours.muted
    if part.slowest_ms is not None:
      ax.barh(
        y,
        part.slowest_ms,
        height=0.7,
        facecolor='none',
        edgecolor=colours.muted,
        lw=0.8,
        ls=':',
      )
    ax.barh(y, part.ms, height=0.7, color=colour)
    if part.measured_ms is not None:
      ax.plot(
        [part.measured_ms] * 2,
        [y - 0.45, y + 0.45],
        color=colours.ink,
        lw=2.2,
        gid='measured',
      )
    ax.annotate(
      f'{part.ms:.{places}f}' if part.ms else '',
      (max(part.ms, part.slowest_ms or 0, part.measured_ms or 0), y),
      xytext=(4, 0),
      textcoords='offset points',
      va='center',
      color=colours.ink,
      fontsize=SMALL,
    )
  ax.set_yticks(range(len(parts)), [part.name for part in parts])
  ax.set_ylim(len(parts) - 0.5, -0.5)
  ax.grid(False)
  ends = [max(p.ms, p.slowest_ms or 0, p.measured_ms or 0) for p in parts]
  ax.set_xlim(0, 1.25 * max([*ends, 1e-9]))
  title(ax, f'Predicted time ({unit.name})', colours)
  ax.set_xlabel(f'total {number(total)} {unit.name}', color=colours.muted)
  return figure


def _in_unit(part: PartTime, unit: Unit) -> PartTime:
  """With all its times in a unit."""

  def of(ms: float | None) -> float | None:
    return None if ms is None else unit.per_ms * ms

  return part._replace(
    ms=unit.per_ms * part.ms,
    slowest_ms=of(part.slowest_ms),
    measured_ms=of(part.measured_ms),
  )


def superkernels(
  kernels: Sequence[Superkernel], colours: Palette = LIGHT
) -> Figure:
  """Standard deviation over the channels of each superkernel, log (Fig. 6).

  An outline marks the chosen kernel; a row holds the layers of one stage.
  """
  lines: list[list[Superkernel]] = []
  for kernel in kernels:
    same = lines and lines[-1][0].stage == kernel.stage
    if same and len(lines[-1]) < _COLUMNS:
      lines[-1].append(kernel)
    else:
      lines.append([kernel])
  columns = max(len(line) for line in lines)
  height = _CELL * len(lines) + 0.75
  figure = Figure((WIDTH, height), facecolor=colours.surface)
  spread = [k.weights.std(axis=(2, 3)) for k in kernels]
  positive = np.concatenate([s[s > 0] for s in spread])
  low = positive.min() if len(positive) else 1.0
  high = positive.max() if len(positive) else 1.0
  high = max(high, 1.01 * low)
  norm = LogNorm(low, high)
  images = iter(spread)
  pitch = min(WIDTH / columns, 1.4 * _CELL)
  left = (WIDTH - pitch * columns) / 2
  side = 0.62 * _CELL
  for i, line in enumerate(lines):
    for j, kernel in enumerate(line):
      x = left + pitch * j + (pitch - side) / 2
      ax = place(figure, x, 0.45 + _CELL * i, side, side)
      _superkernel(ax, kernel, np.maximum(next(images), low), norm, colours)
  ax = place(figure, 0.3, height - 0.62, WIDTH - 0.6, 0.12)
  bar = figure.colorbar(
    ScalarMappable(norm, colours.sequential), cax=ax, orientation='horizontal'
  )
  style_bar(bar, colours, 'standard deviation over channels (log scale)')
  # Plain numbers: the exponents of powers of ten are too small on a phone.
  decades = math.log10(high / low)
  ax.xaxis.set_major_locator(
    MaxNLocator(4)
    if decades < 1
    else LogLocator(subs=(1,) if decades > 3 else (1, 3), numticks=30)
  )
  ax.xaxis.set_major_formatter('{x:g}')
  ax.xaxis.set_minor_locator(NullLocator())
  return figure


def _superkernel(ax, kernel, values, norm, colours):
  """One heat map [K, K] with its choice."""
  ax.imshow(values, cmap=colours.sequential, norm=norm)
  ax.set_axis_off()
  ax.set_title(
    f'layer {kernel.layer}\n{kernel.name}',
    color=colours.ink if kernel.kernel else colours.muted,
    fontsize=SMALL,
    pad=3,
  )
  if kernel.kernel:
    margin = (len(values) - kernel.kernel) / 2 - 0.5
    ax.add_patch(
      Rectangle(
        (margin, margin),
        kernel.kernel,
        kernel.kernel,
        fill=False,
        edgecolor=colours.orange,
        lw=2,
        clip_on=False,
        gid='chosen',
      )
    )


def gate_history(
  steps: np.ndarray,
  logits: np.ndarray,
  rows: Sequence[GateRow],
  warmup_steps: int | None = None,
  colours: Palette = LIGHT,
) -> Figure:
  """Log-odds of every gate over the steps, one panel for each kind of gate.

  Args:
    steps: [T].
    logits: [T, G].
    rows: G of them, what each gate admits.
    warmup_steps: where the warm-up ends; gates are drawn at random until then.
    colours: theme.
  """
  groups: dict[str, list[int]] = {}
  for position, row in enumerate(rows):
    groups.setdefault(row.group, []).append(position)
  pitch, crowded = (0.17, 1) if len(rows) <= 30 else (0.125, 2)
  heights = [max(0.3, pitch * len(own)) for own in groups.values()]
  height = sum(heights) + _GAP * len(heights) + 1.05
  figure = Figure((WIDTH, height), facecolor=colours.surface)
  limit = float(np.nanmax(np.abs(logits), initial=1e-6))
  edges = np.concatenate([[0], steps])
  top = 0.0
  for (group, own), tall in zip(groups.items(), heights, strict=True):
    ax = place(figure, 0.82, top + _GAP, WIDTH - 1.12, tall)
    top += _GAP + tall
    style(ax, colours)
    title(ax, group, colours)
    mesh = ax.pcolormesh(
      edges,
      np.arange(len(own) + 1),
      logits[:, own].T,
      cmap=colours.diverging,
      vmin=-limit,
      vmax=limit,
      rasterized=logits.size > DENSE,
    )
    ax.set_ylim(len(own), 0)
    # As many names as there is room for, ten at most.
    shown = range(0, len(own), max(-(-len(own) // 10), crowded))
    ax.set_yticks(
      [i + 0.5 for i in shown], [f'layer {rows[own[i]].layer}' for i in shown]
    )
    ax.tick_params(axis='x', labelbottom=group == [*groups][-1])
    ax.grid(False)
    if warmup_steps:
      ax.axvline(warmup_steps, color=colours.ink, lw=0.8, ls=':')
  ax.set_xlabel('step', color=colours.muted)
  bar = figure.colorbar(
    mesh,
    cax=place(figure, 0.82, height - 0.58, WIDTH - 1.12, 0.1),
    orientation='horizontal',
  )
  style_bar(bar, colours, 'log-odds of the gate: blue closed, orange open')
  return figure
