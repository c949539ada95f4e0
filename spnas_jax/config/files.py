"""Configurations by name or path, from Python and from the command line."""

from __future__ import annotations

import importlib.util
import pathlib
from typing import Any

from ml_collections import ConfigDict

from spnas_jax.config.defaults import default_config
from spnas_jax.core.errors import UserError
from spnas_jax.core.places import shipped


def shipped_names() -> tuple[str, ...]:
  """Names of the configurations that come with the project."""
  return tuple(sorted(path.stem for path in shipped('configs').glob('*.py')))


def config_path(name_or_path: str) -> str:
  """Path of a configuration file; a shipped name may stand for its path.

  Args:
    name_or_path: 'digits', 'imagenet_search:official' (a variant after the
      colon), or the path of a Python file with `get_config`.
  """
  name, colon, variant = name_or_path.partition(':')
  if name in shipped_names() and not pathlib.Path(name).is_file():
    return str(shipped('configs') / f'{name}.py') + colon + variant
  return name_or_path


def load_config(name_or_path: str, **overrides: Any) -> ConfigDict:
  """The configuration of a file, with some keys changed.

  Args:
    name_or_path: see `config_path`.
    **overrides: new values; 'search__epochs' or 'search.epochs' (by `**`) is
      the key `search.epochs`.

  Raises:
    UserError: there is no such configuration or key.
  """
  path, _, variant = config_path(name_or_path).partition(':')
  if not pathlib.Path(path).is_file():
    raise UserError(
      f'config is {name_or_path!r}, allowed: the path of a Python file, or one '
      f'of {", ".join(shipped_names())}'
    )
  spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config(variant) if variant else module.get_config()
  for name, value in overrides.items():
    field = name.replace('__', '.')
    *sections, key = field.split('.')
    target, known = config, default_config()
    try:
      for part in sections:
        target, known = target[part], known[part]
      if key not in known:
        raise KeyError(key)
      target[key] = value
    except (KeyError, TypeError, AttributeError) as e:
      raise UserError(f'{field} is {value!r}: {e}') from e
  return config
