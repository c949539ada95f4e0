"""What happens before a stage: checks, processes, compilation cache."""

from __future__ import annotations

import difflib
import gc
import os
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from spnas_jax.config import automatic, rules
from spnas_jax.config import defaults as config_lib
from spnas_jax.config.workdir import Workdir
from spnas_jax.core import disk
from spnas_jax.core.errors import UserError
from spnas_jax.core.places import kept
from spnas_jax.data import datasets, folder_names


def start(config: ConfigDict, workdir: str) -> tuple[ConfigDict, Workdir]:
  """Checks the configuration and prepares JAX.

  Raises:
    UserError: a key or a value is not allowed, or the workdir cannot be used.
  """
  default = config_lib.default_config()
  # A run fills in what the data say; the caller's stays as it is.
  config = config.copy_and_resolve_references()
  # What is wrong is said before JAX starts, whatever the data choose.
  likely = automatic.with_values(config, lambda key: rules.get(default, key))
  check_values(likely, default)
  logging.set_verbosity(logging.WARNING)
  disk.quiet()
  prepare_jax(config)
  folder_names.forget()
  filled = automatic.fill(config, default)
  if filled is not config:
    check_values(filled, default)
  return filled, Workdir(workdir)


def check_values(config: ConfigDict, default: ConfigDict) -> None:
  """Refuses keys and values that are not allowed, with a UserError."""
  check_keys(config, default)
  rules.check(config)
  datasets.check(config.dataset)


def check_keys(config: ConfigDict, default: ConfigDict, path: str = '') -> None:
  """Refuses keys and types that `default` does not have, and missing keys.

  The command line is checked by its parser; a config file may set anything.

  Raises:
    UserError: one line with the key and what is allowed.
  """
  for key in config:
    if key not in default:
      close = difflib.get_close_matches(key, list(default), 1)
      hint = f'; did you mean {path}{close[0]}?' if close else ''
      raise UserError(f'{path}{key}: the config has no such key{hint}')
  for key in default:
    if key not in config:
      raise UserError(
        f'{path}{key} is missing in the config; start from '
        'spnas_jax.config.defaults.default_config()'
      )
    value, kind = config[key], default.get_type(key)
    if issubclass(kind, ConfigDict) and isinstance(value, ConfigDict):
      check_keys(value, default[key], f'{path}{key}.')
    elif not (value is None and default[key] is None):
      _check_type(f'{path}{key}', value, kind)
      if kind is tuple:
        kinds = {type(leaf) for leaf in _leaves(default[key])}
        for leaf in _leaves(value) if len(kinds) == 1 else ():
          _check_type(f'an element of {path}{key}', leaf, *kinds)


def _check_type(what: str, value: Any, kind: type) -> None:
  fits = isinstance(value, (int, float) if kind is float else kind)
  if not fits or (isinstance(value, bool) and kind is not bool):
    name = 'config section' if issubclass(kind, ConfigDict) else kind.__name__
    raise UserError(f'{what} is {value!r}, must be of type {name}')


def _leaves(value: Any) -> list[Any]:
  """Elements of nested tuples."""
  if not isinstance(value, (tuple, list)):
    return [value]
  return [leaf for item in value for leaf in _leaves(item)]


def prepare_jax(config: ConfigDict | None = None) -> None:
  """Joins and watches other processes, turns the compilation cache on.

  Args:
    config: its section `processes` is read; None = only the environment is.

  Raises:
    UserError: the processes of a run cannot be joined.
  """
  import jax

  from spnas_jax.core import parallel, peers, processes

  # Tracing makes hundreds of thousands of objects that stay. At Python's own
  # threshold, looking for cycles among them takes a third of its time.
  gc.set_threshold(50_000)
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    jax.config.update('jax_compilation_cache_dir', str(kept('jax')))
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  processes.join(None if config is None else config.processes)
  if config is not None:
    parallel.use(config.processes.mapping)
  peers.watch()
