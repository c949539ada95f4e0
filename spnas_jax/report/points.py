"""Accuracies and latencies of networks that stages compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spnas_jax.report.accuracy_figures import Point
from spnas_jax.report.findings import Findings


def trained_points(
  found: Findings,
) -> tuple[list[Point], list[Point], list[Point]]:
  """(found, random, curve) of the random search, averaged over seeds."""
  result = found.stage('random_search')
  own, random = _by_kind(result.get('networks', ()))
  curve: list[Point] = []
  for place in result.get('curve', ()):
    point, near = _by_kind(place['networks'])
    curve += point
    random += near
  return own, random, curve


def _by_kind(
  networks: Sequence[dict[str, Any]],
) -> tuple[list[Point], list[Point]]:
  """(found, random), a point for each network."""
  by_network: dict[tuple[str, str], list[dict[str, Any]]] = {}
  for row in networks:
    key = row.get('kind', 'random'), row['architecture']
    by_network.setdefault(key, []).append(row)
  points: dict[str, list[Point]] = {'found': [], 'random': []}
  for (kind, _), rows in by_network.items():
    top1 = float(np.mean([row['top1'] for row in rows]))
    points.setdefault(kind, []).append(Point(rows[0]['predicted_ms'], top1))
  return points['found'], points['random']


def compared_points(
  found: Findings,
) -> tuple[dict[str, list[Point]], list[Point], list[Point], str]:
  """(networks by name, found, random ones, 'measured' or 'predicted').

  Where some latencies were measured, predicted ones stay out of the picture.
  """
  result = found.stage('compare_zoo')
  rows = [
    row
    for row in result.get('rows', ())
    if row.get('ms') is not None and row.get('top1') is not None
  ]
  kinds = {row.get('ms_kind') for row in rows}
  kind = 'measured' if 'measured' in kinds else 'predicted'
  families: dict[str, list[Point]] = {}
  for row in rows:
    if row.get('ms_kind') == kind and row['name'] != 'random_search':
      point = Point(row['ms'], row['top1'])
      families.setdefault(row['name'], []).append(point)
  own = families.pop('found', [])
  random = [
    Point(row['ms'], row['top1'])
    for row in result.get('random', ())
    if row.get('ms_kind') == kind
  ]
  return families, own, random, kind


def scored_points(found: Findings) -> list[Point]:
  """The random networks to whose scores worths were fitted."""
  rows = (found.stage('search').get('worth') or {}).get('scored', ())
  return [Point(row['predicted_ms'], row['top1']) for row in rows]


def supernet_point(row: dict[str, Any]) -> Point:
  """A network of an evolution, scored with shared weights."""
  return Point(row['predicted_ms'], row['supernet_top1'])
