"""The report's judgement: sentences and the few numbers on top of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from spnas_jax.export.int8_ranges import NarrowRange
from spnas_jax.report.findings import Findings
from spnas_jax.report.mistakes import unbalanced
from spnas_jax.report.numbers import equal, fraction, interval, ms, relative
from spnas_jax.report.page import Tile, Verdict
from spnas_jax.report.significance import difference, network_means

# Percent within which a measurement is called close to its prediction, and
# a table good; difference up to which exported logits are called equal, and the
# same over their range: float32 keeps seven digits, sums lose two.
_CLOSE_PCT = 5.0
_LOGIT, _LOGIT_SHARE = 1e-3, 1e-5
# One network in fifty is further off than three mean errors of its table.
_TABLE_ERRORS = 3
# Two measurements differ by 2 / sqrt(pi) standard deviations of one on average;
# noise is two of them.
_REPEAT = 2 / 1.128


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
    yield Verdict(
      'good' if _meets(predicted, target) else 'bad',
      f'The network found is predicted at {ms(predicted)}, '
      f'{relative(predicted, target)} the target of {ms(target)}.',
    )
  yield from _gate_verdicts(found)
  for text in r.get('warnings', ()):
    yield Verdict('bad', text)
  origin = found.arch.provenance.get('config_hash') if found.arch else None
  if origin is not None and origin != r.get('config_hash', origin):
    yield Verdict(
      'bad', 'architecture.json is not the network that this search found.'
    )


def _gate_verdicts(found: Findings) -> Iterable[Verdict]:
  """What became of the gates, where they decided."""
  if not gates_decided(found):
    return
  r = found.stage('search')
  target = r.get('target_ms')
  raw, changed = r.get('raw_decode_ms'), r.get('projected_layers')
  if target is not None and raw is not None and changed is not None:
    layers = f' of {len(found.choices)}' if found.choices else ''
    yield Verdict(
      'note' if changed else 'good',
      f'The gates alone had decided on {ms(raw)}, {relative(raw, target)} the '
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


def _table_verdicts(found: Findings) -> Iterable[Verdict]:
  r = found.stage('validate_table')
  error = r.get('mean_abs_pct')
  if error is not None:
    text = r.get('verdict') or (
      f'{r.get("num_networks", "?")} networks that the latency table has not '
      f'seen are predicted within {error:.2f}% on average.'
    )
    # Without what the device has changed by since; that is the table's age.
    own = r.get('mean_abs_pct_at_todays_speed', error)
    kind = 'bad'
    if error <= _CLOSE_PCT:
      kind = 'good'
    elif own <= _REPEAT * (r.get('repeat_pct') or 0.0):
      kind = 'note'
      text += ' No more than two measurements of one network differ by.'
    yield Verdict(kind, f'Latency table: {text}')


def _meets(time: float, target: float) -> bool:
  """Whether a time is the target or below, as far as the page prints it."""
  return time <= target or equal(time, target)


def _noise_ms(found: Findings) -> float:
  """Two standard deviations of the measured time, ms."""
  profile = found.stage('profile')
  within = 2 * (profile.get('bare_error_ms') or 0.0)
  repeat = found.stage('validate_table').get('repeat_pct') or 0.0
  return max(within, _REPEAT * repeat / 100 * comparable_ms(profile))


def _table_pct(found: Findings) -> float:
  """Mean error of the table as far as it was looked at, percent; or 0."""
  checked = found.stage('validate_table').get('mean_abs_pct')
  if checked is None and found.table is not None:
    checked = found.table.calibration.get('mean_abs_pct')
  return checked or 0.0


def gates_decided(found: Findings) -> bool:
  """Whether the search's thresholds chose the network, not scores."""
  inputs = found.stage('search').get('inputs', {})
  return inputs.get('search.method', 'gradient') == 'gradient'


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
  compared, predicted = comparable_ms(r), r.get('predicted_ms')
  if predicted is None:
    why = r.get('prediction', 'none: the latency table is from another device')
    yield Verdict(
      'note', f'Measured {ms(measured)} on the device; prediction {why}.'
    )
    return
  noise = _noise_ms(found)
  off = abs(compared - predicted)
  statistic = r.get('protocol', {}).get('statistic')
  how = f' ({statistic})' if statistic else ''
  close = off <= _CLOSE_PCT / 100 * predicted
  explained = not close and off <= _CLOSE_PCT / 100 * predicted + noise
  yield Verdict(
    'good' if close else 'note' if explained else 'bad',
    f'The network measured {ms(compared)} on the device{how}, '
    f'{relative(compared, predicted)} the predicted {ms(predicted)}'
    + (f'; the noise is ± {ms(noise)}.' if explained else '.')
    + ('' if close else _crowd(r)),
  )
  target = found.stage('search').get('target_ms')
  if target is not None and same_network(found):
    yield _measured_target(found, compared, target, noise)
  left = r.get('fell_back') or {}
  if left.get('count'):
    yield Verdict(
      'note',
      f'The delegate left {left["count"]} of its operations to the CPU.',
    )


