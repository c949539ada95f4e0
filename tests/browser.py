"""A headless Chromium, spoken to through a pipe: no package, no port.

The DevTools protocol sets the width, the theme and the medium of a page
exactly, and reports what goes wrong in it. Messages are JSON, each ended by a
zero byte, on the browser's file descriptors 3 and 4.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import pathlib
import select
import shutil
import signal
import tempfile
import time
from typing import Any

PROGRAM = next(
  filter(
    None,
    map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')),
  ),
  None,
)
_SECONDS = 60  # Until an answer counts as lost.
# A page has arrived: its pictures, too, and it has been painted.
_ARRIVED = """(async () => {
  if (document.readyState != 'complete')
    await new Promise(done => addEventListener('load', done));
  await Promise.all([...document.images].map(i => i.decode().catch(() => 0)));
  await new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)));
})()"""


def _start(arguments: list[str], commands: int, answers: int) -> int:
  """Starts the browser, which closes both pipes here; returns its process."""
  # Out of the way of 3 and 4, which may be their own numbers.
  high = [
    fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (commands, answers)
  ]
  process = os.posix_spawn(
    arguments[0],
    arguments,
    os.environ,
    file_actions=[
      (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
      (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
      (os.POSIX_SPAWN_DUP2, high[0], 3),
      (os.POSIX_SPAWN_DUP2, high[1], 4),
    ],
  )
  for fd in (commands, answers, *high):
    os.close(fd)
  return process


class Browser:
  """One page of one browser; `with Browser() as page`."""

  def __init__(self):
    self._profile = tempfile.mkdtemp(prefix='chromium')
    theirs_in, self._out = os.pipe()
    self._in, theirs_out = os.pipe()
    arguments = [
      str(PROGRAM),
      '--headless',
      '--remote-debugging-pipe',
      '--no-sandbox',  # Containers have none; only our own files are opened.
      '--disable-gpu',
      '--disable-dev-shm-usage',
      '--hide-scrollbars',
      '--no-first-run',
      f'--user-data-dir={self._profile}',
    ]
    self._process = _start(arguments, theirs_in, theirs_out)
    self._read, self._number, self._session = b'', 0, None
    self._events: list[dict[str, Any]] = []
    target = self.call('Target.createTarget', url='about:blank')['targetId']
    self._session = self.call(
      'Target.attachToTarget', targetId=target, flatten=True
    )['sessionId']
    for domain in ('Page', 'Runtime', 'Log'):
      self.call(f'{domain}.enable')

  def __enter__(self) -> Browser:
    return self

  def __exit__(self, *_: Any) -> None:
    os.kill(self._process, signal.SIGKILL)
    os.waitpid(self._process, 0)
    os.close(self._in)
    os.close(self._out)
    shutil.rmtree(self._profile, ignore_errors=True)

  def call(self, method: str, **parameters: Any) -> dict[str, Any]:
    """The browser's answer to a command of its protocol."""
    self._number += 1
    message = {'id': self._number, 'method': method, 'params': parameters}
    if self._session:
      message['sessionId'] = self._session
    os.write(self._out, json.dumps(message).encode() + b'\0')
    while True:
      answer = self._next()
      if answer.get('id') == self._number:
        assert 'error' not in answer, (method, answer['error'])
        return answer['result']
      self._events.append(answer)

  def _next(self) -> dict[str, Any]:
    end = time.monotonic() + _SECONDS
    while b'\0' not in self._read:
      left = end - time.monotonic()
      ready, _, _ = select.select([self._in], [], [], max(left, 0))
      part = os.read(self._in, 1 << 20) if ready else b''
      if not part:
        raise RuntimeError('the browser does not answer')
      self._read += part
    message, _, self._read = self._read.partition(b'\0')
    return json.loads(message)

  def open(
    self, path: Any, width: int = 1200, theme: str = 'light', media: str = ''
  ) -> None:
    """Shows a file.

    Args:
      path: of the file.
      width: of the window, px; below 600 it is a phone.
      theme: 'light' or 'dark'.
      media: 'print', or '' for a screen.
    """
    self._events.clear()
    phone = width < 600
    self.call(
      'Emulation.setDeviceMetricsOverride',
      width=width,
      height=844 if phone else 900,
      deviceScaleFactor=2 if phone else 1,
      mobile=phone,
    )
    self.call(
      'Emulation.setEmulatedMedia',
      media=media,
      features=[{'name': 'prefers-color-scheme', 'value': theme}],
    )
    self.call('Page.navigate', url=pathlib.Path(path).absolute().as_uri())
    self.evaluate(_ARRIVED)

  def evaluate(self, script: str) -> Any:
    """Value of a script; of a promise, what it becomes."""
    answer = self.call(
      'Runtime.evaluate',
      expression=script,
      awaitPromise=True,
      returnByValue=True,
    )
    assert 'exceptionDetails' not in answer, answer['exceptionDetails']
    return answer['result'].get('value')

  def complaints(self) -> list[str]:
    """What the page wrote to the console, and what failed in it."""
    self.evaluate('0')  # What was said before has arrived then.
    return [
      json.dumps(event['params'])
      for event in self._events
      if event.get('method')
      in (
        'Log.entryAdded',
        'Runtime.consoleAPICalled',
        'Runtime.exceptionThrown',
      )
    ]

  def screenshot(self) -> bytes:
    """PNG of the whole page, not only of what the window shows."""
    return base64.b64decode(
      self.call(
        'Page.captureScreenshot', format='png', captureBeyondViewport=True
      )['data']
    )

  def pdf(self) -> bytes:
    """The page printed on A4, with the colours of its background."""
    return base64.b64decode(
      self.call(
        'Page.printToPDF',
        paperWidth=8.27,
        paperHeight=11.69,
        printBackground=True,
        preferCSSPageSize=True,
      )['data']
    )
