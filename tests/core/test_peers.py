"""A process that dies takes the others with it: soon, and in one line."""

from __future__ import annotations

import threading
import time

import pytest

from spnas_jax.core import peers


class Store:
  """JAX's key-value store, in memory."""

  def __init__(self):
    self.values: dict[str, str] = {}
    self.gone = False

  def key_value_set(self, key, value, allow_overwrite=False):
    if self.gone:
      raise RuntimeError('UNAVAILABLE: failed to connect')
    self.values[key] = value

  def key_value_dir_get(self, folder):
    if self.gone:
      raise RuntimeError('UNAVAILABLE: failed to connect')
    return [(k, v) for k, v in self.values.items() if k.startswith(folder)]


@pytest.fixture
def watched(monkeypatch):
  """(store, where the watch of process 0 of 2 ends the process)."""
  monkeypatch.setattr(peers, 'BEAT_SECONDS', 0.01)
  monkeypatch.setattr(peers, 'LOST_SECONDS', 0.3)
  monkeypatch.setattr(peers, 'GRACE_SECONDS', 0.1)
  monkeypatch.setattr(peers, '_where', None)
  monkeypatch.setattr(peers.jax, 'process_count', lambda: 2)
  monkeypatch.setattr(peers.atexit, 'register', lambda *_: None)
  ended = threading.Event()
  codes: list[int] = []

  def leave(code):
    codes.append(code)
    ended.set()

  monkeypatch.setattr(peers.os, '_exit', leave)
  monkeypatch.setattr(peers.sys, 'executable', '/bin/true')
  store = Store()
  watch = peers._Watch(store)
  yield store, ended, codes
  watch.say('done')


def test_a_silent_process_ends_the_others(watched, capsys):
  """The line names the process, the step, and what to do; the code is 75."""
  store, ended, codes = watched
  peers.at('search', 39, 1600)
  store.values[peers._FOLDER + '1'] = '7'
  assert ended.wait(5) and codes == [75]
  line = capsys.readouterr().err.strip()
  assert '\n' not in line
  assert 'process 1 of 2 has ended (no sign of it for 0 s)' in line
  assert 'in search after step 39 of 1,600' in line
  assert 'The same command, started again on all of them, continues' in line


def test_what_another_failed_of_is_repeated(watched, capsys):
  store, ended, _ = watched
  store.values[peers._FOLDER + '1'] = 'failed No space left on device'
  assert ended.wait(5)
  line = capsys.readouterr().err
  assert 'process 1 of 2 has ended (No space left on device)' in line


def test_a_store_without_answer_is_process_0(watched, capsys):
  store, ended, _ = watched
  store.gone = True
  assert ended.wait(5)
  assert 'process 0 of 2 has ended (no answer' in capsys.readouterr().err


def test_processes_that_count_or_are_done_are_left_alone(watched):
  """One that is finished waits at JAX's goodbye: it need not count."""
  store, ended, _ = watched
  for beat in range(50):
    store.values[peers._FOLDER + '1'] = str(beat)
    time.sleep(0.01)
  store.values[peers._FOLDER + '1'] = 'done'
  assert not ended.wait(0.6)
