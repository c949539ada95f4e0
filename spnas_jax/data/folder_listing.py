"""Which files a folder of pictures has, and the class and split of each.

Names, sizes and times only: no file is opened but a table of labels. Three
layouts are understood:

* `DIR/CLASS/...`;
* `DIR/SPLIT/CLASS/...`, SPLIT one of `SPLIT_NAMES`, `train` among them;
* a table `FILE.csv` with the columns filename (relative to the table), label
  and, if it likes, split.

Below CLASS files may lie as deep as they like.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from concurrent.futures import ThreadPoolExecutor

from spnas_jax.core.errors import UserError
from spnas_jax.core.remote import as_path, is_remote, reaching
from spnas_jax.data import folder_table
from spnas_jax.data.folder_words import (
  SPLIT_NAMES,
  class_name,
  natural_order,
  some,
)

# What a file's name may end in if it is meant to be a picture: whether it is
# one, its content says.
PICTURE_SUFFIXES = (
  *('.avif', '.bmp', '.gif', '.heic', '.heif', '.jfif', '.jp2', '.jpe'),
  *('.jpeg', '.jpg', '.pgm', '.png', '.pnm', '.ppm', '.tif', '.tiff', '.webp'),
)
# What systems leave in folders beside names that begin with a dot.
_LEFT_BY_SYSTEMS = frozenset({'__macosx', 'desktop.ini', 'thumbs.db'})
# Requests to a bucket that are under way at a time.
_REQUESTS = 32


@dataclasses.dataclass(frozen=True)
class File:
  """A file that may be a picture.

  Attributes:
    path: relative to the root, with '/'.
    size: bytes; -1 if it cannot be asked for.
    time: of the last change, nanoseconds; of a bucket whole seconds.
    label: name of its class.
    split: 'train', 'validation', 'test', or '' where none is given.
    meant: whether its name, or a table, says that it is a picture.
  """

  path: str
  size: int
  time: int
  label: str
  split: str
  meant: bool


@dataclasses.dataclass(frozen=True)
class Listing:
  """What lies in a folder.

  Attributes:
    root: the folder that the files' paths start from.
    layout: 'classes', 'splits' or 'table'.
    files: in order of their paths.
    label_names: of all class folders, those without files too; '2' comes
      before '10'.
    hidden: number of hidden files that were passed over.
    outside: number of files passed over because they are in no class folder.
    nested: where pictures may have been meant to be looked for: a class folder
      that holds folders, if there is no other class; or ''.
  """

  root: str
  layout: str
  files: tuple[File, ...]
  label_names: tuple[str, ...]
  hidden: int
  outside: int
  nested: str


# Relative path, size, time.
_Entry = tuple[str, int, int]


# A run sees one state of a folder, whatever is put there while it goes on.
@functools.lru_cache(maxsize=8)
def list_folder(folder: str) -> Listing:
  """Looks at a folder once in a process, see `folder_names.forget`.

  Args:
    folder: path of the folder, or of its .csv table; may be in a bucket.

  Raises:
    UserError: it is not there, or its layout is none of those above.
  """
  folder = whole_path(folder)
  with reaching('dataset.folder', folder):
    path = as_path('dataset.folder', folder)
    try:
      if folder.lower().endswith('.csv') and not path.is_dir():
        return _of_table(folder)
      if not path.is_dir():
        what = 'not a folder' if path.exists() else 'not there'
        raise UserError(
          f'dataset.folder is {folder!r}: {what}; allowed: a folder of '
          'pictures, or a .csv table of them.'
        )
      entries, folders, hidden = (
        _remote_entries(folder) if is_remote(folder) else _entries(folder)
      )
    except OSError as error:
      raise UserError(
        f'dataset.folder={folder!r} cannot be read ({error}).'
      ) from error
    return _of_folders(folder, entries, folders, hidden)


def whole_path(folder: str) -> str:
  """From the root of this machine, or of a bucket; no slash at the end."""
  if is_remote(folder):
    return folder.rstrip('/')
  return os.path.abspath(os.path.expanduser(folder))


# --- folders ------------------------------------------------------------------


def _entries(root: str) -> tuple[list[_Entry], list[str], int]:
  """All files below a folder of this machine, its folders, hidden files.

  Links are followed, though none to a folder that one is in.
  """
  files: list[_Entry] = []
  folders: list[str] = []
  hidden = 0
  waiting = [('', frozenset({os.path.realpath(root)}))]
  while waiting:
    folder, above = waiting.pop()
    with os.scandir(os.path.join(root, folder)) as found:
      for entry in found:
        path = f'{folder}/{entry.name}' if folder else entry.name
        if _is_hidden(entry.name):
          hidden += 1
        elif entry.is_dir():
          place = os.path.realpath(entry.path) if entry.is_symlink() else path
          if place not in above:
            folders.append(path)
            waiting.append((path, above | {os.path.realpath(entry.path)}))
        else:
          files.append((path, *_size_and_time(entry.path)))
  return files, folders, hidden


def _remote_entries(root: str) -> tuple[list[_Entry], list[str], int]:
  """`_entries` of a bucket."""
  paths: list[str] = []
  folders: list[str] = []
  hidden = 0
  top = as_path('dataset.folder', root)
  waiting = ['']
  while waiting:
    folder = waiting.pop()
    for place in (top / folder if folder else top).iterdir():
      path = f'{folder}/{place.name}' if folder else place.name
      if _is_hidden(place.name):
        hidden += 1
      elif place.is_dir():
        folders.append(path)
        waiting.append(path)
      else:
        paths.append(path)
  return _asked(root, paths), folders, hidden


def _asked(root: str, paths: list[str]) -> list[_Entry]:
  """Size and time of every file, many at a time."""

  def ask(path: str) -> _Entry:
    if not is_remote(root):
      return (path, *_size_and_time(os.path.join(root, path)))
    place = as_path('dataset.folder', root) / path
    try:
      found = place.stat()
    except Exception:  # Each kind of bucket raises what it likes.
      if place.exists():
        raise
      return path, -1, 0
    return path, found.length, int(found.mtime) * 10**9

  with ThreadPoolExecutor(_REQUESTS) as pool:
    return list(pool.map(ask, paths))


def _size_and_time(path: str) -> tuple[int, int]:
  try:
    found = os.stat(path)
  except OSError:  # A link to nowhere.
    return -1, 0
  return found.st_size, found.st_mtime_ns


def _is_hidden(name: str) -> bool:
  return name.startswith('.') or name.lower() in _LEFT_BY_SYSTEMS


def _is_meant(path: str) -> bool:
  return os.path.splitext(path)[1].lower() in PICTURE_SUFFIXES


def _of_folders(
  root: str, entries: list[_Entry], folders: list[str], hidden: int
) -> Listing:
  splits = _split_folders(root, [path for path, _, _ in entries])
  depth = 2 if splits else 1
  files = []
  outside = 0
  for path, size, time in entries:
    parts = path.split('/')
    if len(parts) <= depth or (splits and parts[0] not in splits):
      outside += 1
      continue
    split = splits.get(parts[0], '') if splits else ''
    label = class_name(parts[depth - 1])
    files.append(File(path, size, time, label, split, _is_meant(path)))
  class_folders = [
    f
    for f in folders
    if f.count('/') == depth - 1
    and (not splits or f.partition('/')[0] in splits)
  ]
  names = {class_name(f.rpartition('/')[2]) for f in class_folders}
  names |= {file.label for file in files}
  nested = ''
  if len(class_folders) == 1:
    inner = [f for f in folders if f.startswith(f'{class_folders[0]}/')]
    if len(inner) > 1:
      nested = f'{root}/{class_folders[0]}'
  return Listing(
    root=root,
    layout='splits' if splits else 'classes',
    files=tuple(sorted(files, key=lambda file: file.path)),
    label_names=tuple(sorted(names, key=natural_order)),
    hidden=hidden,
    outside=outside,
    nested=nested,
  )


def _split_folders(root: str, paths: list[str]) -> dict[str, str]:
  """Folders of splits -> split; none if the folders are those of classes.

  Raises:
    UserError: they are a mixture, or train is missing.
  """
  tops: dict[str, int] = {}  # Folder -> how deep its pictures lie.
  for path in [p for p in paths if _is_meant(p)] or paths:
    top, _, rest = path.partition('/')
    if rest:
      tops[top] = max(tops.get(top, 0), rest.count('/'))
  splits = {t: SPLIT_NAMES[t.lower()] for t in tops if t.lower() in SPLIT_NAMES}
  others = [t for t in tops if t not in splits]
  names = ', '.join(SPLIT_NAMES)
  if not splits or (others and not any(tops[s] for s in splits)):
    return {}  # A class may well be called 'train'.
  problem = ''
  if others:
    problem = (
      f'folders of splits ({some(sorted(splits))}) beside others '
      f'({some(sorted(others))})'
    )
  elif not any(tops[s] for s in splits):
    problem = (
      f'pictures lie in {some(sorted(splits))} itself, where a folder for each '
      'class is looked for'
    )
  elif 'train' not in splits.values():
    problem = f'there is {some(sorted(splits))}, but no train'
  elif len(set(splits.values())) < len(splits):
    problem = f'{some(sorted(splits))} name a split twice'
  if problem:
    raise UserError(
      f'dataset.folder is {root!r}: {problem}; allowed: DIR/CLASS/FILE, '
      f'DIR/SPLIT/CLASS/FILE with SPLIT one of {names} and train among them, '
      'or a .csv table.'
    )
  return splits


# --- tables -------------------------------------------------------------------


def _of_table(table: str) -> Listing:
  """Reads a table.

  Raises:
    UserError: it is no such table, or files that it names are missing.
  """
  path = as_path('dataset.folder', table)
  if not path.exists():
    raise UserError(f'dataset.folder is {table!r}: not there.')
  root = os.path.dirname(table)
  known = folder_table.read(table, path.read_bytes())
  entries = _asked(root, list(known))
  missing = [name for name, size, _ in entries if size < 0]
  if missing:
    raise folder_table.error(
      table,
      f'{len(missing)} of {len(known)} files that it names are not there: '
      f'{some(missing)}',
    )
  files = [File(*entry, *known[entry[0]], True) for entry in entries]
  labels = sorted({file.label for file in files}, key=natural_order)
  return Listing(
    root=root,
    layout='table',
    files=tuple(sorted(files, key=lambda file: file.path)),
    label_names=tuple(labels),
    hidden=0,
    outside=0,
    nested='',
  )
