"""Accuracies and latencies of networks that stages compared."""

from __future__ import annotations

from typing import Any

import numpy as np

from spnas_jax.report.accuracy_figures import Point
from spnas_jax.report.findings import Findings


def trained_points(found: Findings) -> tuple[list[Point], list[Point]]:
  """(found, random) networks of the random search, averaged over seeds."""
  by_network: dict[tuple[str, str], list[dict[str, Any]]] = {}
  for row in found.stage('random_search').get('networks', ()):
    key = row.get('kind', 'random'), row['architecture']
    by_network.setdefault(key, []).append(row)
  points: dict[str, list[Point]] = {'found': [], 'random': []}
  for (kind, _), rows in by_network.items():
    top1 = float(np.mean([row['top1'] for row in rows]))
    points.setdefault(kind, []).append(Point(rows[0]['predicted_ms'], top1))
  return points['found'], points['random']


def compared_points(
  found: Findings,
) -> tuple[dict[str, list[Point]], list[Point], str]:
  """(known networks by name, found network, 'measured' or 'predicted').

  Where some latencies were measured, predicted ones stay out of the picture.
  """
  rows = [
    row
    for row in found.stage('compare_zoo').get('rows', ())
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
  return families, own, kind


def scored_points(found: Findings) -> list[Point]:
  """The random networks to whose scores worths were fitted."""
  rows = (found.stage('search').get('worth') or {}).get('scored', ())
  return [Point(row['predicted_ms'], row['top1']) for row in rows]


def supernet_point(row: dict[str, Any]) -> Point:
  """A network of an evolution, scored with shared weights."""
  return Point(row['predicted_ms'], row['supernet_top1'])
