"""No room, no permission, a broken disk: told apart from errors of the program.

Each library says it in its own way: an OSError, TensorStore's ValueError with
the system's words in its text, a chain of others. The words are the same.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

# What can be mended outside of the program; it goes on afterwards.
_TROUBLES = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EROFS,
  errno.EIO,
  errno.ESTALE,
  errno.EMFILE,
  errno.ENFILE,
)


def trouble(error: BaseException | None) -> str | None:
  """'No space left on device' and the like, with the path where it is known.

  Args:
    error: anything that was raised; what it was raised from counts too.

  Returns:
    None if it is something else.
  """
  for each in _chain(error):
    for number in _TROUBLES:
      words = os.strerror(number)
      if getattr(each, 'errno', None) == number or words in str(each):
        path = getattr(each, 'filename', None) or _path_in(str(each))
        return f'{words}: {os.fspath(path)}' if path else words
  return None


def quiet() -> None:
  """Libraries no longer log what they also raise, page after page."""
  for name in ('absl', 'asyncio', 'orbax'):
    logger = logging.getLogger(name)
    if not any(isinstance(f, _Raised) for f in logger.filters):
      logger.addFilter(_Raised())
  if not isinstance(sys.unraisablehook, _Hook):
    sys.unraisablehook = _Hook(sys.unraisablehook)


class _Raised(logging.Filter):
  """Lets pass what is no trouble with a disk."""

  def filter(self, record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    text = RuntimeError(record.getMessage())
    return trouble(error) is None and trouble(text) is None


class _Hook:
  """A `sys.unraisablehook` without the echo of a failed save.

  The first write that fails ends Orbax's event loop; TensorStore then prints
  for each of the others that the loop is closed.
  """

  def __init__(self, before: Callable[[Any], Any]):
    self._before = before

  def __call__(self, what: Any) -> None:
    if 'Event loop is closed' not in str(what.exc_value):
      self._before(what)


def _path_in(text: str) -> str:
  """The first absolute path in quotes, as TensorStore has it; '' if none."""
  found = re.search(r'"(/[^"]+)"', text)
  return found.group(1) if found else ''


def _chain(error: BaseException | None) -> Iterator[BaseException]:
  """An error and those that it was raised from or while handling."""
  seen: set[int] = set()
  waiting = [error]
  while waiting:
    each = waiting.pop(0)
    if each is not None and id(each) not in seen:
      seen.add(id(each))
      yield each
      waiting += [each.__cause__, each.__context__]
