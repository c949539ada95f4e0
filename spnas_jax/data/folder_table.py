"""Tables of pictures: a file of comma-separated values."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from spnas_jax.core.errors import UserError
from spnas_jax.data.folder_words import SPLIT_NAMES, class_name

_COLUMNS = ('filename', 'label')


def read(table: str, content: bytes) -> dict[str, tuple[str, str]]:
  """What a table says of each picture.

  Columns filename, label and maybe split, in any order and beside others,
  separated by commas, semicolons or tabs.

  Args:
    table: its path, for messages.
    content: its bytes, in UTF-8.

  Returns:
    filename -> class, and split or '' where the table has no such column.

  Raises:
    UserError: naming the line and what is wrong with it.
  """
  try:
    text = content.decode('utf-8-sig')
  except UnicodeDecodeError as e:
    raise error(table, 'it is not in UTF-8') from e
  known: dict[str, tuple[str, str]] = {}
  for line, name, *values in _rows(table, text):
    label, split = values
    if known.setdefault(name, (label, split)) != (label, split):
      raise error(table, f'line {line} gives {name!r} another label or split')
  return known


def _rows(table: str, text: str) -> Iterator[tuple[int, str, str, str]]:
  """(line, filename, label, split or '') of every row."""
  first = text.partition('\n')[0]
  # Where a comma is the decimal sign, spreadsheets put semicolons.
  delimiter = max(',;\t', key=first.count)
  reader = csv.reader(io.StringIO(text, newline=''), delimiter=delimiter)
  try:
    header = [word.strip().lower() for word in next(reader, [])]
    missing = [column for column in _COLUMNS if column not in header]
    if missing:
      raise error(
        table, f'its first line has no column {" and no ".join(missing)}'
      )
    for row in reader:
      if not any(row):
        continue
      cells = dict(zip(header, (cell.strip() for cell in row), strict=False))
      name = cells.get('filename', '').replace('\\', '/')
      label = class_name(cells.get('label', ''))
      if not name or not label:
        raise error(
          table, f'line {reader.line_num} has no filename or no label'
        )
      split = ''
      if 'split' in header:
        word = cells.get('split', '')
        if word.lower() not in SPLIT_NAMES:
          raise error(
            table,
            f'line {reader.line_num} has the split {word!r}, allowed: '
            f'{", ".join(SPLIT_NAMES)}',
          )
        split = SPLIT_NAMES[word.lower()]
      yield reader.line_num, name, label, split
  except csv.Error as e:
    raise error(table, f'line {reader.line_num}: {e}') from e


def error(table: str, what: str) -> UserError:
  return UserError(
    f'dataset.folder is {table!r}: {what}; a table has a line '
    'filename,label or filename,label,split, then a line for each picture, '
    'with filenames relative to the table.'
  )
