"""Warnings of a search: said when something is wrong, silent when it is not."""

import numpy as np

from spnas_jax.search.diagnostics import flips_per_epoch, warnings

STEPS = np.array([10, 20, 30, 40])


def result(**changes):
  return {
    'target_ms': 5.0,
    'raw_decode_ms': 5.1,
    'min_ms': 1.0,
    'max_ms': 9.0,
    'undecided_gates': 0,
    'num_gates': 4,
    **changes,
  }


def said(logits=None, gates='sampled', limit=20.0, lambda_=0.1, **changes):
  if logits is None:
    logits = np.linspace(-3, 3, 16).reshape(4, 4)
  return warnings(
    gates=gates,
    logits=logits,
    steps=STEPS,
    first=5,
    saturated=0.5,
    final_lambda=lambda_,
    lambda_limit=limit,
    result=result(**changes),
  )


def test_a_healthy_search_is_not_warned_about():
  assert said() == []


def test_stuck_gates_are_named_with_the_key_to_change():
  still = np.zeros((4, 4))
  assert 'search.threshold_travel' in said(still)[0]
  assert "search.gates='sampled'" in said(still, gates='official')[0]


def test_collapse_and_standstill_under_a_fixed_lambda():
  low = said(target_ms=None, raw_decode_ms=1.0, limit=None)
  assert len(low) == 1 and 'Lower search.lambda_' in low[0]
  high = said(target_ms=None, raw_decode_ms=9.0, limit=None)
  assert len(high) == 1 and 'Raise search.lambda_' in high[0]


def test_far_decode_undecided_gates_and_a_limited_controller():
  assert '+30%' in said(raw_decode_ms=6.5)[0]
  assert '3 of 4' in said(undecided_gates=3)[0]
  assert 'search.controller.limit' in said(lambda_=-20.0)[0]


def test_flips_are_counted_by_epoch_of_the_search_phase():
  logits = np.array([[1.0], [-1.0], [1.0], [1.0]])
  # Steps 10 and 20 lie in the first epoch of 20 steps behind step 5.
  assert flips_per_epoch(STEPS, logits, 5, 20) == [1.0, 1.0]
  # The warm-up's own changes are not counted.
  assert flips_per_epoch(STEPS, logits, 20, 10) == [0.0, 0.0]
