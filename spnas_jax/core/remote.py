"""Paths in buckets: whatever their libraries raise, reported in one line.

`etils.epath` hands gs:// and s3:// to TensorFlow, others to fsspec. A bucket
that does not exist, a login that is missing, a scheme that is unknown: each
raises an exception of its own, few of them an OSError.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from etils import epath

from spnas_jax.core import tensorflow_setup
from spnas_jax.core.errors import UserError


def is_remote(path: str | os.PathLike[str]) -> bool:
  """Whether a path has a scheme, as in gs://BUCKET/FOLDER."""
  return '://' in os.fspath(path)


@contextlib.contextmanager
def reaching(field: str, path: str | os.PathLike[str]) -> Iterator[None]:
  """Around every first touch of a path that a user gave.

  Local paths are left alone: what they raise is an OSError, and the caller
  knows more about it.

  Args:
    field: the configuration key or flag that holds the path.
    path: the path.

  Raises:
    UserError: the path is remote and anything was raised.
  """
  if not is_remote(path):
    yield
    return
  try:
    tensorflow_setup.load_tensorflow()  # Before epath imports it its own way.
    yield
  except UserError:
    raise
  except Exception as e:
    reason = ' '.join(str(e).split())
    raise UserError(
      f'{field} is {os.fspath(path)!r}, which cannot be reached '
      f'({type(e).__name__}: {reason}); check its name, the network and your '
      'access to it'
    ) from e


def as_path(field: str, path: str | os.PathLike[str]) -> epath.Path:
  """A path that a user gave; nothing is touched.

  Raises:
    UserError: it has a scheme that is not known.
  """
  try:
    return epath.Path(path)
  except KeyError as e:
    raise UserError(
      f'{field} is {os.fspath(path)!r}, allowed: a path of this machine or of '
      'a bucket, as in gs://BUCKET/FOLDER'
    ) from e
