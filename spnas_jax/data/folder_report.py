"""What a folder of pictures holds and what is wrong with it, in a few lines."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from spnas_jax.core.errors import UserError
from spnas_jax.data.folder_listing import Listing
from spnas_jax.data.folder_names import REPORT
from spnas_jax.data.folder_words import NAMED, printable, some
from spnas_jax.data.known_datasets import SPLITS

# Training images of the largest class over those of the smallest from which it
# is said that classes are not balanced.
IMBALANCE = 3.0
# Classes of which each one's images are counted out.
_CLASSES_TOLD = 12


@dataclasses.dataclass(frozen=True)
class FolderReport:
  """What was found when a folder was prepared; stored with the data.

  Attributes:
    folder: the folder, or the table.
    layout: 'classes', 'splits' or 'table'.
    label_names: classes that have pictures; '2' comes before '10'.
    counts: split -> images of each class.
    channels: 1 if no picture has colours, else 3.
    median_height, median_width: of the training images, pixels, as they are
      seen and stored.
    converted: images that are stored as a PNG made of the file.
    unreadable: [path, reason] of pictures that were left out.
    copies: paths of equal files, a group of them in one split.
    leaks: paths of equal files, a group of them in several splits.
    contradictions: paths of equal files in several classes; each is one of
      `copies` or `leaks` too.
    lacking: split -> classes that have no picture there.
    empty_classes: classes without a picture that can be read; left out.
    hidden: files passed over because they are hidden.
    no_pictures: files passed over because they are not pictures.
    outside: files passed over because they are in no class folder.
  """

  folder: str
  layout: str
  label_names: tuple[str, ...]
  counts: dict[str, tuple[int, ...]]
  channels: int
  median_height: float
  median_width: float
  converted: int
  unreadable: tuple[tuple[str, str], ...]
  copies: tuple[tuple[str, ...], ...]
  leaks: tuple[tuple[str, ...], ...]
  contradictions: tuple[tuple[str, ...], ...]
  lacking: dict[str, tuple[str, ...]]
  empty_classes: tuple[str, ...]
  hidden: int
  no_pictures: int
  outside: int

  def training_images(self) -> dict[str, int]:
    """Class -> training images."""
    return dict(zip(self.label_names, self.counts['train'], strict=True))

  def to_dict(self) -> dict[str, Any]:
    """Nothing but what JSON has, `read` undoes it."""
    return dataclasses.asdict(self)


def read(values: dict[str, Any]) -> FolderReport:
  """A report of what `FolderReport.to_dict` made, by way of JSON or not."""

  def tuples(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
      return tuple(tuples(v) for v in value)
    if isinstance(value, dict):
      return {k: tuples(v) for k, v in value.items()}
    return value

  return FolderReport(**tuples(values))


def of_builder(builder: Any) -> FolderReport | None:
  """The report of a prepared data set; None if it was not a folder."""
  values = (builder.info.metadata or {}).get(REPORT)
  return read(values) if values else None


# Data sets of which it was told what they hold: once is enough.
_told: set[tuple[str, str]] = set()


def tell(report: FolderReport, name: str, data_dir: str) -> None:
  """Says what a folder holds, and where it is prepared, once in a process."""
  from spnas_jax.core.console import say  # JAX.

  if (name, data_dir) in _told:
    return
  _told.add((name, data_dir))
  place = f'prepared as dataset.name={name} under dataset.data_dir={data_dir}'
  for line in (*lines(report), place):
    say(f'data: {line}')


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture that can be read.

  Attributes:
    path: relative to the folder.
    label: its class.
    split: where it is.
    digest: hash of its content.
    height, width: pixels.
    grey: whether it has no colours.
    converted: whether it is stored as a PNG made of it.
  """

  path: str
  label: str
  split: str
  digest: str
  height: int
  width: int
  grey: bool
  converted: bool


