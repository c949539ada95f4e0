"""Pictures of accuracy against latency (paper Fig. 8).

Pure functions, data in, `matplotlib.figure.Figure` out.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from spnas_jax.report.plot_style import (
  DENSE,
  LIGHT,
  SMALL,
  Palette,
  new_figure,
  number,
  shortened,
  style,
  title,
)
from spnas_jax.report.units import unit_of

# Slowest over fastest network from which latencies are drawn by factors.
_FAR = 5.0
# Inches of a name in the legend, two of which stand side by side.
_NAME = 1.5


class Point(NamedTuple):
  """A network in `accuracy_latency`.

  Attributes:
    ms: latency.
    top1: accuracy, a fraction; the mean where it was trained more than once.
  """

  ms: float
  top1: float


def _plot_points(ax, label, points, marker, colour, size, colours) -> None:
  ordered = sorted(points)
  ax.plot(
    [p.ms for p in ordered],
    [100 * p.top1 for p in ordered],
    marker,
    color=colour,
    ms=size,
    mec=colours.surface,
    mew=0.8,
    lw=1.4,
    label=label,
    zorder=3,
    rasterized=len(points) > DENSE,
  )


def _by_factors(ax) -> None:
  """Equal factors equally far apart, so that the fast do not share one spot."""
  ax.set_xscale('log')
  ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f'{x:g}'))
  ax.xaxis.set_minor_locator(NullLocator())


def accuracy_latency(
  found: Sequence[Point] = (),
  random: Sequence[Point] = (),
  front: Sequence[Point] = (),
  curve: Sequence[Point] = (),
  families: Mapping[str, Sequence[Point]] | None = None,
  target_ms: float | None = None,
  heading: str = 'Top-1 accuracy (%)',
  latency: str = 'predicted latency',
  colours: Palette = LIGHT,
) -> Figure:
  """Top-1 accuracy against latency (Fig. 8).

  Only accuracies measured alike belong in one picture.

  Args:
    found: the network the search found; several widths of it make a line.
    random: random networks at the same latency.
    front: Pareto front of an evolution.
    curve: what one search found for several targets.
    families: name -> a known network at one or more widths.
    target_ms: the target.
    heading: which accuracy it is.
    latency: which latency it is; the unit is added.
    colours: theme.
  """
  families = families or {}
  unit = unit_of(
    itertools.chain(
      [target_ms],
      (
        p.ms
        for group in (found, random, front, curve, *families.values())
        for p in group
      ),
    )
  )
  if target_ms is not None:
    target_ms *= unit.per_ms
  figure = new_figure(colours, 3.7)
  ax = figure.subplots()
  style(ax, colours)
  if target_ms is not None:
    ax.axvline(target_ms, color=colours.orange, lw=1.2, ls='--')
  free = [
    name
    for name, taken in (
      ('purple', ()),
      ('green', front),
      ('blue', found or curve),
      ('orange', target_ms is not None),
    )
    if not taken
  ]
  groups = [
    (name, points, f'{marker}-', colour, 6)
    for (name, points), marker, colour in zip(
      families.items(), itertools.cycle('s^ovPXDh<'), itertools.cycle(free)
    )
  ]
  groups += [
    ('Pareto front', front, 'D-', 'green', 5),
    ('random', random, 'o', 'muted', 6),
    ('curve', curve, 'D-', 'blue', 5),
    ('found', found, '*-', 'blue', 15),
  ]
  for label, points, marker, name, size in groups:
    if points:
      colour = getattr(colours, name)
      points = [p._replace(ms=unit.per_ms * p.ms) for p in points]
      name = shortened(label, _NAME)
      _plot_points(ax, name, points, marker, colour, size, colours)
  drawn = [p.ms for _, points, *_ in groups for p in points if p.ms > 0]
  if drawn and max(drawn) > _FAR * min(drawn):
    _by_factors(ax)
  ax.margins(x=0.16, y=0.2)
  ax.set_ylim(top=min(ax.get_ylim()[1], 101.0))  # More than all is not right.
  # Points lie too close together for names beside them.
  figure.legend(
    loc='outside lower center',
    ncols=2,
    frameon=False,
    fontsize=SMALL,
    labelcolor=colours.ink,
  )
  if target_ms is not None:
    # On the side that has more room.
    low, high = ax.get_xlim()
    logarithmic = ax.get_xscale() == 'log'
    middle = (low * high) ** 0.5 if logarithmic else (low + high) / 2
    right = target_ms > middle
    ax.annotate(
      f'target {number(target_ms)}',
      (target_ms, 0),
      xycoords=('data', 'axes fraction'),
      xytext=(-4 if right else 4, 5),
      textcoords='offset points',
      ha='right' if right else 'left',
      color=colours.orange,
      fontsize=SMALL,
    )
  title(ax, heading, colours)
  ax.set_xlabel(f'{latency} ({unit.name})', color=colours.muted)
  return figure
