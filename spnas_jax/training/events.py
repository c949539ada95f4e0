"""Event files for TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.console import say
from spnas_jax.core.tensorflow_setup import load_tensorflow

Write = Callable[[int, dict[str, float]], None]


@contextlib.contextmanager
def event_writer(
  stage: str, workdir: Workdir, main_process: bool
) -> Iterator[Write]:
  """Opens `STAGE/events`; the context gives (step, scalars) -> None.

  Curves are nice to have: whatever goes wrong with them (a full disk, a
  library) is reported once and costs the curves, not the training.
  """
  writer: Any = None

  def attempt(call: Callable[[], Any]) -> Any:
    nonlocal writer
    try:
      return call()
    except Exception as e:
      writer = None
      why = ' '.join(str(e).split()) or type(e).__name__
      say(f'{stage}: continues without event files: {why}')
      return None

  def write(step: int, scalars: dict[str, float]) -> None:
    if writer is not None:
      attempt(lambda: writer.write_scalars(step, scalars))

  writer = attempt(lambda: _open(stage, workdir, main_process))
  try:
    yield write
  finally:
    if writer is not None:
      attempt(writer.close)


def _open(stage: str, workdir: Workdir, main_process: bool) -> Any:
  load_tensorflow()  # Before clu imports it its own way.
  from clu import metric_writers

  return metric_writers.create_default_writer(
    str(workdir / stage / 'events'),
    just_logging=not main_process,
    asynchronous=False,
  )
