"""The page's section on accuracy: the found network among others."""

from __future__ import annotations

from typing import Any

from spnas_jax.report import accuracy_figures, figures
from spnas_jax.report.findings import Findings
from spnas_jax.report.page import Picture, Section, drawn
from spnas_jax.report.points import (
  compared_points,
  scored_points,
  supernet_point,
  trained_points,
)
from spnas_jax.report.tables import accuracy_table, tables_of

_IN_SUPERNET = 'Top-1 in the supernet (%)'


def accuracy(found: Findings) -> Section:
  """Training, then each front that the workdir has something for."""
  curve = found.stage('search').get('curve') or []
  pictures = [
    *_training(found),
    *_random(found),
    *_evolution(found),
    *_curve(found, curve),
    *_compared(found),
  ]
  tables = accuracy_table(found)
  tables += tables_of(curve, 'One supernet, several targets')
  return Section('How good it is', '', pictures, tables)


def _training(found: Findings) -> list[Picture]:
  curves = found.train_curves
  if 'cross_entropy' not in curves and 'accuracy' not in curves:
    return []
  return drawn(
    found.problems,
    'train_learning',
    'Final training of the network on its own. Thin: single batches; '
    'thick: smoothed.',
    lambda colours: figures.learning(curves, None, colours),
  )


def _target(found: Findings) -> float | None:
  return found.stage('search').get('target_ms')


def _random(found: Findings) -> list[Picture]:
  own, random, trained = trained_points(found)
  if not random:
    return []
  return drawn(
    found.problems,
    'random_search',
    'The found network'
    + (' and the points of the curve' if trained else '')
    + ' against random ones of about the same latency, all trained from '
    'scratch with one recipe' + (' (means over seeds).' if own else '.'),
    lambda colours: accuracy_figures.accuracy_latency(
      own,
      random,
      curve=trained,
      target_ms=_target(found),
      colours=colours,
    ),
  )


def _evolution(found: Findings) -> list[Picture]:
  evolution = found.stage('search').get('evolution') or {}
  front = [supernet_point(row) for row in evolution.get('front', ())]
  if not front:
    return []
  best = evolution.get('best')
  return drawn(
    found.problems,
    'evolution',
    'Best networks of an evolution at each latency, scored with the '
    "supernet's shared weights, not trained on their own.",
    lambda colours: accuracy_figures.accuracy_latency(
      [supernet_point(best)] if best else [],
      front=front,
      target_ms=_target(found),
      heading=_IN_SUPERNET,
      colours=colours,
    ),
  )


def _curve(found: Findings, curve: list[dict[str, Any]]) -> list[Picture]:
  if not curve:
    return []
  result, scored = found.stage('search'), scored_points(found)
  own = [supernet_point(result)] if 'supernet_top1' in result else []
  return drawn(
    found.problems,
    'curve',
    'Networks from one supernet for several targets, with its weights, not '
    'trained on their own'
    + (
      ', among the random ones that were scored in it to find them. These '
      'are scored on the images that chose, the curve on others.'
      if scored
      else '.'
    ),
    lambda colours: accuracy_figures.accuracy_latency(
      own,
      scored,
      curve=[supernet_point(row) for row in curve],
      target_ms=_target(found),
      heading=_IN_SUPERNET,
      colours=colours,
    ),
  )


def _compared(found: Findings) -> list[Picture]:
  families, near, random, kind = compared_points(found)
  curve = families.pop('curve', [])
  if not families:
    return []
  return drawn(
    found.problems,
    'compare_zoo',
    'Known networks'
    + (', random ones' if random else '')
    + ' and the found one, trained from scratch with one recipe. A line '
    'joins widths of one network'
    + (' and the points of the curve.' if curve else '.'),
    lambda colours: accuracy_figures.accuracy_latency(
      near,
      random,
      curve=curve,
      families=families,
      target_ms=_target(found),
      latency=f'{kind} latency',
      colours=colours,
    ),
  )
