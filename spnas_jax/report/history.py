"""Curves of a run, read back from the event files it left.

TensorFlow is not needed: an event file is a row of framed protocol buffers
(length, checksum, bytes, checksum), and tensorboard brings their schema.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from absl import logging
from etils import epath
from google.protobuf.message import DecodeError
from tensorboard.compat.proto import event_pb2

_LENGTH = struct.Struct('<Q')
_CHECKSUM_BYTES = 4
_DT_FLOAT, _DT_DOUBLE = 1, 2


class Curve(NamedTuple):
  """One scalar over the steps of a run.

  Attributes:
    steps: int64 [n], ascending, each once.
    values: float64 [n].
  """

  steps: np.ndarray
  values: np.ndarray


def read_curves(folder) -> dict[str, Curve]:
  """Every scalar of a folder of event files, by its tag.

  A run that was killed has often logged steps behind its last checkpoint, and
  the run that resumed it logged them again, in a file of its own. What was
  written last counts. A half-written record ends its file without complaint.

  Args:
    folder: path of the folder; one that does not exist has no curves.
  """
  folder = epath.Path(folder)
  if not folder.exists():
    return {}
  found: dict[str, dict[int, float]] = {}
  # The names begin with the time at which the file was opened.
  for path in sorted(
    folder.glob('events.out.tfevents.*'), key=lambda p: p.name
  ):
    for step, tag, value in _scalars(path):
      found.setdefault(tag, {})[step] = value
  return {tag: _curve(points) for tag, points in found.items()}


def _curve(points: dict[int, float]) -> Curve:
  steps = sorted(points)
  return Curve(
    np.array(steps, np.int64), np.array([points[s] for s in steps], np.float64)
  )


def _scalars(path: epath.Path) -> Iterator[tuple[int, str, float]]:
  """Yields (step, tag, value) in the order of writing."""
  for record in _records(path.read_bytes()):
    try:
      event = event_pb2.Event.FromString(record)
    except DecodeError:
      logging.warning('%s: damaged, the rest of it is left out', path)
      return
    for entry in event.summary.value:
      value = _scalar(entry)
      if value is not None:
        yield event.step, entry.tag, value


def _records(content: bytes) -> Iterator[bytes]:
  """The frames' payloads, up to the first that is not complete."""
  position = 0
  while position + _LENGTH.size + _CHECKSUM_BYTES <= len(content):
    (length,) = _LENGTH.unpack_from(content, position)
    start = position + _LENGTH.size + _CHECKSUM_BYTES
    position = start + length + _CHECKSUM_BYTES
    if position > len(content):
      return
    yield content[start : start + length]


def _scalar(entry) -> float | None:
  """Value of a summary entry; None for histograms, images, text."""
  kind = entry.WhichOneof('value')
  if kind == 'simple_value':
    return float(entry.simple_value)
  if kind != 'tensor' or entry.tensor.tensor_shape.dim:
    return None
  tensor = entry.tensor
  if tensor.dtype == _DT_FLOAT:
    values, raw = tensor.float_val, '<f4'
  elif tensor.dtype == _DT_DOUBLE:
    values, raw = tensor.double_val, '<f8'
  else:
    return None
  if values:
    return float(values[0])
  if tensor.tensor_content:
    return float(np.frombuffer(tensor.tensor_content, raw)[0])
  return 0.0  # Protocol buffers leave zeros out.
