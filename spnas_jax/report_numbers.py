"""The report's words and numbers: verdicts, tiles, tables with explanations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from spnas_jax.plot_style import number
from spnas_jax.report_data import Findings
from spnas_jax.report_page import Table, Tile, Verdict

# A measurement is called close to its prediction within so many percent, a
# table good, and exported logits equal up to so much of a logit.
_CLOSE_PCT = 5.0
_LOGIT = 1e-3

# --- formats ------------------------------------------------------------------


def ms(value: float) -> str:
  return f'{number(value)} ms'


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


def relative(value: float, reference: float) -> str:
  """'2.1% below'; 'equal to' where the difference would print as 0.0%."""
  off = 100 * (value / reference - 1)
  if abs(off) < 0.05:
    return 'equal to'
  return f'{abs(off):.1f}% {"above" if off > 0 else "below"}'


def interval(share: float, total: int) -> tuple[float, float]:
  """95% interval of a fraction counted over `total` images (Wilson)."""
  z = 1.96
  centre = (share + z * z / (2 * total)) / (1 + z * z / total)
  half = math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
  half *= z / (1 + z * z / total)
  return centre - half, centre + half


# --- verdicts -----------------------------------------------------------------


def verdicts(found: Findings) -> list[Verdict]:
  """What the numbers say, good or bad, in the order of the work."""
  return [
    *_search_verdicts(found),
    *_table_verdicts(found),
    *_profile_verdicts(found),
    *_accuracy_verdicts(found),
    *_export_verdicts(found),
  ]


def _search_verdicts(found: Findings) -> Iterable[Verdict]:
  r = found.stage('search')
  predicted, target = r.get('predicted_ms'), r.get('target_ms')
  if predicted is None:
    return
  if target is None:
    yield Verdict(
      'note',
      f'The network found is predicted at {ms(predicted)}. The search had a '
      'fixed λ and no target.',
    )
  else:
    met = predicted <= target * (1 + 1e-6)
    yield Verdict(
      'good' if met else 'bad',
      f'The network found is predicted at {ms(predicted)}, '
      f'{relative(predicted, target)} the target of {ms(target)}.',
    )
  raw, changed = r.get('raw_decode_ms'), r.get('projected_layers')
  if target is not None and raw is not None and changed is not None:
    layers = f' of {len(found.choices)}' if found.choices else ''
    yield Verdict(
      'note' if changed else 'good',
      f'The gates alone had decided for {ms(raw)}, {relative(raw, target)} the '
      f'target; the projection onto the target changed {changed}{layers} '
      'layers.',
    )
  undecided = r.get('undecided_gates')
  if undecided is not None:
    yield Verdict(
      'note' if undecided else 'good',
      f'{undecided} of {r.get("num_gates", "?")} gates were still undecided at '
      'the end.',
    )
  for text in r.get('warnings', ()):
    yield Verdict('bad', text)
  origin = found.arch.provenance.get('config_hash') if found.arch else None
  if origin is not None and origin != r.get('config_hash', origin):
    yield Verdict(
      'bad', 'architecture.json is not the network that this search found.'
    )


def _table_verdicts(found: Findings) -> Iterable[Verdict]:
  r = found.stage('validate_table')
  error = r.get('mean_abs_pct')
  if error is not None:
    text = r.get('verdict') or (
      f'{r.get("num_networks", "?")} networks that the latency table has not '
      f'seen are predicted within {error:.2f}% on average.'
    )
    kind = 'good' if error <= _CLOSE_PCT else 'bad'
    yield Verdict(kind, f'Latency table: {text}')


def same_network(found: Findings) -> bool:
  """Whether what was trained, exported, measured is what the search found."""
  searched = found.stage('search').get('architecture')
  trained = found.stage('train').get('architecture')
  return searched is None or trained is None or searched == trained


def _profile_verdicts(found: Findings) -> Iterable[Verdict]:
  if not same_network(found):
    yield Verdict(
      'note',
      'The trained network is not the one the search found: accuracy, export '
      'and measured latency on this page belong to the trained one.',
    )
  r = found.stage('profile')
  measured = r.get('median_ms')
  if measured is None:
    return
  # The table knows nothing of the normalisation in front of the shipped file.
  bare, predicted = r.get('bare_median_ms', measured), r.get('predicted_ms')
  if predicted is None:
    why = r.get('prediction', 'none: the latency table is of another device')
    yield Verdict(
      'note', f'Measured {ms(measured)} on the device; prediction {why}.'
    )
  else:
    close = abs(bare / predicted - 1) <= _CLOSE_PCT / 100
    yield Verdict(
      'good' if close else 'bad',
      f'The network measured {ms(bare)} on the device, '
      f'{relative(bare, predicted)} the predicted {ms(predicted)}.',
    )
  target = found.stage('search').get('target_ms')
  if target is not None and predicted is not None and same_network(found):
    yield Verdict(
      'good' if bare <= target else 'bad',
      f'Measured, it is {relative(bare, target)} the target of {ms(target)}.',
    )


def _accuracy_verdicts(found: Findings) -> Iterable[Verdict]:
  r = found.stage('evaluate')
  top1, total = r.get('top1'), r.get('num_examples')
  if top1 is not None and total:
    low, high = interval(top1, total)
    yield Verdict(
      'note',
      f'Top-1 accuracy {fraction(top1)} on {total:,} {r.get("split", "test")} '
      f'images; so few images leave it between {fraction(low)} and '
      f'{fraction(high)} (95% interval).'
      if high - low > 0.01
      else f'Top-1 accuracy {fraction(top1)} on {total:,} '
      f'{r.get("split", "test")} images (95% interval {fraction(low)} to '
      f'{fraction(high)}).',
    )
  r = found.stage('random_search')
  gain, error = r.get('difference'), r.get('standard_error')
  if gain is not None and error is not None:
    clear = abs(gain) > 2 * error
    better = 'better' if gain > 0 else 'worse'
    yield Verdict(
      ('good' if gain > 0 else 'bad') if clear else 'note',
      f'Against random networks of the same latency, trained alike, the found '
      f'one is {abs(100 * gain):.2f} points {better} (standard error '
      f'{100 * error:.2f}): '
      + ('more than chance explains.' if clear else 'chance can explain that.'),
    )


def _export_verdicts(found: Findings) -> Iterable[Verdict]:
  r = found.stage('export')
  off = r.get('max_abs_diff')
  if isinstance(off, (int, float)):
    equal = off <= _LOGIT
    words = 'equal {} to within' if equal else 'differ from {} by up to'
    yield Verdict(
      'good' if equal else 'bad',
      "The exported model's logits "
      f'{words.format("the trained network in JAX")} {off:.1e}.',
    )


def tiles(found: Findings) -> list[Tile]:
  """The few numbers that are asked for first."""
  search, profile = found.stage('search'), found.stage('profile')
  evaluate = found.stage('evaluate')
  target, predicted = search.get('target_ms'), search.get('predicted_ms')
  result = []
  if target is not None:
    result.append(Tile('Target', ms(target)))
  if predicted is not None:
    note = f'{relative(predicted, target)} target' if target else ''
    result.append(Tile('Predicted', ms(predicted), note))
  measured = profile.get('bare_median_ms', profile.get('median_ms'))
  if measured is not None:
    reference = profile.get('predicted_ms')
    note = f'{relative(measured, reference)} predicted' if reference else ''
    result.append(Tile('Measured', ms(measured), note))
  if evaluate.get('top1') is not None:
    note = f'{evaluate.get("num_examples", 0):,} images'
    result.append(Tile('Top-1 accuracy', fraction(evaluate['top1']), note))
  return result


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
    'Decisions that were turned to meet the target; 0 is best.',
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
  ('search', 'seconds', 'Search time', duration, 'On the clock.'),
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
    'top5',
    'Top-5 accuracy',
    fraction,
    'Share of images with the right class among the five likeliest.',
  ),
  ('evaluate', 'num_examples', 'Images scored', count, 'None twice.'),
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
    'bare_median_ms',
    'Measured, network alone',
    ms,
    'Median; what the prediction is compared with.',
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
        meaning += f' Interquartile range of the rounds {spread:.2g} ms.'
      rows.append((label, text, meaning))
  for precision, length in found.model_bytes.items():
    rows.append((f'Size, {precision}', size(length), 'Of the .tflite file.'))
  return Table(('number', 'value', 'what it means'), rows, explained=True)
