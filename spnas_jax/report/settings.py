"""The configuration that the results on a page were made with."""

from __future__ import annotations

import json
from typing import Any

from ml_collections import ConfigDict

from spnas_jax.config.defaults import default_config
from spnas_jax.report.findings import Findings
from spnas_jax.report.page import Table


def flat(config: ConfigDict, path: str = '') -> dict[str, Any]:
  """{'a.b': value} of every key, in the order in which they are defined."""
  found: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      found |= flat(value, f'{path}{key}.')
    else:
      found[path + key] = value
  return found


def resolved(found: Findings, config: ConfigDict) -> dict[str, list[Any]]:
  """Every key with its values: more than one where stages ran with others.

  What a stage has recorded counts; `config`, that of the report, says the rest.
  """
  values: dict[str, list[Any]] = {}
  for key, value in _plain(flat(config)).items():
    recorded: list[Any] = []
    for stage in found.results:
      inputs = found.stage(stage).get('inputs', {})
      # Without a section, it may be a fact of the stage with the key's name.
      if key in inputs and ('.' in key or key == 'seed'):
        recorded += [inputs[key]] if inputs[key] not in recorded else []
    values[key] = recorded or [value]
  return values


def _plain(values: dict[str, Any]) -> dict[str, Any]:
  """As JSON has it, which results.json is."""
  return json.loads(json.dumps(values, default=str))


def tables(found: Findings, config: ConfigDict) -> list[Table]:
  """What is not as by default, and every key, folded."""
  default = _plain(flat(default_config()))
  values = resolved(found, config)
  changed = {k: v for k, v in values.items() if v != [default.get(k)]}
  result = []
  if changed:
    rows = [
      (k, _spell(v), _spell([default.get(k)])) for k, v in changed.items()
    ]
    header = ('key', 'value', 'default')
    caption = 'Settings that are not as by default'
    result.append(Table(header, rows, caption=caption, wide=True))
  every = [(key, _spell(value)) for key, value in values.items()]
  folded = f'All {len(every)} settings'
  result.append(Table(('key', 'value'), every, wide=True, folded=folded))
  return result


def _spell(values: list[Any]) -> str:
  return '; '.join(map(_spell_one, values))


def _spell_one(value: Any) -> str:
  """As one would type it."""
  if isinstance(value, list):
    inside = ', '.join(map(_spell_one, value))
    return f'({inside}{"," * (len(value) == 1)})'
  if isinstance(value, str):
    return f"'{value}'" if ' ' in value or not value else value
  return str(value)
