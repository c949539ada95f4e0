"""Pictures of a run: curves, and predictions beside measurements (paper Figs 4
and 7).

Pure functions, data in, `matplotlib.figure.Figure` out. `network_figures.py`
draws what the search decided, `accuracy_figures.py` how good networks are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from spnas_jax.report.agreement import Agreement, agreement
from spnas_jax.report.plot_style import (
  DENSE,
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
from spnas_jax.report.units import Unit, unit_of


class Curve(NamedTuple):
  """One scalar over the steps of a run.

  Attributes:
    steps: int64 [n], ascending, each once.
    values: float64 [n].
  """

  steps: np.ndarray
  values: np.ndarray


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
  times = ('runtime_ms', 'undropped_ms', 'target_ms')
  known = [curves[key].values for key in times if key in curves]
  unit = unit_of(itertools.chain([target_ms], *known))
  curves = {
    key: curve._replace(values=unit.per_ms * curve.values)
    if key in times
    else curve
    for key, curve in curves.items()
  }
  if target_ms is not None:
    target_ms *= unit.per_ms
  figure, axes = stacked(2 if 'lambda' in curves else 1, colours)
  ax, seen = axes[0], curves['runtime_ms']
  title(ax, f'Expected runtime of the supernet ({unit.name})', colours)
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
  # Where there is no room, above the ramp's start at the right end, narrow: a
  # curve that overshoots falls there.
  late = right > 0.55 * steps[-1]
  ax.annotate(
    'ramp of\nthe target' if late else 'ramp of the target',
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


# --- predicted against measured -----------------------------------------------

Pair = tuple[float, float]


def predicted_measured(
  predicted_ms: Sequence[float],
  measured_ms: Sequence[float],
  colours: Palette = LIGHT,
  calibration: Sequence[Pair] = (),
  found: Pair | None = None,
) -> Figure:
  """Measured against predicted latency (Fig. 7), with how far they agree.

  Args:
    predicted_ms, measured_ms: networks that the table has not seen.
    colours: theme.
    calibration: (predicted, measured) ms of networks that it was fitted to; the
      numbers are theirs where there are no others.
    found: the same of the network of this run.
  """
  unseen = list(zip(predicted_ms, measured_ms, strict=True))
  every = [*unseen, *calibration, *([found] if found else ())]
  judged = unseen or list(calibration) or every
  unit = unit_of(time for pair in every for time in pair)
  figure = new_figure(colours, WIDTH)
  ax = figure.subplots()
  style(ax, colours)
  both = unit.per_ms * np.asarray(every, float)
  pad = 0.1 * (np.ptp(both) or both.max() or 1.0)
  low, high = both.min() - pad, both.max() + pad
  ax.plot([low, high], [low, high], color=colours.muted, lw=1)
  judgement = agreement(*zip(*judged, strict=True))
  _band(ax, low, high, judgement, colours)
  for pairs, marker, size, own in (
    (calibration, 'o', 6, {'mfc': 'none', 'color': colours.green, 'mew': 1.4}),
    (unseen, 'o', 6, {'color': colours.blue, 'mec': colours.surface}),
    ([found] if found else [], '*', 15, {'color': colours.orange}),
  ):
    if pairs:
      x, y = unit.per_ms * np.asarray(pairs, float).T
      ax.plot(x, y, marker, ms=size, rasterized=len(x) > DENSE, **own)
  ax.set(xlim=(low, high), ylim=(low, high), aspect='equal')
  ax.annotate(
    _agreement_words(judgement, unit),
    (0.03, 0.97),
    xycoords='axes fraction',
    va='top',
    color=colours.ink,
    fontsize=TEXT,
    linespacing=1.4,
    bbox={'facecolor': colours.surface, 'lw': 0, 'pad': 1},
  )
  title(ax, f'Measured ({unit.name})', colours)
  ax.set_xlabel(f'predicted ({unit.name})', color=colours.muted)
  return figure


def _band(ax, low, high, judgement, colours):
  """Where a prediction is off by no more than the band's percents."""
  off = min(judgement.band_pct / 100, 0.95)
  x = np.array([low, high])
  ax.fill_between(x, x / (1 + off), x / (1 - off), color=colours.shade, lw=0)
  words = 'line: predicted = measured'
  if judgement.networks > 1:
    words += f'\nband: ± {judgement.band_pct:#.2g}%'
  ax.annotate(
    words,
    (0.98, 0.03),
    xycoords='axes fraction',
    ha='right',
    color=colours.muted,
    fontsize=SMALL,
    bbox={'facecolor': colours.surface, 'lw': 0, 'pad': 1},
  )


def _agreement_words(judgement: Agreement, unit: Unit) -> str:
  """A line for each number."""
  if judgement.networks == 1:
    return f'1 network\nerror {judgement.mean_pct:#.2g}%'
  words = (
    f'{judgement.networks} networks\nmean error {judgement.mean_pct:#.2g}%\n'
    f'RMSE {unit.per_ms * judgement.rmse_ms:#.2g} {unit.name}'
  )
  if judgement.rank is not None:
    words += f'\nrank correlation {judgement.rank:.3f}'
  return words
