"""Event files for TensorBoard: curves, histograms, pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.console import say
from spnas_jax.core.tensorflow_setup import load_tensorflow


class Drawn(NamedTuple):
  """What is looked at a few times in a run, by tag.

  Attributes:
    histograms: numbers of any shape.
    images: uint8 [H, W, 1 or 3].
  """

  histograms: Mapping[str, np.ndarray] = {}
  images: Mapping[str, np.ndarray] = {}


class Events:
  """Writes a stage's event files, on process 0.

  They are nice to have: whatever goes wrong with them (a full disk, a library)
  is reported once and costs the files, not the training.
  """

  def __init__(self, stage: str, workdir: Workdir):
    self._stage = stage
    self._writer: Any = None
    if jax.process_index() == 0:
      self._attempt(lambda: self._open(workdir))

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    self._attempt(lambda: self._ask('write_scalars', step, values))

  def draw(self, step: int, drawing: Callable[[], Drawn]) -> None:
    """Histograms and images; what makes them may fail as well."""

    def write() -> None:
      if self._writer is not None:
        drawn = drawing()
        self._ask('write_histograms', step, drawn.histograms)
        self._ask('write_images', step, drawn.images)

    self._attempt(write)

  def settings(self, values: Mapping[str, Any]) -> None:
    """The run's row in the table of runs (plugin hparams)."""
    self._attempt(lambda: self._ask('write_hparams', values))

  def close(self) -> None:
    self._attempt(lambda: self._ask('close'))

  def _open(self, workdir: Workdir) -> None:
    self._writer = _open(str(workdir / self._stage / 'events'))

  def _ask(self, method: str, *args: Any) -> None:
    if self._writer is not None:
      getattr(self._writer, method)(*args)

  def _attempt(self, call: Callable[[], None]) -> None:
    try:
      call()
    except Exception as e:
      self._writer = None
      why = ' '.join(str(e).split()) or type(e).__name__
      say(f'{self._stage}: continues without event files: {why}')


@contextlib.contextmanager
def event_writer(stage: str, workdir: Workdir) -> Iterator[Events]:
  """Opens `STAGE/events`."""
  events = Events(stage, workdir)
  try:
    yield events
  finally:
    events.close()


def _open(folder: str) -> Any:
  load_tensorflow()  # Before clu imports it its own way.
  from clu import metric_writers

  # Not clu's default writer: that logs every number as well.
  return metric_writers.SummaryWriter(folder)
