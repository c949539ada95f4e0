"""Prepares a folder of pictures as a tfds data set.

Imported by `store.py` only when one has to be written to disk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, NamedTuple

from ml_collections import ConfigDict

from spnas_jax.core import tensorflow_setup
from spnas_jax.core.errors import UserError
from spnas_jax.core.remote import as_path, is_remote
from spnas_jax.data import folder_images, folder_report, folder_splits
from spnas_jax.data.folder_listing import File, Listing, list_folder
from spnas_jax.data.folder_names import REPORT, VERSION
from spnas_jax.data.folder_report import FolderReport, Picture
from spnas_jax.data.folder_words import printable
from spnas_jax.data.known_datasets import SPLITS

tfds = tensorflow_setup.load_tfds()
_TfdsBuilder: Any = tfds.core.GeneratorBasedBuilder

# Files that are looked at at a time: by each core, and where they come over a
# network.
_A_CORE, _REMOTE = 2, 32


class Examined(NamedTuple):
  """A folder whose every file was looked at once.

  Attributes:
    root: what the pictures' paths start from.
    pictures: those that can be read, in order of their paths.
    facts: of each, how it is stored.
    report: what there is to say.
  """

  root: str
  pictures: list[Picture]
  facts: list[folder_images.Facts]
  report: FolderReport


def examine(dataset_config: ConfigDict) -> Examined:
  """Reads every file of `dataset.folder`, and shares the pictures out.

  Raises:
    UserError: nothing can be learnt from it, or too much cannot be read.
  """
  folder = dataset_config.folder
  listing = list_folder(folder)
  # What no content can put right is said before the first file is read.
  folder_report.check_classes(
    folder, listing, [(file.label, '') for file in listing.files]
  )
  found, facts, unreadable, others = _look_at_all(dataset_config, listing)
  folder_report.check_readable(
    folder, unreadable, len(found), dataset_config.max_unreadable
  )
  splits = _splits(dataset_config, found, facts)
  folder_report.check_classes(
    folder,
    listing,
    [(f.label, s) for f, s in zip(found, splits, strict=True)],
  )
  pictures = [
    Picture(
      file.path,
      file.label,
      split,
      fact.digest,
      fact.height,
      fact.width,
      fact.grey,
      fact.converted,
    )
    for file, fact, split in zip(found, facts, splits, strict=True)
  ]
  used = {p.label for p in pictures}
  label_names = tuple(n for n in listing.label_names if n in used)
  report = folder_report.make(
    folder, listing, pictures, label_names, unreadable, others
  )
  return Examined(listing.root, pictures, facts, report)


def _look_at_all(
  dataset_config: ConfigDict, listing: Listing
) -> tuple[list[File], list[folder_images.Facts], list[tuple[str, str]], int]:
  """Pictures and their facts, (path, reason) of unreadable ones, others."""

  def look_at(file: File) -> folder_images.Facts:
    try:
      data = _read(listing.root, file.path)
    except OSError as error:
      reason = error.strerror or str(error)
      return folder_images.Facts('', reason, recognised=False)
    return folder_images.look_at(data, dataset_config.shrink_to)

  threads = _A_CORE * (os.cpu_count() or 1)
  with ThreadPoolExecutor(
    max(threads, _REMOTE) if is_remote(listing.root) else threads
  ) as pool:
    facts = list(pool.map(look_at, listing.files))
  good: list[File] = []
  kept: list[folder_images.Facts] = []
  unreadable: list[tuple[str, str]] = []
  others = 0
  for file, fact in zip(listing.files, facts, strict=True):
    if not fact.problem:
      good.append(file)
      kept.append(fact)
    elif file.meant or fact.recognised:
      unreadable.append((file.path, fact.problem))
    else:
      others += 1
  return good, kept, unreadable, others


def _splits(
  dataset_config: ConfigDict,
  files: list[File],
  facts: list[folder_images.Facts],
) -> list[str]:
  """The split of each: the one given, or a part of what is not for test."""
  given = {file.split for file in files}
  fractions = {
    split: dataset_config[f'{split}_fraction']
    for split in ('validation', 'test')
    if split not in given
  }
  pool = [i for i, f in enumerate(files) if f.split in ('', 'train')]
  chosen = [file.split for file in files]
  assigned = folder_splits.assign(
    [(files[i].label, facts[i].digest) for i in pool],
    fractions,
    dataset_config.split_seed,
  )
  for i, split in zip(pool, assigned, strict=True):
    chosen[i] = split
  return chosen


def _read(root: str, path: str) -> bytes:
  if is_remote(root):
    return (as_path('dataset.folder', root) / path).read_bytes()
  with open(os.path.join(root, path), 'rb') as file:
    return file.read()


# Not among those that tfds finds by name.
class Folder(_TfdsBuilder, skip_registration=True):  # type: ignore[call-arg]
  """Pictures of a folder, as README says under "Your own pictures"."""

  VERSION = tfds.core.Version(VERSION)
  RELEASE_NOTES: ClassVar = {str(VERSION): 'First version.'}

  # tfds would look for a file of checksums beside this module.
  url_infos = None

  def __init__(
    self, *, name: str, examined: Examined, shrink_to: int, **kwargs: Any
  ):
    """Makes a builder; tfds' own arguments are passed on.

    Args:
      name: of the data set.
      examined: what it is made of.
      shrink_to: pixels, as of `folder_images.stored`.
      **kwargs: `data_dir` and what else tfds takes.
    """
    self.name = name
    self._examined = examined
    self._shrink_to = shrink_to
    super().__init__(**kwargs)

  def _info(self) -> Any:
    report = self._examined.report
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(None, None, report.channels)),
          'label': tfds.features.ClassLabel(names=report.label_names),
          # Names a picture where it is wrongly classified or damaged.
          'file_name': tfds.features.Text(),
        }
      ),
      supervised_keys=('image', 'label'),
      # Written beside the records, and renamed together with them.
      metadata=tfds.core.MetadataDict({REPORT: report.to_dict()}),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    return {
      split: self._generate_examples(split)
      for split in SPLITS
      if split in self._examined.report.counts
    }

  def _generate_examples(
    self, split: str
  ) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yields (key, example); tfds orders them by a hash of the key."""
    root, pictures, facts, _ = self._examined
    for picture, fact in zip(pictures, facts, strict=True):
      if picture.split != split:
        continue
      data = _read(root, picture.path)
      if hashlib.sha256(data).hexdigest() != fact.digest:
        raise UserError(
          f'dataset.folder: {printable(picture.path)} was changed while the '
          'folder was being read; run again.'
        )
      yield (
        os.fsencode(picture.path),
        {
          'image': folder_images.stored(data, fact, self._shrink_to),
          'label': picture.label,
          'file_name': printable(picture.path),
        },
      )
