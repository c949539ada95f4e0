"""Several workdirs side by side: one page, one picture, what differs.

Pure: results of finished stages in, a page out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spnas_jax.report.accuracy_figures import Point, accuracy_latency
from spnas_jax.report.numbers import count, duration, fraction, ms, size
from spnas_jax.report.page import (
  Picture,
  Section,
  Table,
  Verdict,
  drawn,
  render,
)
from spnas_jax.report.verdicts import comparable_ms

Results = Mapping[str, Any]
# Stages whose settings are compared.
_STAGES = ('search', 'train', 'evaluate', 'export', 'profile')


def comparison(runs: Mapping[str, Results]) -> tuple[str, list[Picture]]:
  """(page, its pictures) of several runs.

  Args:
    runs: name -> results.json of a workdir, in the order in which they appear.
  """
  problems: list[str] = []
  pictures = _pictures(runs, problems)
  sections = [
    Section(
      'Side by side',
      'Accuracy against latency: further up is better, further left is faster.',
      pictures,
      [_networks(runs), _overview(runs)],
    )
  ]
  if tables := _curves(runs):
    sections.append(Section('Curves', _CURVES, (), tables))
  if table := _differences(runs):
    sections.append(
      Section(
        'What differs',
        'Settings that are not the same in all of them.',
        (),
        [table],
      )
    )
  page = render(
    f'{len(runs)} runs',
    ', '.join(runs),
    (),
    [*_warnings(runs), *_unfinished(runs)],
    sections,
    (),
    problems,
  )
  return page, pictures


_CURVES = (
  'Networks that one supernet gave for several targets, scored with its '
  'weights.'
)


def point_of(results: Results) -> Point | None:
  """(measured or else predicted ms, top-1) of a run's network."""
  top1 = results.get('evaluate', {}).get('top1')
  latency = latency_of(results)[0]
  if top1 is None or latency is None:
    return None
  return Point(latency, top1)


def latency_of(results: Results) -> tuple[float | None, str]:
  """(ms, 'measured' or 'predicted') of a run's network."""
  profile = results.get('profile', {})
  if profile.get('median_ms') is not None:
    return comparable_ms(profile), 'measured'
  return results.get('search', {}).get('predicted_ms'), 'predicted'


def _pictures(
  runs: Mapping[str, Results], problems: list[str]
) -> list[Picture]:
  points = {
    name: [point]
    for name, results in runs.items()
    if (point := point_of(results)) is not None
  }
  if not points:
    return []
  kinds = {latency_of(runs[name])[1] for name in points}
  latency = ' or '.join(sorted(kinds))

  def draw(colours):
    return accuracy_latency(
      families=points, latency=f'{latency} latency', colours=colours
    )

  caption = 'Top-1 accuracy on test images and ' + (
    f'{latency} latency of the network of each run.'
    if len(kinds) == 1
    else 'latency of the network of each run, measured where it was.'
  )
  return drawn(problems, 'compared', caption, draw)


def _overview(runs: Mapping[str, Results]) -> Table:
  header = (
    'run',
    'top-1',
    'int8 top-1',
    'latency',
    'target',
    'file',
    'search',
    'images seen',
  )
  rows = []
  for name, results in runs.items():
    search, export = results.get('search', {}), results.get('export', {})
    evaluate = results.get('evaluate', {})
    latency, kind = latency_of(results)
    cells = [
      name,
      fraction(evaluate['top1']) if 'top1' in evaluate else '–',
      fraction(export['top1_int8'])
      if export.get('top1_int8') is not None
      else '–',
      f'{ms(latency)}, {kind}' if latency is not None else '–',
      ms(search['target_ms']) if search.get('target_ms') else '–',
      size(export['bytes']) if 'bytes' in export else '–',
      duration(search['seconds']) if 'seconds' in search else '–',
      count(search['cost_images']) if search.get('cost_images') else '–',
    ]
    rows.append(cells)
  return Table(header, rows, explained=False)


def _networks(runs: Mapping[str, Results]) -> Table:
  """What each run trained, or would."""
  rows = [
    (name, results.get('train', results.get('search', {})).get('architecture'))
    for name, results in runs.items()
  ]
  return Table(('run', 'network'), [(name, arch or '–') for name, arch in rows])


def _curves(runs: Mapping[str, Results]) -> list[Table]:
  tables = []
  for name, results in runs.items():
    points = results.get('search', {}).get('curve') or ()
    rows = [
      (
        point['name'],
        ms(point['target_ms']),
        ms(point['predicted_ms']),
        fraction(point['supernet_top1']),
      )
      for point in points
    ]
    if rows:
      header = ('point', 'target', 'predicted', 'top-1 in the supernet')
      tables.append(Table(header, rows, caption=name))
  return tables


def _differences(runs: Mapping[str, Results]) -> Table | None:
  """Recorded inputs that are not alike, a column for each run."""
  inputs: dict[str, dict[str, Any]] = {}
  for name, results in runs.items():
    for stage in _STAGES:
      for key, value in results.get(stage, {}).get('inputs', {}).items():
        # Facts of a stage, such as a hash, belong to it; keys of the
        # configuration are the same in all of them.
        full = key if '.' in key or key == 'seed' else f'{stage}: {key}'
        inputs.setdefault(full, {}).setdefault(name, value)
  rows = []
  for key, by_run in sorted(inputs.items()):
    # A run that did not record a key, or has not come so far, says nothing.
    known = list(by_run.values())
    if any(value != known[0] for value in known):
      rows.append([key, *(str(by_run.get(name, '–')) for name in runs)])
  return Table(('key', *runs), rows) if rows else None


def _warnings(runs: Mapping[str, Results]) -> list[Verdict]:
  """Why numbers of these runs may not be compared."""
  found = []
  for what, of in (
    ('data sets', _dataset),
    ('devices', lambda r: r.get('profile', {}).get('device')),
    ('test splits', lambda r: r.get('evaluate', {}).get('split')),
  ):
    values = [value for r in runs.values() if (value := of(r)) is not None]
    if any(value != values[0] for value in values):
      found.append(
        Verdict(
          'bad',
          f'These runs have different {what}: compare with care.',
        )
      )
  kinds = {latency_of(r)[1] for r in runs.values() if latency_of(r)[0]}
  if len(kinds) > 1:
    found.append(
      Verdict('note', 'Some latencies are measured, others only predicted.')
    )
  return found


def _dataset(results: Results) -> Any:
  for stage in _STAGES:
    inputs = results.get(stage, {}).get('inputs', {})
    for key in ('dataset.fingerprint', 'dataset.name'):
      if key in inputs:
        return inputs[key]
  return None


def _unfinished(runs: Mapping[str, Results]) -> list[Verdict]:
  """Stages that a run has not finished."""
  lines = []
  for name, results in runs.items():
    left = [stage for stage in _STAGES if stage not in results]
    if left:
      lines.append(
        Verdict('note', f'{name} has not finished: {", ".join(left)}.')
      )
  return lines
