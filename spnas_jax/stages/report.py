"""Stage `report`: everything a workdir holds, as pictures and one page."""

from __future__ import annotations

import os
import time
from typing import Any

from ml_collections import ConfigDict

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.console import say
from spnas_jax.core.remote import is_remote
from spnas_jax.report.findings import Findings, gather
from spnas_jax.report.page import render
from spnas_jax.report.sections import sections
from spnas_jax.report.tables import missing
from spnas_jax.report.verdicts import tiles, verdicts


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
  """Stage `report`; leaves `report/index.html` and its pictures as PNG files.

  It is cheap and always redrawn. A part that the workdir does not have is
  left out, with a line that says which command makes it.
  """
  start = time.monotonic()
  found = gather(config, workdir)
  parts = list(sections(found))
  page = render(
    title(found),
    subtitle(found),
    tiles(found),
    verdicts(found),
    parts,
    missing(found, _shown(workdir), config.latency_table),
    found.problems,
  )
  names = []
  for part in parts:
    for picture in part.pictures:
      names.append(f'report/{picture.name}.png')
      workdir.write(names[-1], picture.light)
  workdir.write('report/index.html', page)
  inputs = {
    stage: result['config_hash']
    for stage, result in found.results.items()
    if stage != 'report' and 'config_hash' in found.stage(stage)
  }
  for line in found.problems:
    say(f'report: {line}')
  say(f'report: {workdir / "report/index.html"}, {len(names)} pictures')
  return workdir.finish(
    'report',
    inputs,
    {'page': 'report/index.html', 'figures': names},
    time.monotonic() - start,
  )


def title(found: Findings) -> str:
  """What the page is about, in a line."""
  if found.arch is None:
    return 'Nothing found yet'
  made = found.arch.provenance
  name = made.get('dataset', '')
  return f'A network for {name}' if name else 'A network'


def subtitle(found: Findings) -> str:
  """The network's own line, and what it was searched for."""
  if found.arch is None:
    return 'The workdir holds no network.'
  return found.arch.to_string()


def _shown(workdir: Workdir) -> str:
  """The folder as a user would type it."""
  path = str(workdir.path)
  if is_remote(path):
    return path
  relative = os.path.relpath(path)
  return path if relative.startswith('..') else relative
