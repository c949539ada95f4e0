"""A terminal for tests: a pty, and what somebody before it would see."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading

_SGR = re.compile(r'\x1b\[[\d;]*m')


class Terminal:
  """A pty of some columns.

  Attributes:
    slave: the file descriptor that a program writes to.
    text: everything that was written, once `close` was called.
  """

  def __init__(self, columns: int = 80):
    self.master, self.slave = pty.openpty()
    size = struct.pack('HHHH', 24, columns, 0, 0)
    fcntl.ioctl(self.slave, termios.TIOCSWINSZ, size)
    self._pieces: list[bytes] = []
    self._reader = threading.Thread(target=self._read, daemon=True)
    self._reader.start()

  @property
  def text(self) -> str:
    return b''.join(self._pieces).decode(errors='replace')

  def close(self) -> None:
    """The program has ended: what it wrote is complete."""
    os.close(self.slave)
    self._reader.join(30)
    os.close(self.master)

  def lines(self) -> list[str]:
    """The screen, without colours; the cursor's line is the last."""
    return screen(self.text)

  def paintings(self) -> list[str]:
    """Every state that the rewritten line had, without colours."""
    found = re.findall(r'\r([^\r\n]+?)\x1b\[K', self.text)
    return [_SGR.sub('', text) for text in found]

  def _read(self) -> None:
    with contextlib.suppress(OSError):  # Nobody holds the other end any more.
      while piece := os.read(self.master, 4096):
        self._pieces.append(piece)


def screen(text: str) -> list[str]:
  """What is left to read; knows what `live_line` uses and nothing else."""
  lines, column = [''], 0
  for piece in re.findall(r'\x1b\[[\d;?]*[A-Za-z]|.|\n', _SGR.sub('', text)):
    if piece == '\r':
      column = 0
    elif piece == '\n':
      lines.append('')
    elif piece == '\x1b[K':
      lines[-1] = lines[-1][:column]
    else:
      assert not piece.startswith('\x1b'), f'unknown sequence {piece!r}'
      line = lines[-1].ljust(column)
      lines[-1] = line[:column] + piece + line[column + 1 :]
      column += 1
  return lines


@contextlib.contextmanager
def on_terminal(monkeypatch, columns=80, stdout=True, encoding='utf-8', **env):
  """This process writes to a `Terminal`, which it may look at afterwards.

  Args:
    monkeypatch: of the test.
    columns: of the terminal.
    stdout: whether that stream goes to it as well.
    encoding: of the streams.
    **env: environment variables; None = not set.
  """
  for name, value in {
    'NO_COLOR': None,
    'CI': None,
    'TERM': 'xterm',
    **env,
  }.items():
    if value is None:
      monkeypatch.delenv(name, raising=False)
    else:
      monkeypatch.setenv(name, value)
  terminal = Terminal(columns)

  def stream():
    return open(
      os.dup(terminal.slave),
      'w',
      buffering=1,
      encoding=encoding,
      errors='backslashreplace',
    )

  with contextlib.ExitStack() as stack, monkeypatch.context() as patch:
    for name in ('stderr', 'stdout')[: 1 + stdout]:
      patch.setattr(sys, name, stack.enter_context(stream()))
    yield terminal
  terminal.close()
