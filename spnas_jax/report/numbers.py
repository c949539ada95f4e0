"""The report's numbers: how they are written and what each of them means."""

from __future__ import annotations

import math
from collections.abc import Callable

from spnas_jax.report.findings import Findings
from spnas_jax.report.page import Table
from spnas_jax.report.plot_style import number
from spnas_jax.report.units import unit_of

# --- formats ------------------------------------------------------------------


def ms(value: float) -> str:
  """Milliseconds in the unit that one says: µs below a tenth of one."""
  unit = unit_of([value])
  return f'{number(unit.per_ms * value)} {unit.name}'


def percent(value: float) -> str:
  return f'{value:.2f}%'


def fraction(value: float) -> str:
  return percent(100 * value)


def count(value: float) -> str:
  return f'{value:,.0f}' if float(value).is_integer() else f'{value:,.3g}'


def plain(value: float) -> str:
  return f'{value:.3g}'


def size(value: float) -> str:
  """Bytes as kB, MB or GB (powers of ten)."""
  for unit, factor in (('GB', 1e9), ('MB', 1e6)):
    if value >= factor:
      return f'{value / factor:.2f} {unit}'
  return f'{value / 1e3:.1f} kB'


def duration(seconds: float) -> str:
  if seconds < 60:
    return f'{seconds:.3g} s'
  minutes, left = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours} h {minutes:02d} min' if hours else f'{minutes} min {left} s'


def equal(value: float, reference: float) -> bool:
  """Whether their difference would print as 0.0%."""
  return abs(value / reference - 1) < 5e-4


def relative(value: float, reference: float) -> str:
  """'2.1% below'; 'equal to' where the difference would print as 0.0%."""
  off = 100 * (value / reference - 1)
  if equal(value, reference):
    return 'equal to'
  return f'{abs(off):.1f}% {"above" if off > 0 else "below"}'


def interval(share: float, total: int) -> tuple[float, float]:
  """95% interval of a fraction counted over `total` images (Wilson)."""
  z = 1.96
  centre = (share + z * z / (2 * total)) / (1 + z * z / total)
  half = math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
  half *= z / (1 + z * z / total)
  return centre - half, centre + half


# --- numbers with their meaning -----------------------------------------------

Format = Callable[[float], str]
_NUMBERS: tuple[tuple[str, str, str, Format, str], ...] = (
  ('search', 'target_ms', 'Target', ms, 'Latency that was asked for.'),
  (
    'search',
    'predicted_ms',
    'Predicted',
    ms,
    "Sum of the found network's operations in the latency table.",
  ),
  (
    'search',
    'raw_decode_ms',
    'Before projection',
    ms,
    'Predicted latency of what the gates alone decided.',
  ),
  (
    'search',
    'expected_ms',
    'E[R] at the end',
    ms,
    "Mean latency under the gates' probabilities, what the loss saw.",
  ),
  (
    'search',
    'projected_layers',
    'Layers changed by projection',
    count,
    'Decisions changed to meet the target; 0 is best.',
  ),
  (
    'search',
    'undecided_gates',
    'Undecided gates',
    count,
    'Decisions that were still near a coin toss at the end; 0 is best.',
  ),
  ('search', 'num_gates', 'Gates', count, 'Yes-or-no decisions of the space.'),
  ('search', 'min_ms', 'Fastest network', ms, 'Of the whole search space.'),
  ('search', 'max_ms', 'Slowest network', ms, 'Of the whole search space.'),
  (
    'search',
    'supernet_top1',
    'Top-1 in the supernet',
    fraction,
    'With shared weights, before training on its own.',
  ),
  (
    'search',
    'final_lambda',
    'λ at the end',
    plain,
    'Weight of ln R in the loss that the target needed.',
  ),
  (
    'search',
    'cost_epochs',
    'Search cost in epochs',
    count,
    'Passes over the training images; the paper needed 8 on ImageNet.',
  ),
  (
    'search',
    'seconds',
    'Search time',
    duration,
    'Wall-clock time, of all parts of a search that was interrupted.',
  ),
  ('train', 'steps', 'Training steps', count, 'Of the final training.'),
  (
    'evaluate',
    'top1',
    'Top-1 accuracy',
    fraction,
    'Share of images whose likeliest class is right.',
  ),
  (
    'evaluate',
    'macro_accuracy',
    'Macro accuracy',
    fraction,
    'Mean over the classes of the share of their images that is recognised.',
  ),
  (
    'evaluate',
    'top5',
    'Top-5 accuracy',
    fraction,
    'Share of images with the right class among the five likeliest.',
  ),
  ('evaluate', 'num_examples', 'Images scored', count, 'Each once.'),
  (
    'export',
    'max_abs_diff',
    'TFLite against JAX',
    plain,
    'Largest difference of any logit, float32.',
  ),
  (
    'export',
    'agreement_int8',
    'int8 agrees',
    fraction,
    'Images on which the 8-bit model names the same class.',
  ),
  (
    'profile',
    'bare_ms',
    'Measured, network alone',
    ms,
    'What the prediction is compared with, in the statistic of the table.',
  ),
  (
    'profile',
    'bare_median_ms',
    'Measured, network alone, median',
    ms,
    'Half of the rounds were faster.',
  ),
  (
    'profile',
    'median_ms',
    'Measured, float32 file',
    ms,
    'Median; with the normalisation of the image in front.',
  ),
  ('profile', 'median_ms_fp16', 'Measured, float16 file', ms, 'Median.'),
  ('profile', 'median_ms_int8', 'Measured, int8 file', ms, 'Median.'),
  (
    'validate_table',
    'mean_abs_pct',
    'Mean error of the table',
    percent,
    'Over random networks it has not seen; the paper had 1.76%.',
  ),
  (
    'validate_table',
    'rmse_ms',
    'RMSE of the table',
    ms,
    'Root mean square of the same errors.',
  ),
)


def numbers(found: Findings) -> Table:
  """Every headline number that exists, with what it means."""
  rows = []
  for stage, key, label, spell, meaning in _NUMBERS:
    result = found.stage(stage)
    value = result.get(key)
    if isinstance(value, (int, float)):
      text = spell(value)
      spread = result.get(key.replace('median_ms', 'spread_ms'))
      if 'median_ms' in key and isinstance(spread, (int, float)):
        meaning += f' Interquartile range {ms(spread)}.'
      rows.append((label, text, meaning))
  for precision, length in found.model_bytes.items():
    rows.append((f'Size, {precision}', size(length), 'Of the .tflite file.'))
  return Table(('number', 'value', 'what it means'), rows, explained=True)
