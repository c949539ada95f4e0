"""Tables of whole stages, where the numbers come from, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spnas_jax.report.findings import Findings
from spnas_jax.report.mistakes import unbalanced
from spnas_jax.report.numbers import (
  count,
  duration,
  fraction,
  interval,
  plain,
  size,
)
from spnas_jax.report.page import Missing, Table
from spnas_jax.report.plot_style import number
from spnas_jax.report.predictions import calibrated
from spnas_jax.report.units import MS, Unit, unit_of

# Keys of a stage's object that say how the result was made.
_ABOUT = ('config_hash', 'inputs', 'versions', 'platform', 'wall_seconds')

# What each stage adds to the page, in the order of work.
_STAGES = {
  'search': 'The search: progress, gates, superkernels and the found network',
  'train': 'Learning curves of the found network',
  'evaluate': 'Accuracy on the test images',
  'export': 'TFLite models and how close they are to the network in JAX',
  'profile': 'Measured latency on the device',
  'build_table': 'A latency table of this device',
  'validate_table': 'Predicted against measured latency of random networks',
  'random_search': 'Random networks at the same latency, trained alike',
  'compare_zoo': 'Known networks, trained alike',
  'compare': 'Single-path against multi-path supernets',
  'ablate': 'Shared against individual kernels, what gates know, ranking',
  'compile': 'Memory and step time on a TPU, without a TPU',
  'zoo': 'Known networks with parameters, operations, predicted latency',
}
_READ_TABLE = (
  'search',
  'profile',
  'validate_table',
  'random_search',
  'ablate',
)
# Cells that would not fit; results.json has them.
_LONG = ('source', 'note', 'architecture')
_WORDS = {
  'top1': 'top-1',
  'top5': 'top-5',
  'params': 'parameters',
  'macs': 'multiply-adds',
  'ms': 'latency, ms',
  'ms_kind': 'latency is',
  'target_ms': 'target, ms',
  'supernet_top1': 'top-1 in the supernet',
  'pixel1_ms': 'Pixel 1, ms',
  'predicted_ms': 'predicted, ms',
  'measured_ms': 'measured, ms',
  'step_seconds': 'seconds a step',
  'temp_bytes': 'memory of a step',
  'temp_bytes_per_device': 'memory of a step, each device',
  'fits': 'fits the device',
  'num_all_reduces': 'all-reduces a step',
  'estimated_step_seconds': 'seconds a step, estimated',
  'abs_change': '|change of loss|',
  'abs_slope_open': '|slope|, open',
  'abs_slope_closed': '|slope|, closed',
  'correlation_both': 'correlation, mean slope',
  'kendall_tau_top1': "Kendall's τ of top-1",
  'kendall_tau_cross_entropy': "Kendall's τ of cross-entropy",
  'kendall_tau_of_ms': "Kendall's τ of latency and top-1",
}


def missing(found: Findings, workdir: str, table: str) -> list[Missing]:
  """Every part that the workdir does not have, with its command.

  Args:
    found: what there is.
    workdir: its path, as in a command.
    table: path of the latency table, which the stages that read it must get.
  """
  parts = []
  for stage, what in _STAGES.items():
    if stage in found.results:
      continue
    parts.append(Missing(f'{what}:', _command(stage, workdir, table)))
  evaluate = found.stage('evaluate')
  if evaluate and 'per_class' not in evaluate:
    parts.append(
      Missing(
        'Where it errs (an older version evaluated, which did not look; remove '
        "'evaluate' from results.json first):",
        _command('evaluate', workdir, table),
      )
    )
  return parts


def _command(stage: str, workdir: str, table: str) -> str:
  command = f'python main.py --stage={stage} --config=CONFIG'
  command += f' --workdir={workdir}'
  if table and stage in _READ_TABLE:
    command += f' --config.latency_table={table}'
  return command


def provenance(found: Findings) -> list[Table]:
  """Which configuration, machine and versions each stage ran with."""
  rows, versions = [], dict[str, dict[str, list[str]]]()
  for stage in _STAGES:
    result = found.stage(stage)
    if 'config_hash' not in result:
      continue
    rows.append(
      (
        stage,
        result['config_hash'],
        duration(result.get('wall_seconds', 0.0)),
        _device(result.get('platform', {})),
      )
    )
    for package, version in result.get('versions', {}).items():
      versions.setdefault(package, {}).setdefault(version, []).append(stage)
  if not rows:
    return []
  return [
    Table(('stage', 'configuration', 'time', 'device'), rows),
    Table(
      ('package', 'version'),
      [(package, _spell_versions(v)) for package, v in versions.items()],
    ),
  ]


def _device(platform: dict[str, Any]) -> str:
  devices = platform.get('num_devices', 1)
  words = [
    f'{devices} × {platform.get("device", "unknown")}',
    platform.get('machine', ''),
    f'{platform["cpus"]} CPUs' if platform.get('cpus') else '',
  ]
  return ', '.join(word for word in words if word)


def _spell_versions(stages_of: dict[str, list[str]]) -> str:
  """One version; several with the stages that ran with them."""
  if len(stages_of) == 1:
    return next(iter(stages_of))
  return '; '.join(f'{v} ({", ".join(s)})' for v, s in stages_of.items())


def latency_table(found: Findings) -> list[Table]:
  """What the table is of, and what its check said."""
  rows = []
  table, check = found.table, found.stage('validate_table')
  if table is not None:
    device = ', '.join(f'{k}: {v}' for k, v in table.device.items())
    rows += [
      ('table', table.name),
      ('device', device),
      ('threads', str(table.threads)),
      ('image side', f'{table.image_size} px'),
      ('entries', count(len(table.entries))),
      ('made', table.date),
      ('calibration factor', f'{table.factor:.3f}'),
    ]
    if fit := calibrated(found):
      rows += [
        ('networks it was fitted to', count(fit.networks)),
        ('mean error on them', f'{fit.mean_pct:.2f}%'),
      ]
  for key, label, form in (
    ('mean_abs_pct', 'mean error', '{:.2f}%'),
    (
      'mean_abs_pct_at_todays_speed',
      "mean error, device's drift subtracted",
      '{:.2f}%',
    ),
    ('worst_pct', 'worst error', '{:.2f}%'),
    ('uncalibrated_mean_abs_pct', 'mean error, not calibrated', '{:.2f}%'),
    ('rank_correlation', 'rank correlation', '{:.3f}'),
    ('drift_pct', 'device slower than at calibration', '{:+.1f}%'),
  ):
    if isinstance(check.get(key), (int, float)):
      rows.append((label, form.format(check[key])))
  return [Table(('', 'value'), rows)] if rows else []


def accuracy_table(found: Findings) -> list[Table]:
  """Scores of the trained network and of what was exported."""
  evaluate, export = found.stage('evaluate'), found.stage('export')
  total = evaluate.get('num_examples')
  rows = []
  for key, label in (('top1', 'top-1 accuracy'), ('top5', 'top-5 accuracy')):
    if evaluate.get(key) is not None:
      rows.append((label, fraction(evaluate[key])))
      if key == 'top1' and total:
        low, high = interval(evaluate[key], total)
        rows.append(('95% interval', f'{fraction(low)} to {fraction(high)}'))
    if key == 'top1' and unbalanced(found):
      label = 'macro accuracy (mean over the classes)'
      rows.append((label, fraction(evaluate['macro_accuracy'])))
  if total:
    rows.append(('images', count(total)))
  for ending, name in (
    ('', 'float32'),
    ('_fp16', 'float16'),
    ('_int8', 'int8'),
  ):
    if export.get(f'top1{ending}') is not None:
      of = f' of {export["num_images"]}' if 'num_images' in export else ''
      label = f'top-1 of the {name} file'
      rows.append((label, fraction(export[f'top1{ending}']) + of))
  return [Table(('', 'value'), rows)] if rows else []


def stage_table(found: Findings, stage: str, caption: str = '') -> list[Table]:
  """A stage's rows: one for each network, method or setting it compared."""
  value = found.results.get(stage)
  if isinstance(value, dict):
    value = {k: v for k, v in value.items() if k not in _ABOUT}
  return tables_of(value, caption)


