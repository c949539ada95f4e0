"""Names of files, classes and splits: how they are read, sorted and shown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# What people call splits -> ours.
SPLIT_NAMES = {
  'train': 'train',
  'val': 'validation',
  'valid': 'validation',
  'validation': 'validation',
  'test': 'test',
}
# Names of files or classes that a message spells out.
NAMED = 3


def natural_order(name: str) -> tuple[list[str | int], str]:
  """A key to sort by, for which 'a2' comes before 'a10'."""
  parts = re.split('([0-9]+)', name.casefold())
  return [int(p) if i % 2 else p for i, p in enumerate(parts)], name


def some(names: Iterable[str]) -> str:
  """The first few of many names, and how many more there are."""
  names = list(names)
  more = len(names) - NAMED
  first = ', '.join(printable(name) for name in names[:NAMED])
  return f'{first} and {more} more' if more > 0 else first


def printable(text: str) -> str:
  """A name that any screen and file takes, on one line."""
  text = text.encode('utf-8', 'replace').decode()
  return ''.join(c if c.isprintable() else '?' for c in text)


def class_name(name: str) -> str:
  """The class a folder or a word of a table names: one line, composed.

  Systems differ in whether an accent is a letter's part or a sign of its own.
  """
  return unicodedata.normalize('NFC', printable(name)).strip()
