"""Where prepared tfds data sets lie: finding them, and writing our own.

`digits`, `fashion_mnist` and folders of pictures are written to
`dataset.data_dir` on first use from files that are already there; any other
tfds data set must have been prepared before. Nothing here ever downloads.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from spnas_jax.core import tensorflow_setup
from spnas_jax.core.errors import UserError
from spnas_jax.core.places import kept
from spnas_jax.core.remote import as_path, is_remote, reaching
from spnas_jax.data import folder_names

# Where the Debian package dataset-fashion-mnist puts its files.
FASHION_MNIST_DIR = '/usr/share/datasets/fashion-mnist'

# Data sets with a builder in `builders.py`, and their version there.
LOCAL_VERSIONS = {'digits': '1.0.0', 'fashion_mnist': '1.0.0'}

# 'name', 'name/config', 'name:version' or both; what else tfds may understand
# (namespaces, CamelCase) is left to it.
_PLAIN_NAME = re.compile(r'([a-z0-9_]+)(/[^:]*)?(:\d.*)?')


def data_dir(dataset_config: ConfigDict) -> str:
  """The folder of the prepared data sets, the empty default filled in."""
  if dataset_config.data_dir:
    return os.path.expanduser(dataset_config.data_dir)
  return str(kept('data'))


def find_prepared(dataset_config: ConfigDict) -> Any:
  """Returns a read-only tfds builder, or None if nothing is prepared.

  tfds takes a second to import, and is not where there is no folder to read.
  """
  name = _name(dataset_config)
  if name.startswith(('/', '.', '~')):
    raise UserError(
      f'dataset.name is {name!r}: a path; allowed: the name of a tfds data '
      'set, which lies in a folder of that name under dataset.data_dir; a '
      'folder of pictures is dataset.folder.'
    )
  plain = _PLAIN_NAME.fullmatch(name)
  folder = data_dir(dataset_config)
  with reaching('dataset.data_dir', folder):
    root = as_path('dataset.data_dir', folder)
    if plain and not (root / plain[1]).exists():
      return None
  tfds = tensorflow_setup.load_tfds()
  kwargs = {'data_dir': data_dir(dataset_config)}
  if name in LOCAL_VERSIONS:
    kwargs['version'] = LOCAL_VERSIONS[name]
  try:
    return tfds.core.read_only_builder.builder_from_files(name, **kwargs)
  except tfds.core.registered.DatasetNotFoundError:
    return None
  except Exception as error:  # tfds raises whatever damaged metadata cause.
    raise UserError(
      f'dataset.name is {name!r}: what is prepared under '
      f'dataset.data_dir={data_dir(dataset_config)!r} cannot be read '
      f'({first_line(error)}); delete it and prepare it again.'
    ) from error


def _name(dataset_config: ConfigDict) -> str:
  """`folder_names.set_name`; its error says what can be used instead."""
  try:
    return folder_names.set_name(dataset_config)
  except UserError as error:
    folder = data_dir(dataset_config)
    names = folder_names.names_of(
      dataset_config.folder, _prepared_names(folder)
    )
    if not names:
      raise
    raise UserError(
      f'{error} What was prepared of a folder of that name can be used without '
      f'it: dataset.folder= and dataset.name={" or ".join(names)}, under '
      f'dataset.data_dir={folder!r}.'
    ) from error


def prepare(dataset_config: ConfigDict, label_names: tuple[str, ...]) -> Any:
  """Writes one of our own data sets under data_dir, once for all processes.

  tfds writes to a folder with a temporary name and renames it, so that half a
  data set is never seen; the lock only spares the others the work. It is
  released by the system if its owner dies.

  Returns:
    What `find_prepared` returns afterwards.

  Raises:
    UserError: if the images are missing or data_dir cannot be written to.
  """
  name = _name(dataset_config)
  folder = data_dir(dataset_config)
  _check_apart(dataset_config, folder)
  problem = 'what is there is not a whole data set; delete it'
  try:
    with reaching('dataset.data_dir', folder), _lock(folder, name):
      _write(dataset_config, label_names)
  except OSError as error:
    # A process that could not share the lock may have been faster.
    problem = first_line(error)
  builder = find_prepared(dataset_config)
  if builder is None:
    raise UserError(
      f'dataset.data_dir is {folder!r}: {name} cannot be written there '
      f'({problem}).'
    )
  return builder


def _check_apart(dataset_config: ConfigDict, folder: str) -> None:
  """Refuses to write into the pictures: that would change them every time."""
  pictures = dataset_config.folder
  if not pictures or pictures.lower().endswith('.csv') or is_remote(folder):
    return
  inner, outer = (
    os.path.realpath(os.path.expanduser(path)) for path in (folder, pictures)
  )
  if os.path.commonpath([inner, outer]) == outer:
    raise UserError(
      f'dataset.data_dir is {folder!r}: inside dataset.folder={pictures!r}; '
      'allowed: any place outside.'
    )


def _write(dataset_config: ConfigDict, label_names: tuple[str, ...]) -> None:
  tensorflow_setup.load_tensorflow()
  tfds = tensorflow_setup.load_tfds()
  if dataset_config.folder:
    # Whoever waited for the lock finds it done.
    if find_prepared(dataset_config) is not None:
      return
    builder = _folder_builder(dataset_config)
  else:
    from spnas_jax.data import builders as dataset_builders

    builder = dataset_builders.BUILDERS[dataset_config.name](
      data_dir=data_dir(dataset_config),
      raw_dir=_raw_dir(dataset_config),
      label_names=label_names,
    )
  logging.info('Preparing %s.', builder.data_path)
  with (
    tempfile.TemporaryDirectory() as unused,
    # tfds prints its progress.
    contextlib.redirect_stdout(io.StringIO()),
  ):
    builder.download_and_prepare(
      download_dir=unused,
      download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )


def _folder_builder(dataset_config: ConfigDict) -> Any:
  from spnas_jax.core.console import say  # JAX.
  from spnas_jax.data import folder_builder

  say(f'data: reading {dataset_config.folder}; this is done once')
  return folder_builder.Folder(
    name=_name(dataset_config),
    examined=folder_builder.examine(dataset_config),
    shrink_to=dataset_config.shrink_to,
    data_dir=data_dir(dataset_config),
  )


@contextlib.contextmanager
def _lock(folder: str, name: str) -> Iterator[None]:
  """Holds a lock file in a folder, if its file system has locks."""
  if is_remote(folder):
    yield
    return
  os.makedirs(folder, exist_ok=True)
  with open(os.path.join(folder, f'.{name}.lock'), 'w') as file:
    with contextlib.suppress(OSError):
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _raw_dir(dataset_config: ConfigDict) -> str:
  if dataset_config.raw_dir:
    return os.path.expanduser(dataset_config.raw_dir)
  folder = data_dir(dataset_config)
  if any(as_path('dataset.data_dir', folder).glob('train-images-idx3-ubyte*')):
    return folder
  return FASHION_MNIST_DIR


def not_prepared(dataset_config: ConfigDict) -> UserError:
  """The error for a data set that is not there and cannot be written."""
  name, folder = dataset_config.name, data_dir(dataset_config)
  tfds = tensorflow_setup.load_tfds()
  plain = _PLAIN_NAME.fullmatch(name)
  known = tfds.list_builders(with_community_datasets=False)
  how = (
    f'prepare it in Python with tfds.builder({name!r}, data_dir={folder!r})'
    '.download_and_prepare()'
    if plain and plain[1] in known
    else 'tfds knows no data set of that name either; a folder of pictures is '
    'read with dataset.folder, as README says under "Your own pictures"'
  )
  there = sorted({*_prepared_names(folder), *LOCAL_VERSIONS})
  return UserError(
    f'dataset.name is {name!r}: not prepared under '
    f'dataset.data_dir={folder!r}; {how}; or set dataset.data_dir '
    'to where it is. Without that there are '
    f'{", ".join(there)}.'
  )


def _prepared_names(folder: str) -> list[str]:
  """Data sets prepared in a folder; none where it cannot be read."""
  try:
    folders = list(as_path('dataset.data_dir', folder).iterdir())
    return [p.name for p in folders if any(p.glob('*.*.*'))]
  except OSError:
    return []


def first_line(error: BaseException) -> str:
  """The first line of an error's text, for messages of one line."""
  return (str(error).strip().splitlines() or [type(error).__name__])[0]
