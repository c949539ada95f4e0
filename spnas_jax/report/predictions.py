"""Which latencies a workdir knows both ways: predicted, and measured."""

from __future__ import annotations

from spnas_jax.report.agreement import Agreement, agreement
from spnas_jax.report.figures import Pair
from spnas_jax.report.findings import Findings
from spnas_jax.report.verdicts import comparable_ms, same_network


def unseen(found: Findings) -> list[Pair]:
  """(predicted, measured) ms of networks that the table has not seen.

  Those of `validate_table`; without it those that a table fitted to whole
  networks was checked with, each left out once.
  """
  rows = found.stage('validate_table').get('networks')
  return [
    (row['predicted_ms'], row['measured_ms'])
    for row in rows or found.stage('build_table').get('networks', ())
    if row.get('predicted_ms') and row.get('measured_ms')
  ]


def calibrating(found: Findings) -> list[Pair]:
  """The same of the networks that the table's factor was fitted to."""
  if found.table is None:
    return []
  known = found.table.calibration
  sums, measured = known.get('sum_ms') or (), known.get('measured_ms') or ()
  if len(sums) != len(measured):  # Somebody has changed the file.
    return []
  return [
    (found.table.factor * total, time)
    for total, time in zip(sums, measured, strict=True)
  ]


def own(found: Findings) -> Pair | None:
  """The same of the network that this run trained."""
  profile = found.stage('profile')
  predicted = profile.get('predicted_ms')
  if not predicted or profile.get('median_ms') is None:
    return None
  return predicted, comparable_ms(profile)


def words(found: Findings) -> str:
  """Which networks the picture shows, and what its numbers refer to."""
  known, fitted = unseen(found), calibrating(found)
  lines = []
  if known:
    lines.append('Blue: networks that the latency table has not seen.')
  if fitted:
    lines.append(
      'Green circles: those that its factor was fitted to.'
      if known
      else "Circles: networks that the table's factor was fitted to, so the "
      'numbers are a little too good.'
    )
  if own(found):
    name = 'the network found' if same_network(found) else 'the one trained'
    lines.append(f'Star: {name}.')
  lines.append('The closer to the line, the better the table predicts')
  if len(known or fitted) > 1:
    lines[-1] += '; the band holds 95% of ' + (
      'the blue ones' if known else 'the circles'
    )
  return ' '.join(lines) + '.'


def calibrated(found: Findings) -> Agreement | None:
  """How well the table fits the networks of its calibration."""
  pairs = calibrating(found)
  return agreement(*zip(*pairs, strict=True)) if pairs else None
