"""Text that others wrote: read whole, with limits, refused in one line.

Tables, networks and measurements come from disks that lose bytes and from
people who edit by hand. Whatever Python's parsers raise of such a file
(undecodable bytes, lists a million deep, a cell without an end) is a UserError
here.
"""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from spnas_jax.core.errors import UserError

# The largest file that is read: the tables of a thousand spaces.
MOST_BYTES = 64 * 2**20


def read_text(path: Any, what: str) -> str:
  """A file's text, UTF-8 with or without a byte-order mark.

  Args:
    path: an `epath.Path`.
    what: field and path, for the message.

  Raises:
    OSError: it cannot be read; the caller knows what it is for.
    UserError: it is too large, or not UTF-8.
  """
  size = path.stat().length
  if size > MOST_BYTES:
    raise UserError(
      f'{what} has {size / 2**20:.0f} MiB, allowed: {MOST_BYTES // 2**20} MiB'
    )
  try:
    return path.read_bytes().decode('utf-8-sig')
  except UnicodeDecodeError as e:
    raise UserError(f'{what} is not UTF-8 text ({e.reason})') from e


def parse_json(text: str, what: str) -> Any:
  """What JSON text says.

  Raises:
    UserError: it is not JSON, or nested deeper than Python can follow.
  """
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as e:
    raise UserError(f'{what} is not valid JSON ({e})') from e


def parse_csv(text: str, header: list[str], what: str) -> list[list[str]]:
  """Rows of comma-separated values without the first, which is `header`.

  Empty lines are left out, cells are stripped.

  Raises:
    UserError: it begins otherwise, or is no CSV.
  """
  try:
    rows = [
      [cell.strip() for cell in row]
      for row in csv.reader(io.StringIO(text.lstrip('\ufeff')))
      if row
    ]
  except csv.Error as e:
    raise UserError(f'{what} is not comma-separated text ({e})') from e
  found = [cell.lower() for cell in rows[0]] if rows else []
  if found != header:
    raise UserError(
      f'{what} begins with {",".join(found)[:80]!r}, must begin with the line '
      f'{",".join(header)!r}'
    )
  return rows[1:]