def _measured_target(
  found: Findings, measured: float, target: float, noise: float
) -> Verdict:
  """A miss counts where neither noise nor the table's error explains it."""
  own = _table_pct(found)
  allowed = min(_TABLE_ERRORS * own, _CLOSE_PCT) / 100 * target
  kind, why = 'bad', ''
  if _meets(measured, target):
    kind = 'good'
  elif measured - target <= noise:
    kind, why = 'note', f', within the noise of ± {ms(noise)}'
  elif measured - target <= noise + allowed:
    kind = 'note'
    why = f", which the table's mean error of {own:.1f}% explains"
  return Verdict(
    kind,
    f'The measured time is {relative(measured, target)} the target of '
    f'{ms(target)}{why}.',
  )


def _crowd(profile: dict[str, Any]) -> str:
  """A sentence where others used the machine during the measurement."""
  load = profile.get('conditions', {}).get('load_1_min')
  cores = profile.get('device', {}).get('cores')
  if not load or not cores or load <= cores:
    return ''
  return (
    f' Others used the machine meanwhile (load {load:.1f} on {cores} cores): '
    'measure again when it is idle.'
  )


def comparable_ms(profile: dict[str, Any]) -> float:
  """The measured time that a prediction refers to.

  That is the network without the normalisation in front of the shipped file,
  in the statistic that latency tables hold.
  """
  for key in ('bare_ms', 'bare_median_ms', 'median_ms'):
    if profile.get(key) is not None:
      return profile[key]
  raise KeyError('median_ms')


def _accuracy_verdicts(found: Findings) -> Iterable[Verdict]:
  r = found.stage('evaluate')
  top1, total = r.get('top1'), r.get('num_examples')
  if top1 is not None and total:
    low, high = interval(top1, total)
    yield Verdict(
      'note',
      f'Top-1 accuracy {fraction(top1)} on {total:,} {r.get("split", "test")} '
      f'images; with so few the 95% interval is {fraction(low)} to '
      f'{fraction(high)}.'
      if high - low > 0.01
      else f'Top-1 accuracy {fraction(top1)} on {total:,} '
      f'{r.get("split", "test")} images (95% interval {fraction(low)} to '
      f'{fraction(high)}).',
    )
  # From the rows: older versions stored the error of the random mean only.
  rows = found.stage('random_search').get('networks', ())
  if any(row['kind'] == 'found' for row in rows):
    yield _luck_verdict(rows)


def _luck_verdict(rows: list[dict[str, Any]]) -> Verdict:
  """The found network against random ones of its latency."""
  random = network_means(rows, 'random')
  off = difference(random, network_means(rows, 'found'))
  if off is None:
    few = (
      'One random network does not tell'
      if len(random) == 1
      else 'Random networks that are all equally good do not tell'
    )
    return Verdict('note', f'{few} how far luck reaches.')
  better = 'better' if off.value > 0 else 'worse'
  return Verdict(
    ('good' if off.value > 0 else 'bad') if off.clear else 'note',
    f'Against {len(random)} random networks of the same latency, trained '
    f'alike, the found one is {abs(100 * off.value):.2f} points {better}; '
    f'chance alone gives up to {100 * off.margin:.2f} in 95% of such '
    'comparisons: '
    + ('more than chance explains.' if off.clear else 'chance can explain it.'),
  )


def _export_verdicts(found: Findings) -> Iterable[Verdict]:
  r = found.stage('export')
  off = r.get('max_abs_diff')
  if isinstance(off, (int, float)):
    share = r.get('max_rel_diff')
    same = off <= _LOGIT or (share is not None and share <= _LOGIT_SHARE)
    words = 'equal {} to within' if same else 'differ from {} by up to'
    yield Verdict(
      'good' if same else 'bad',
      "The exported model's logits "
      f'{words.format("the trained network in JAX")} {off:.1e}.',
    )
  yield from _int8_verdict(r)
  if r.get('int8_error'):
    yield Verdict('bad', f'There is no int8 model: {r["int8_error"]}.')
  if r.get('int8_guessed_ranges'):
    yield Verdict('note', f'{NarrowRange(tuple(r["int8_guessed_ranges"]))}.')


def _int8_verdict(export: dict[str, Any]) -> Iterable[Verdict]:
  """What 8 bits cost, against what chance does to images that differ."""
  keys = ('top1', 'top1_int8', 'agreement_int8', 'num_images')
  if any(export.get(key) is None for key in keys):
    return
  full, small, agreement, images = (export[key] for key in keys)
  # Each image on which the two differ adds or takes one at most.
  margin = 2 * math.sqrt((1 - agreement) / images)
  clear = abs(small - full) > margin
  text = (
    f'The int8 model names the same class as float32 on {fraction(agreement)} '
    f'of {images:,} images'
  )
  kind = 'good'
  if small < full:
    points = 100 * (full - small)
    text += f', and is right on {points:.2f} points fewer'
    text += '' if clear else ', which chance can explain'
    kind = 'bad' if clear else 'note'
  yield Verdict(kind, f'{text}.')


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
  if profile.get('median_ms') is not None:
    measured = comparable_ms(profile)
    reference = profile.get('predicted_ms')
    note = f'{relative(measured, reference)} predicted' if reference else ''
    result.append(Tile('Measured', ms(measured), note))
  if evaluate.get('top1') is not None:
    note = f'{evaluate.get("num_examples", 0):,} images'
    result.append(Tile('Top-1 accuracy', fraction(evaluate['top1']), note))
  if unbalanced(found):
    note = 'mean over the classes'
    value = fraction(evaluate['macro_accuracy'])
    result.append(Tile('Macro accuracy', value, note))
  return result
