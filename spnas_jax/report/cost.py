"""What the search cost, counted as the paper counts it (section 4.2)."""

from __future__ import annotations

from typing import Any

from spnas_jax.report.findings import Findings
from spnas_jax.report.numbers import count, duration
from spnas_jax.report.page import Table

# The paper's search on ImageNet; its 30 TPU-hours are 3.75 h on 8 cores.
_PAPER = {
  'epochs': '8',
  'images': '10,248,192',
  'steps': '10,008',
  'time': '3 h 45 min',
  'devices': '8 × TPU v2 core',
  'hours': '30.0 TPU-hours',
}
# Kinds of accelerator, by how JAX names the device.
_KINDS = (('tpu', 'TPU'), ('nvidia', 'GPU'), ('amd instinct', 'GPU'))


def device_hours(stage: dict[str, Any]) -> float | None:
  """Hours of a stage times its devices; None where it is not known."""
  seconds = stage.get('seconds', stage.get('wall_seconds'))
  devices = stage.get('platform', {}).get('num_devices')
  if seconds is None or devices is None:
    return None
  return seconds * devices / 3600


def hours(stage: dict[str, Any]) -> str:
  """'30.0 TPU-hours', '0.0317 device-hours (1 min 54 s)' or '–'."""
  total = device_hours(stage)
  if total is None:
    return '–'
  name = str(stage['platform'].get('device', '')).lower()
  kinds = [kind for sign, kind in _KINDS if sign in name]
  if kinds:
    return f'{total:#.3g} {kinds[0]}-hours'
  return f'{total:#.3g} device-hours ({duration(3600 * total)})'


def search_cost(found: Findings) -> list[Table]:
  """The search beside the paper's; a stage that has not run is left out."""
  search = found.stage('search')
  if 'cost_epochs' not in search:
    return []
  platform = search.get('platform', {})
  devices = f'{platform.get("num_devices", 1)} × {platform.get("device", "?")}'
  own = {
    'epochs': count(search['cost_epochs']),
    'images': _spell(search.get('cost_images')),
    'steps': _spell(search.get('steps')),
    'time': duration(search['seconds']) if 'seconds' in search else '–',
    'devices': devices,
    'hours': hours(search),
  }
  labels = {
    'epochs': 'epochs',
    'images': 'images seen',
    'steps': 'steps',
    'time': 'wall-clock time',
    'devices': 'devices',
    'hours': 'time × devices',
  }
  rows = [(label, own[key], _PAPER[key]) for key, label in labels.items()]
  header = ('', 'this search', 'the paper, on ImageNet')
  return [Table(header, rows, caption='What the search cost')]


def _spell(value: float | None) -> str:
  return '–' if value is None else count(value)
