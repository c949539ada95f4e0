"""What the data set is called that a folder of pictures is prepared as.

The name carries a fingerprint of the folder, so that a folder that was changed
is prepared anew and data that were prepared of another state are never taken
for it. Only names, sizes and times are looked at, not contents.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re

from ml_collections import ConfigDict

from spnas_jax.core.errors import UserError
from spnas_jax.data import folder_listing

VERSION = '1.0.0'
# Where the metadata of a prepared data set keep its report.
REPORT = 'folder_report'
# Goes up when the same folder would be prepared in another way.
_WAY = 1
_DIGITS = 12
_SLUG_LENGTH = 40


def set_name(dataset_config: ConfigDict) -> str:
  """tfds name of the configured data set, prepared or not.

  `dataset.name` without a folder, else the folder's name and fingerprint.

  Raises:
    UserError: `dataset.folder` cannot be looked at, or there is no data set.
  """
  if not dataset_config.folder:
    if not dataset_config.name:
      raise UserError(
        "dataset.folder is '', must be a folder of pictures with one folder "
        'per class, or a .csv table of them; or give dataset.name'
      )
    return dataset_config.name
  return f'{_slug(dataset_config.folder)}_{fingerprint(dataset_config)}'


def title(dataset_config: ConfigDict) -> str:
  """What people call the data set: the folder's or the table's own name."""
  if not dataset_config.folder:
    return dataset_config.name
  path = folder_listing.whole_path(dataset_config.folder)
  return os.path.splitext(os.path.basename(path))[0]


def names_of(folder: str, prepared: list[str]) -> list[str]:
  """Those among some data sets that were prepared of a folder of this name."""
  pattern = re.compile(rf'{_slug(folder)}_[0-9a-f]{{{_DIGITS}}}')
  return [name for name in prepared if pattern.fullmatch(name)]


def fingerprint(dataset_config: ConfigDict) -> str:
  """12 hexadecimal digits of a folder's state and how it is prepared.

  Of the pictures' paths below the folder, sizes, times of change, classes and
  splits, and of the keys that say how they are split and stored. It is looked
  at once in a process, see `forget`. '' without a folder.

  Raises:
    UserError: `dataset.folder` cannot be looked at.
  """
  if not dataset_config.folder:
    return ''
  return _fingerprint(
    dataset_config.folder,
    dataset_config.validation_fraction,
    dataset_config.test_fraction,
    dataset_config.split_seed,
    dataset_config.shrink_to,
  )


def forget() -> None:
  """Lets folders be looked at anew: for the beginning of a run."""
  folder_listing.list_folder.cache_clear()
  _fingerprint.cache_clear()


@functools.lru_cache(maxsize=8)
def _fingerprint(folder: str, *keys: float) -> str:
  listing = folder_listing.list_folder(folder)
  digest = hashlib.sha256(repr((_WAY, *map(float, keys))).encode())
  for f in listing.files:
    line = repr((f.path, f.size, f.time, f.label, f.split))
    digest.update(line.encode())
  return digest.hexdigest()[:_DIGITS]


def _slug(folder: str) -> str:
  """The end of a path as tfds takes names: lower case, letter first.

  Of a table its own name and its folder's.
  """
  path = folder_listing.whole_path(folder)
  stem, kind = os.path.splitext(path)
  is_table = kind.lower() == '.csv'
  words = (stem if is_table else path).split('/')[-2 if is_table else -1 :]
  slug = re.sub('[^a-z0-9]+', '_', '_'.join(words).lower()).strip('_')
  slug = slug[:_SLUG_LENGTH].rstrip('_')
  return slug if slug[:1].isalpha() else f'folder_{slug}'.rstrip('_')
