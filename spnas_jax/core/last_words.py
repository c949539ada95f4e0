"""A program beside a process of a run: what it could not say itself.

JAX's C++ aborts a process as soon as the coordinator (process 0) is gone, and
the kernel kills one that takes too much memory: no Python of it runs any more.
This program reads 'STAGE STEP TOTAL' lines from its standard input. When that
closes without a last line 'done', it says where the process was and how to go
on. Started by path, so it imports nothing of the project.
"""

import signal
import sys


def main() -> None:
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)  # The process decides, not a group.
  where, last = 'before its first step', ''
  for line in sys.stdin:
    last = line.strip()
    words = last.split()
    if len(words) == 3:
      where = f'in {words[0]} after step {words[1]} of {words[2]}'
  if last != 'done':
    if sys.stderr.isatty():  # Where the process may have left its live line.
      sys.stderr.write('\r\x1b[K')
    print(
      f'error: process {sys.argv[1]} was ended from outside, {where}: by the '
      'end of process 0, for memory, or by a signal. The same command, started '
      'again on all of them, continues from the last checkpoint',
      file=sys.stderr,
      flush=True,
    )


if __name__ == '__main__':
  main()