def tables_of(value: Any, caption: str = '') -> list[Table]:
  """Tables of whatever a stage left: rows, named rows, single values."""
  if isinstance(value, list):
    rows = [row for row in value if isinstance(row, dict)]
    return [_table(rows, caption)] if rows else []
  if not isinstance(value, dict):
    return []
  tables: list[Table] = []
  scalars = {k: v for k, v in value.items() if _is_scalar(v)}
  if scalars:
    lines = [
      (_heading(k, unit_of([v])), _spell(k, v, unit_of([v])))
      if _is_time(k, v)
      else (_word(k), _spell(k, v))
      for k, v in scalars.items()
    ]
    tables.append(Table(('', 'value'), lines, caption=caption))
  named = {k: v for k, v in value.items() if isinstance(v, dict)}
  if named and all(any(map(_is_scalar, v.values())) for v in named.values()):
    rows_of = [{'': _word(k), **v} for k, v in named.items()]
    tables.append(_table(rows_of, '' if scalars else caption))
  for rows in value.values():
    if isinstance(rows, list):
      tables += tables_of(rows, '' if tables else caption)
  return tables


def _table(rows: Sequence[dict[str, Any]], caption: str) -> Table:
  known = dict.fromkeys(k for row in rows for k in row if _is_scalar(row[k]))
  keys = [k for k in known if k not in _LONG]
  keys.sort(key='status'.__eq__)  # The longest words, so last.
  columns = []
  for key in keys:
    values = [row.get(key) for row in rows]
    times = [v for v in values if _is_time(key, v)]
    unit = unit_of(times)  # One for the whole column.
    heading = _heading(key, unit) if times else _word(key)
    columns.append((heading, [_spell(key, value, unit) for value in values]))
  return Table(
    [heading for heading, _ in columns],
    [list(cells) for cells in zip(*(c for _, c in columns), strict=True)],
    caption=caption,
  )


def _is_scalar(value: Any) -> bool:
  return value is None or isinstance(value, (bool, int, float, str))


def _is_time(key: str, value: Any) -> bool:
  """Whether it is in ms, as the key's end says."""
  known = isinstance(value, (int, float)) and not isinstance(value, bool)
  return known and (key == 'ms' or key.endswith('_ms'))


def _heading(key: str, unit: Unit) -> str:
  """The words of a time's key, with the unit it is written in."""
  return _word(key).removesuffix('ms') + unit.name


def _word(key: str) -> str:
  return _WORDS.get(key, key.removeprefix('num_').replace('_', ' '))


def _spell(key: str, value: Any, unit: Unit = MS) -> str:
  """A value in the unit that its key names, a time in `unit`."""
  if value is None:
    return '–'
  if isinstance(value, str):
    return value
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  if 'tau' in key:
    return f'{value:.2f}'
  if 'top1' in key or 'top5' in key:
    return fraction(value)
  if 'bytes' in key:
    return size(value)
  if _is_time(key, value):
    return number(unit.per_ms * value)
  if isinstance(value, int):
    return count(value)
  return plain(value)
