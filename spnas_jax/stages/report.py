"""Stage `report`: everything a workdir holds, as pictures and one page."""

from __future__ import annotations

import os
import time
from typing import Any

from ml_collections import ConfigDict

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.core.remote import as_path, is_remote
from spnas_jax.report.comparison import comparison
from spnas_jax.report.findings import Findings, gather
from spnas_jax.report.page import Picture, render
from spnas_jax.report.sections import sections
from spnas_jax.report.tables import missing
from spnas_jax.report.verdicts import tiles, verdicts


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
  """Stage `report`; leaves `report/index.html`, its pictures as PNG and SVG.

  It is cheap and always redrawn. A part that the workdir does not have is
  left out, with a line that says which command makes it.
  """
  start = time.monotonic()
  compared = _compare(config, workdir) if config.report.workdirs else {}
  found = gather(config, workdir)
  parts = list(sections(found, config))
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
      names.append(_leave(workdir, picture))
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
    {'page': 'report/index.html', 'figures': names, **compared},
    time.monotonic() - start,
  )


def _compare(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
  """Leaves `report/comparison.html` of the workdirs that the config names.

  Raises:
    UserError: one of them is no workdir.
  """
  runs = {}
  for path in config.report.workdirs:
    there = as_path('report.workdirs', path).exists()
    results = Workdir(path, 'report.workdirs').results() if there else {}
    if not results:
      raise UserError(
        f'report.workdirs has {path!r}, which holds no results.json; allowed: '
        'workdirs of finished stages'
      )
    name = str(path).rstrip('/').rpartition('/')[2]
    runs[str(path) if name in runs else name] = results
  page, pictures = comparison(runs)
  for picture in pictures:
    _leave(workdir, picture)
  workdir.write('report/comparison.html', page)
  say(f'report: {workdir / "report/comparison.html"}, {len(runs)} runs')
  return {'comparison': 'report/comparison.html'}


def _leave(workdir: Workdir, picture: Picture) -> str:
  """Writes a picture as PNG and SVG, and returns the name of the PNG."""
  workdir.write(f'report/{picture.name}.svg', picture.vector)
  name = f'report/{picture.name}.png'
  workdir.write(name, picture.light)
  return name


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
