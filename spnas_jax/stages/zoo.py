"""Stage `zoo`: every known architecture with counts and Pixel 1 ms."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks import zoo


def run(config: ConfigDict, workdir: Workdir) -> list[dict[str, Any]]:
  """Prints the listing and keeps it in results.json."""
  del config  # The listing is of facts.
  table = LatencyTable.load('pixel1')
  rows = [
    {**row, 'pixel1_ms': predicted_ms(table, row['name'])}
    for row in zoo.listing()
  ]
  say(
    f'{"name":24} {"parameters":>11} {"MACs at 224":>13} {"Pixel 1 ms":>11} '
    f'{"top-1 / top-5 %, published":>27}'
  )
  for row in rows:
    params = 'unknown' if row['params'] is None else f'{row["params"]:,}'
    macs = 'unknown' if row['macs'] is None else f'{row["macs"]:,}'
    ms = '-' if row['pixel1_ms'] is None else f'{row["pixel1_ms"]:.2f}'
    scores = ' / '.join(
      '-' if row[key] is None else f'{100 * row[key]:.2f}'
      for key in ('top1', 'top5')
    )
    say(f'{row["name"]:24} {params:>11} {macs:>13} {ms:>11} {scores:>27}')
    if row.get('note'):
      say(f'  {row["note"]}')
  workdir.record('zoo', rows)
  return rows


def predicted_ms(table: LatencyTable, name: str) -> float | None:
  """Latency of a zoo network; None where the table has no such operations."""
  if name not in zoo.names():
    return None  # Figures without layers.
  try:
    return table.predict(zoo.get(name))
  except UserError:
    return None
