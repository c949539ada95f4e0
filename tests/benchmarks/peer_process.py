"""Another library in a process of its own: a JSON answer to every JSON line.

Libraries that compete for the cores, or that need other versions, are compared
without sharing an interpreter.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
from typing import Any


class PeerProcess:
  """A script, run by its path in another environment, that serves on stdin."""

  def __init__(self, python: str, script: str, *arguments: str):
    self._process = subprocess.Popen(
      [python, pathlib.Path(script), *arguments],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def ask(self, message: Any) -> Any:
    """Sends a line and waits for the answer."""
    assert self._process.stdin is not None
    assert self._process.stdout is not None
    print(json.dumps(message), file=self._process.stdin, flush=True)
    return json.loads(self._process.stdout.readline())

  def close(self) -> None:
    """Ends the process."""
    assert self._process.stdin is not None
    self._process.stdin.close()
    self._process.wait()
