"""Settings that a folder of pictures chooses where the configuration does not.

A configuration leaves such a key unset (None), as configs/image_folder.py does;
the rule is `folder_settings.settings`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from spnas_jax.config.rules import get
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.data import datasets
from spnas_jax.data.folder_settings import settings

# Keys that may be unset.
KEYS = tuple(settings(1000, 10, 64, 64))


def unset(config: ConfigDict) -> list[str]:
  """Those of `KEYS` that the configuration leaves to the data."""
  return [key for key in KEYS if get(config, key) is None]


def with_values(
  config: ConfigDict, value_of: Callable[[str], Any]
) -> ConfigDict:
  """A copy in which unset keys have a value, `value_of('a.b')`."""
  filled = config.copy_and_resolve_references()
  for key in unset(config):
    section, _, name = key.rpartition('.')
    get(filled, section)[name] = value_of(key)
  return filled


def fill(config: ConfigDict, default: ConfigDict) -> ConfigDict:
  """A copy in which the data set has chosen what is unset, and says so.

  Args:
    config: the configuration.
    default: of every key. Without a data set (a stage that reads none may run
      so) unset keys get these values.

  Raises:
    UserError: the data set is not a folder of pictures, or cannot be read.
  """
  keys = unset(config)
  if not keys:
    return config
  plain = with_values(config, functools.partial(get, default))
  if not plain.dataset.folder and not plain.dataset.name:
    return plain
  report = datasets.folder_report(plain.dataset)
  if not report:
    raise UserError(
      f'{keys[0]} is None, allowed: a value; only a folder of pictures '
      f'(dataset.folder) chooses what is unset: {", ".join(keys)}'
    )
  facts = datasets.info(plain.dataset)
  height, width = report['median_height'], report['median_width']
  chosen = settings(facts.num_train, facts.num_classes, height, width)
  words = ', '.join(f'{key}={chosen[key]}' for key in keys)
  say(
    f'data: settings for {facts.num_train} training images of {width:.0f} x '
    f'{height:.0f} pixels, where none were given: {words}'
  )
  return with_values(config, chosen.__getitem__)
