"""Pictures of a run: curves and scatter plots (paper Figs 4, 7, 8).

Pure functions, data in, `matplotlib.figure.Figure` out. `network_figures.py`
draws what the search decided.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from spnas_jax.report.plot_style import (
  LIGHT,
  SMALL,
  TEXT,
  WIDTH,
  Palette,
  new_figure,
  number,
  stacked,
  style,
  title,
)


class Curve(NamedTuple):
  """One scalar over the steps of a run.

  Attributes:
    steps: int64 [n], ascending, each once.
    values: float64 [n].
  """

  steps: np.ndarray
  values: np.ndarray


class Point(NamedTuple):
  """A network in `accuracy_latency`.

  Attributes:
    ms: latency.
    top1: accuracy, a fraction; the mean where it was trained more than once.
  """

  ms: float
  top1: float


# --- curves -------------------------------------------------------------------


def learning(
  curves: dict[str, Curve],
  warmup_steps: int | None = None,
  colours: Palette = LIGHT,
) -> Figure:
  """Cross-entropy and accuracy on training batches over the steps (Fig. 4).

  Args:
    curves: 'cross_entropy' and 'accuracy'; one may be absent.
    warmup_steps: where the warm-up ends; None = there is none.
    colours: theme.
  """
  panels = [
    (key, heading, factor)
    for key, heading, factor in (
      ('cross_entropy', 'Cross-entropy, training batches', 1),
      ('accuracy', 'Accuracy, training batches (%)', 100),
    )
    if key in curves
  ]
  figure, axes = stacked(len(panels), colours)
  for i, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
    key, heading, factor = panel
    curve = curves[key]
    title(ax, heading, colours)
    values = curve.values * factor
    smooth = _smooth(values)
    ax.plot(curve.steps, values, color=colours.blue, lw=0.8, alpha=0.35)
    ax.plot(curve.steps, smooth, color=colours.blue, lw=2)
    _shade_warmup(ax, warmup_steps, curve, colours, label=not i)
    ax.margins(x=0.02)
  axes[-1].set_xlabel('step', color=colours.muted)
  return figure


def runtime(
  curves: dict[str, Curve],
  target_ms: float | None = None,
  warmup_steps: int | None = None,
  colours: Palette = LIGHT,
) -> Figure:
  """Expected runtime and lambda over the steps of a search (Fig. 4 right).

  Args:
    curves: 'runtime_ms' (what the loss saw, with subset dropout),
      'undropped_ms' (without), 'target_ms' (the controller's ramp), 'lambda';
      all but the first may be absent.
    target_ms: where the search was to end; None = a fixed lambda.
    warmup_steps: where the warm-up ends.
    colours: theme.
  """
  figure, axes = stacked(2 if 'lambda' in curves else 1, colours)
  ax, seen = axes[0], curves['runtime_ms']
  title(ax, 'Expected runtime of the supernet (ms)', colours)
  main = curves.get('undropped_ms')
  if main is not None:
    ax.plot(seen.steps, seen.values, color=colours.blue, lw=0.8, alpha=0.45)
  main = seen if main is None else main
  ax.plot(main.steps, main.values, color=colours.blue, lw=2)
  ramp = curves.get('target_ms')
  if ramp is not None:
    ahead = ramp.steps >= (warmup_steps or 0)
    ax.plot(
      ramp.steps[ahead],
      ramp.values[ahead],
      color=colours.orange,
      lw=1.2,
      ls=':',
    )
    _label_ramp(ax, ramp.steps[ahead], ramp.values[ahead], main, colours)
  if target_ms is not None:
    ax.axhline(target_ms, color=colours.orange, lw=1.4, ls='--')
    ax.annotate(
      f'target\n{number(target_ms)}',
      (1, target_ms),
      xycoords=('axes fraction', 'data'),
      xytext=(5, 0),
      textcoords='offset points',
      va='center',
      color=colours.orange,
      fontsize=SMALL,
    )
  _shade_warmup(ax, warmup_steps, seen, colours, label=True)
  if len(axes) > 1:
    below, weight = axes[1], curves['lambda']
    title(below, 'λ, weight of ln R in the loss', colours)
    _shade_warmup(below, warmup_steps, weight, colours, label=False)
    below.axhline(0, color=colours.muted, lw=0.8)
    below.plot(weight.steps, weight.values, color=colours.ink, lw=1.6)
  for ax in axes:
    ax.margins(x=0.02)
  axes[-1].set_xlabel('step', color=colours.muted)
  return figure


def _label_ramp(ax, steps, values, led, colours):
  """Early in its fall, to the right of it and of the curve that follows it."""
  if not len(values) or values[0] <= values[-1]:
    return
  level = values[0] - 0.25 * (values[0] - values[-1])
  right = max(
    _next_below(steps, values, level), _next_below(led.steps, led.values, level)
  )
  # Where there is no room, above the ramp's start at the right end.
  late = right > 0.55 * steps[-1]
  ax.annotate(
    'ramp of the target',
    (1, values[0]) if late else (right, level),
    xycoords=('axes fraction' if late else 'data', 'data'),
    xytext=(-3, 6) if late else (10, 4),
    textcoords='offset points',
    ha='right' if late else 'left',
    color=colours.orange,
    fontsize=SMALL,
  )


def _next_below(steps, values, level):
  """The first step after all values of at least `level`, or the last one."""
  above = np.flatnonzero(values >= level)
  return steps[min(above.max(initial=-1) + 1, len(steps) - 1)]


def _shade_warmup(ax, warmup_steps, curve, colours, label):
  """Marks the steps in which subsets are dropped and R is not in the loss."""
  if not warmup_steps or not len(curve.steps):
    return
  end = min(warmup_steps, int(curve.steps[-1]))
  ax.axvspan(0, end, color=colours.shade, lw=0, zorder=0)
  if label:
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.12 * (high - low))  # Room for the word.
    ax.annotate(
      'warm-up',
      (end / 2, 1),
      xycoords=('data', 'axes fraction'),
      xytext=(0, -5),
      textcoords='offset points',
      ha='center',
      va='top',
      color=colours.muted,
      fontsize=SMALL,
    )


def _smooth(values: np.ndarray) -> np.ndarray:
  """Centred average over a twentieth of the run; gaps stay gaps."""
  window = np.hanning(2 * max(1, len(values) // 20) + 3)
  half = len(window) // 2
  known = np.isfinite(values)

  def blur(x):
    return np.convolve(x, window)[half : half + len(values)]

  with np.errstate(invalid='ignore', divide='ignore'):
    average = blur(np.where(known, values, 0.0)) / blur(known.astype(float))
  return np.where(known, average, np.nan)


# --- scatter plots ------------------------------------------------------------


def predicted_measured(
  predicted_ms: Sequence[float],
  measured_ms: Sequence[float],
  colours: Palette = LIGHT,
) -> Figure:
  """Measured against predicted latency of random networks (Fig. 7)."""
  predicted, measured = np.asarray(predicted_ms), np.asarray(measured_ms)
  figure = new_figure(colours, WIDTH)
  ax = figure.subplots()
  style(ax, colours)
  both = np.concatenate([predicted, measured])
  pad = 0.1 * (np.ptp(both) or both.max() or 1.0)
  low, high = both.min() - pad, both.max() + pad
  ax.plot([low, high], [low, high], color=colours.muted, lw=1)
  ax.plot(
    predicted,
    measured,
    'o',
    color=colours.blue,
    ms=6,
    mec=colours.surface,
    mew=0.8,
  )
  ax.set(xlim=(low, high), ylim=(low, high), aspect='equal')
  ax.annotate(
    'line: predicted = measured',
    (0.98, 0.03),
    xycoords='axes fraction',
    ha='right',
    color=colours.muted,
    fontsize=SMALL,
  )
  error = measured - predicted
  share = 100 * np.mean(np.abs(error) / measured)
  ax.annotate(
    f'{len(error)} networks\nmean error {share:#.2g}%\n'
    f'RMSE {np.sqrt(np.mean(error**2)):#.2g} ms',
    (0.03, 0.97),
    xycoords='axes fraction',
    va='top',
    color=colours.ink,
    fontsize=TEXT,
    linespacing=1.4,
  )
  title(ax, 'Measured (ms)', colours)
  ax.set_xlabel('predicted (ms)', color=colours.muted)
  return figure


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
  )


def _name_points(ax, label, points, colour, size, colours) -> None:
  """Writes the name above the best point."""
  top = max(points, key=lambda p: p.top1)
  ax.annotate(
    label,
    (top.ms, 100 * top.top1),
    xytext=(0, size / 2 + 3),
    textcoords='offset points',
    ha='center',
    color=colour,
    fontsize=SMALL,
    bbox={'facecolor': colours.surface, 'lw': 0, 'pad': 0.5, 'alpha': 0.8},
  )


def accuracy_latency(
  found: Sequence[Point] = (),
  random: Sequence[Point] = (),
  front: Sequence[Point] = (),
  families: Mapping[str, Sequence[Point]] | None = None,
  target_ms: float | None = None,
  heading: str = 'Top-1 accuracy (%)',
  latency: str = 'predicted latency (ms)',
  colours: Palette = LIGHT,
) -> Figure:
  """Top-1 accuracy against latency (Fig. 8).

  Only accuracies measured alike belong in one picture.

  Args:
    found: the network the search found; several widths of it make a line.
    random: random networks at the same latency.
    front: Pareto front of an evolution.
    families: name -> a known network at one or more widths.
    target_ms: the target.
    heading: which accuracy it is.
    latency: which latency it is.
    colours: theme.
  """
  figure = new_figure(colours, 3.7)
  ax = figure.subplots()
  style(ax, colours)
  if target_ms is not None:
    ax.axvline(target_ms, color=colours.orange, lw=1.2, ls='--')
  # Families lie too close together for names beside them.
  groups = [
    (name, points, f'{marker}-', 'purple', 6)
    for (name, points), marker in zip(
      (families or {}).items(), itertools.cycle('s^ovPXDh<')
    )
  ]
  groups += [
    ('Pareto front', front, 'D-', 'green', 5),
    ('random', random, 'o', 'muted', 6),
    ('found', found, '*-', 'blue', 15),
  ]
  for label, points, marker, name, size in groups:
    if points:
      colour = getattr(colours, name)
      _plot_points(ax, label, points, marker, colour, size, colours)
      if not families:
        _name_points(ax, label, points, colour, size, colours)
  ax.margins(x=0.16, y=0.2)
  if families:
    ax.legend(frameon=False, fontsize=SMALL, labelcolor=colours.ink)
  if target_ms is not None:
    ax.annotate(
      f'target {number(target_ms)}',
      (target_ms, 0),
      xycoords=('data', 'axes fraction'),
      xytext=(4, 5),
      textcoords='offset points',
      color=colours.orange,
      fontsize=SMALL,
    )
  title(ax, heading, colours)
  ax.set_xlabel(latency, color=colours.muted)
  return figure
