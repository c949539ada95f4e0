"""Are a latency table's times in ms? Judged by the speed that they imply.

A table in seconds makes its device a thousand times too fast, one in
microseconds a thousand times too slow. What a device can do spans more than a
thousand, so the limits below catch what no device does, not every mistake.
"""

from __future__ import annotations

import re

from spnas_jax.core.errors import UserError

# No network of convolutions takes 0.1 us, a few hundred cycles of a processor.
LEAST_MS = 1e-4
# Multiply-adds per ms, one image at a time. 3e9 is 3 tera a second: a phone's
# core does 0.004 to 0.05 tera, a data centre's GPU with a MobileNet about 2.
FASTEST = 3e9
# 0.1 giga a second, and only where all entries together take 10 s: some
# microcontrollers are slower, and do not run networks of that size.
SLOWEST, LONG_MS = 1e5, 1e4


def check(total_ms: float, total_macs: float) -> None:
  """Refuses times that no device has.

  Args:
    total_ms: of all entries whose multiply-adds are known, together.
    total_macs: theirs; 0 if none is known.

  Raises:
    UserError: they look like another unit than ms.
  """
  if not total_ms:
    return  # No entries.
  speed = total_macs / total_ms
  unit = ''
  if total_ms < LEAST_MS or speed > FASTEST:
    unit = 'seconds'
  elif 0 < speed < SLOWEST and total_ms > LONG_MS:
    unit = 'microseconds'
  if unit:
    raise UserError(
      f'latency_table: the entries take {total_ms:.3g} ms together, which is '
      f'{speed / 1e6:.3g} giga multiply-adds per second; looks like {unit}: '
      'entries.*.ms must be in ms'
    )


def entry_macs(key: str) -> float:
  """Multiply-adds of an entry by the shape in its key; 0 where it has none.

  The small part of a squeeze-and-excitation is not counted.
  """
  part = key.partition('_')[0]
  n = {
    name: int(number)
    for name, number in re.findall(r'_([a-z]+)(\d+)(?=_|$)', key)
  }
  try:
    before = n['h'] ** 2
    after = (-(-n['h'] // n.get('s', 1))) ** 2
    if part == 'stem':
      return after * n['k'] ** 2 * n['i'] * n['o']
    if part == 'head':
      return before * n['i'] * n['o'] + (n['o'] or n['i']) * n['fc']
    wide, groups = n['i'] * n['e'], n.get('g', 1)
    expand = 0 if part != 'ir' else before * n['i'] * wide / groups
    project = after * wide * n['o'] / groups
    return expand + after * n['k'] ** 2 * wide + project
  except KeyError:
    return 0