def make(
  folder: str,
  listing: Listing,
  pictures: list[Picture],
  label_names: tuple[str, ...],
  unreadable: list[tuple[str, str]],
  no_pictures: int,
) -> FolderReport:
  """Counts and compares; see `FolderReport` for what the arguments become."""
  splits = [s for s in SPLITS if any(p.split == s for p in pictures)]
  index = {name: i for i, name in enumerate(label_names)}
  counts = {s: [0] * len(label_names) for s in splits}
  equal: dict[str, list[Picture]] = {}
  for picture in pictures:
    counts[picture.split][index[picture.label]] += 1
    equal.setdefault(picture.digest, []).append(picture)
  groups = [group for group in equal.values() if len(group) > 1]

  def paths(chosen: list[list[Picture]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(printable(p.path) for p in group) for group in chosen)

  def differ(group: list[Picture], key: str) -> bool:
    return len({getattr(picture, key) for picture in group}) > 1

  train = [p for p in pictures if p.split == 'train']
  lacking = {
    s: tuple(n for n, c in zip(label_names, counts[s], strict=True) if not c)
    for s in splits
  }
  return FolderReport(
    folder=printable(folder),
    layout=listing.layout,
    label_names=label_names,
    counts={s: tuple(values) for s, values in counts.items()},
    channels=1 if all(p.grey for p in pictures) else 3,
    median_height=float(statistics.median(p.height for p in train)),
    median_width=float(statistics.median(p.width for p in train)),
    converted=sum(p.converted for p in pictures),
    unreadable=tuple((printable(p), printable(r)) for p, r in unreadable),
    copies=paths([g for g in groups if not differ(g, 'split')]),
    leaks=paths([g for g in groups if differ(g, 'split')]),
    contradictions=paths([g for g in groups if differ(g, 'label')]),
    lacking={s: names for s, names in lacking.items() if names},
    empty_classes=tuple(n for n in listing.label_names if n not in index),
    hidden=listing.hidden,
    no_pictures=no_pictures,
    outside=listing.outside,
  )


def lines(report: FolderReport) -> list[str]:
  """What there is to say before somebody trains on it, line by line."""
  said = [_whole(report), *_classes(report)]
  if report.unreadable:
    said.append(
      f'left out, as they cannot be read: {len(report.unreadable)} '
      f'({_reasons(report.unreadable)})'
    )
  for groups, what, advice in (
    (
      report.leaks,
      'in more than one split',
      '; scores will be too good: remove them from one',
    ),
    (report.contradictions, 'in more than one class', ''),
    (report.copies, 'within a split', ''),
  ):
    if groups:
      first = some(' = '.join(group[:NAMED]) for group in groups)
      said.append(f'equal files {what}: {len(groups)} ({first}){advice}')
  for split, names in report.lacking.items():
    said.append(f'no picture in {split!r} of {_counted(names)}: {some(names)}')
  if report.empty_classes:
    said.append(f'classes without a picture: {some(report.empty_classes)}')
  passed = [
    f'{count} {what}'
    for count, what in (
      (report.hidden, 'hidden'),
      (report.no_pictures, 'that are not pictures'),
      (report.outside, 'in no class folder'),
    )
    if count
  ]
  if passed:
    said.append(f'files passed over: {", ".join(passed)}')
  return said


def _whole(report: FolderReport) -> str:
  parts = ', '.join(f'{s} {sum(c):,}' for s, c in report.counts.items())
  colours = 'grey' if report.channels == 1 else 'colour'
  return (
    f'{report.folder}: {_counted(report.label_names)}, {parts}; {colours}, '
    f'{report.median_width:g} x {report.median_height:g} px (median)'
  )


def _classes(report: FolderReport) -> list[str]:
  """Images of each class, or of the ends; and imbalance."""
  counts = zip(*report.counts.values(), strict=True)
  each = dict(zip(report.label_names, counts, strict=True))
  train = report.training_images()
  ordered = sorted(each, key=lambda name: -train[name])
  largest, smallest = ordered[0], ordered[-1]
  shown = ordered
  if len(each) > _CLASSES_TOLD:
    shown = [largest, ordered[len(ordered) // 2], smallest]
  counted = ', '.join(f'{n} {"/".join(map(str, each[n]))}' for n in shown)
  kind = (
    'images a class'
    if len(shown) == len(each)
    else 'images of the largest, the median and the smallest class'
  )
  said = [f'{kind} ({"/".join(report.counts)}): {counted}']
  ratio = train[largest] / train[smallest]
  if ratio > IMBALANCE:
    said.append(
      f'not balanced: {largest} has {ratio:.3g} times the training images of '
      f'{smallest}'
    )
  return said


def _counted(names: tuple[str, ...]) -> str:
  return f'{len(names)} {"class" if len(names) == 1 else "classes"}'


def _reasons(unreadable: Sequence[tuple[str, str]]) -> str:
  return some(f'{path}: {reason}' for path, reason in unreadable)


def check_readable(
  folder: str,
  unreadable: Sequence[tuple[str, str]],
  readable: int,
  share: float,
) -> None:
  """Refuses more unreadable pictures than a share of all of them.

  Args:
    folder: as it was given.
    unreadable: (path, reason) of each.
    readable: number of the others.
    share: `dataset.max_unreadable`.

  Raises:
    UserError: naming the first and what to do.
  """
  lost, count = len(unreadable), len(unreadable) + readable
  allowed = math.floor(share * count + 1e-9)
  if lost > allowed:
    raise UserError(
      f'dataset.folder is {printable(folder)!r}: {lost} of {count} pictures '
      f'cannot be read ({_reasons(unreadable)}); put them right or remove '
      'them, or set dataset.max_unreadable to the share of images that may be '
      f'left out ({share:g} now: {allowed} of {count}).'
    )


def check_classes(
  folder: str, listing: Listing, found: list[tuple[str, str]]
) -> None:
  """Refuses what nothing can be learnt from.

  Args:
    folder: as it was given.
    listing: what lies in it.
    found: (class, split or '' where that is not known) of each picture.

  Raises:
    UserError: there are no pictures, fewer than two classes, or classes that
      have none to train on.
  """
  labels = {label for label, _ in found}
  trained = {label for label, split in found if split in ('', 'train')}
  only = sorted(labels - trained)
  if not found:
    problem = f'there is no picture in it ({len(listing.files)} files, '
    problem += f'{listing.outside} more in no class folder)'
    advice = 'allowed: DIR/CLASS/FILE, DIR/SPLIT/CLASS/FILE or a .csv table'
  elif len(labels) == 1:
    problem = f'{labels.pop()!r} is its only class with pictures'
    advice = 'at least two are needed'
    if listing.nested:
      advice += f'; did you mean dataset.folder={printable(listing.nested)!r}?'
  elif only:
    problem = f'{_counted(tuple(only))} without a training image: {some(only)}'
    advice = 'put some into train, or leave the class out'
  else:
    return
  raise UserError(
    f'dataset.folder is {printable(folder)!r}: {problem}; {advice}.'
  )
