"""Entries of a table from the times of whole networks.

Where single operations cannot be timed, networks still can. Their times are a
sum over the operations that they run (paper Eq. 10 read backwards), so the
operations' times follow by non-negative least squares:

  minimise |(y - X x) / y|^2 + strength |(x - m) / m|^2,  x >= 0

X [networks, operations] counts operations, y is what was measured. Without the
second term every unknown takes a network of its own, and more where noise is to
average out. Its m is the prior: an operation takes so much time for each unit
of what is known of it (the call, multiply-adds, pixels), fitted to the same
rows. The strength of the prior is the one that predicts left-out networks best
(five folds); many rows overrule it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.optimize

from spnas_jax.core.errors import UserError

# Fewer rows say nothing about how well the fit predicts: folds of four.
LEAST_ROWS = 20
_FOLDS = 5
_STRENGTHS = 10.0 ** np.arange(-7.0, 1.0)


class Fit(NamedTuple):
  """Attributes:

  ms: float64 [operations], time of each, never negative.
  errors: float64 [operations], standard error of each, ms; of one that no
    network runs it is what the prior leaves open.
  held_out_pct: mean absolute error of networks that a fit has not seen, percent
    of what was measured (five folds).
  strength: of the prior.
  held_out_ms: float64 [networks], what a fit that has not seen it predicts for
    each network.
  """

  ms: np.ndarray
  errors: np.ndarray
  held_out_pct: float
  strength: float
  held_out_ms: np.ndarray


def fit(counts: np.ndarray, measured: np.ndarray, facts: np.ndarray) -> Fit:
  """Times of operations from times of networks.

  Args:
    counts: [n, k], how often each network runs each operation.
    measured: [n] ms.
    facts: [k, p] what takes time in each operation, never negative, such as 1
      for the call, its multiply-adds, its pixels.

  Raises:
    UserError: fewer than `LEAST_ROWS` networks.
  """
  counts, measured = np.asarray(counts, float), np.asarray(measured, float)
  if len(measured) < LEAST_ROWS:
    raise UserError(
      f'times of {len(measured)} networks, allowed: {LEAST_ROWS} or more, of '
      'which some are left out to see how well the others predict them'
    )
  order = np.random.default_rng(0).permutation(len(measured))
  folds = [order[start::_FOLDS] for start in range(_FOLDS)]
  held_out = np.zeros((len(_STRENGTHS), len(measured)))
  for held in folds:
    rest = np.setdiff1d(order, held)
    prior = prior_ms(counts[rest], measured[rest], facts)
    for i, strength in enumerate(_STRENGTHS):
      ms = _solve(counts[rest], measured[rest], prior, strength)
      held_out[i, held] = counts[held] @ ms
  errors = np.abs(held_out / measured - 1).mean(1)
  best = int(errors.argmin())
  strength = float(_STRENGTHS[best])
  prior = prior_ms(counts, measured, facts)
  ms = _solve(counts, measured, prior, strength)
  return Fit(
    ms,
    _errors(counts, measured, prior, strength, ms),
    float(100 * errors[best]),
    strength,
    held_out[best],
  )


def prior_ms(
  counts: np.ndarray, measured: np.ndarray, facts: np.ndarray
) -> np.ndarray:
  """[k] ms: so much for each unit of the facts [k, p]."""
  facts = np.asarray(facts, float)
  design = (counts @ facts) / measured[:, None]
  scale = np.maximum(design.max(0), 1e-300)
  rates, _ = scipy.optimize.nnls(design / scale, np.ones(len(measured)))
  prior = facts @ (rates / scale)
  # An operation that takes no time would have no room to take any.
  return np.maximum(prior, 1e-3 * prior.mean())


def _solve(
  counts: np.ndarray, measured: np.ndarray, prior: np.ndarray, strength: float
) -> np.ndarray:
  design, target = _system(counts, measured, prior, strength)
  return scipy.optimize.nnls(design, target, maxiter=30 * len(prior))[0] * prior


def _system(counts, measured, prior, strength):
  """Rows of the least squares, in units of the prior."""
  root = np.sqrt(strength)
  design = np.vstack(
    [counts * prior / measured[:, None], root * np.eye(len(prior))]
  )
  target = np.concatenate([np.ones(len(measured)), np.full(len(prior), root)])
  return design, target


def _errors(counts, measured, prior, strength, ms) -> np.ndarray:
  """Standard errors from the curvature, the residuals being the noise."""
  design, _ = _system(counts, measured, prior, strength)
  covariance = np.linalg.inv(design.T @ design)
  left = 1 - counts @ ms / measured
  used = np.trace(
    covariance @ (design[: len(measured)].T @ design[: len(measured)])
  )
  variance = (left**2).sum() / max(len(measured) - used, 1.0)
  return np.sqrt(variance * np.diag(covariance)) * prior
