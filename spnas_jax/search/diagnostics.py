"""Is a search healthy? Numbers and plain words from its logged gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from spnas_jax.search.search_step import Search


def flips_per_epoch(
  steps: np.ndarray, logits: np.ndarray, first: int, steps_per_epoch: int
) -> list[float]:
  """Gates whose decision changed, for each epoch of the search phase.

  Args:
    steps: [T] logged steps, ascending.
    logits: [T, num_gates] log-odds at those steps.
    first: step at which the search phase begins.
    steps_per_epoch: steps.
  """
  searching = steps > first
  decided = logits[searching] >= 0
  epochs = (steps[searching] - first - 1) // steps_per_epoch
  changes = (decided[1:] != decided[:-1]).sum(1)
  return [
    float(changes[epochs[1:] == epoch].sum())
    for epoch in range(int(epochs.max()) + 1 if len(epochs) else 0)
  ]


def health(
  search: Search,
  history: Mapping[str, np.ndarray],
  steps_per_epoch: int,
  result: dict[str, Any],
) -> dict[str, Any]:
  """What its log says of a search.

  Args:
    search: its static parts.
    history: 'step', 'logit', 'saturated_gates' are read, see `History`.
    steps_per_epoch: steps.
    result: `*_ms`, 'undecided_gates', 'num_gates' and 'final_lambda' are read.

  Returns:
    'saturated_gates' (fraction, at the end), 'flips_per_epoch', 'warnings'.
  """
  steps, logits = history['step'], history['logit']
  first, controller = search.phases.warm_up, search.controller
  saturated = float(history['saturated_gates'][-1])
  return {
    'saturated_gates': saturated,
    'flips_per_epoch': flips_per_epoch(steps, logits, first, steps_per_epoch),
    'warnings': warnings(
      gates=search.recipe.gates,
      logits=logits,
      steps=steps,
      first=first,
      saturated=saturated,
      final_lambda=result['final_lambda'],
      lambda_limit=None if controller is None else controller.limit,
      result=result,
    ),
  }


def warnings(
  *,
  gates: str,
  logits: np.ndarray,
  steps: np.ndarray,
  first: int,
  saturated: float,
  final_lambda: float,
  lambda_limit: float | None,
  result: dict[str, Any],
) -> list[str]:
  """Sentences for a user, each naming the config key to change.

  Args:
    gates: the formulation.
    logits: [T, num_gates] history.
    steps: [T] of it.
    first: first step of the search phase.
    saturated: share of saturated gates at the end.
    final_lambda: lambda at the end.
    lambda_limit: the controller's limit; None without one.
    result: the search's result; `*_ms` keys, `undecided_gates`, `num_gates`.
  """
  target = result['target_ms']
  said = _still(gates, logits[steps > first], saturated)
  said += _at_an_end(result)
  if target is None:
    return said
  raw = result['raw_decode_ms']
  if abs(raw / target - 1) > 0.1:
    said.append(
      f'Before projection the decoded network was '
      f'{100 * (raw / target - 1):+.0f}% off its target: much was decided by '
      'the projection. Raise search.epochs, or lower search.warmup_epochs.'
    )
  if result['undecided_gates'] > 0.3 * result['num_gates']:
    said.append(
      f'{result["undecided_gates"]} of {result["num_gates"]} gates were still '
      'undecided at the end. Raise search.epochs or search.threshold_travel.'
    )
  if lambda_limit is not None and abs(final_lambda) >= lambda_limit:
    said.append(
      'The controller ended at its limit. Raise search.controller.limit.'
    )
  return said


def _still(gates: str, searched: np.ndarray, saturated: float) -> list[str]:
  """Did no gate move? `searched`: [T, num_gates] of the search phase."""
  if len(searched) < 2:
    return []
  moved = np.ptp(searched, axis=0).max()
  if moved >= 0.1:
    return []
  return [
    f'No gate moved in the search phase (largest change of a log-odds '
    f'{moved:.2g}; {100 * saturated:.0f}% of the gates are saturated). '
    + (
      'Norms of freshly initialised kernels saturate these indicators: use '
      "search.gates='sampled', or far more search.epochs."
      if gates != 'sampled'
      else 'Raise search.threshold_travel or lower search.warmup_epochs.'
    )
  ]


def _at_an_end(result: dict[str, Any]) -> list[str]:
  """Did it end at the smallest or the largest network?"""
  target, raw = result['target_ms'], result['raw_decode_ms']
  low, high = result['min_ms'], result['max_ms']
  said = []
  if raw <= low * 1.01 and (target is None or target > low * 1.05):
    said.append(
      'The search collapsed to the smallest network. '
      + (
        'Lower search.lambda_, or set search.target_ms instead.'
        if target is None
        else 'Lower search.controller.limit or raise search.controller.ramp.'
      )
    )
  if target is None and raw >= high * 0.99:
    said.append(
      'The search stayed at the largest network. Raise search.lambda_, or set '
      'search.target_ms instead.'
    )
  return said
