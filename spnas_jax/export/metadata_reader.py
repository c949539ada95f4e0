"""Reads the TFLite metadata inside a file; `metadata.py` says what they are."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from typing import Any

from spnas_jax.export import metadata


def read_metadata(model: bytes) -> dict[str, Any]:
  """What a .tflite file says of itself, whoever wrote it.

  Returns:
    'name', 'description', 'version', 'author', 'license': texts, '' where
    nothing is said. 'labels': list of texts. 'color_space': 'RGB', 'GRAYSCALE'
    or ''. 'mean', 'std': lists of numbers, see `ModelDescription`. 'min',
    'max': of the input, lists. 'output': 'logits' or 'probabilities'.
    'interpolation', 'eval_crop': see there; of files that others wrote the
    defaults. 'facts': the content of `model.json`, {} without it.

  Raises:
    ValueError: it is no .tflite file, is damaged, or has no metadata of an
      image classifier with labels.
  """
  if model[4:8] != b'TFL3':
    raise ValueError('it is not a .tflite file')
  try:
    content = _find(model)
    if content is not None:
      return _read(content, _archive(model))
  # Whatever places that point outside of the file lead to.
  except (
    struct.error,
    IndexError,
    KeyError,
    TypeError,
    UnicodeDecodeError,
    zipfile.BadZipFile,
    json.JSONDecodeError,
  ) as e:
    raise ValueError(f'its metadata are damaged ({e})') from e
  raise ValueError('it has no metadata')


def _find(model: bytes) -> bytes | None:
  """The flatbuffer ModelMetadata of a file."""
  from ai_edge_litert import schema_py_generated as schema

  root = schema.Model.GetRootAs(model, 0)
  for i in range(root.MetadataLength()):
    entry = root.Metadata(i)
    if entry.Name() == metadata.FIELD:
      return root.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
  return None


def _archive(model: bytes) -> dict[str, bytes]:
  """The files that are appended, by name."""
  if not zipfile.is_zipfile(io.BytesIO(model)):
    return {}
  with zipfile.ZipFile(io.BytesIO(model)) as archive:
    return {name: archive.read(name) for name in archive.namelist()}


def _read(content: bytes, files: dict[str, bytes]) -> dict[str, Any]:
  from flatbuffers.table import Table

  root = Table(content, struct.unpack_from('<I', content)[0])
  texts = dict(name=0, description=1, version=2, author=4, license=5)
  described: dict[str, Any] = {k: _text(root, n) for k, n in texts.items()}
  subgraphs = _tables(root, 3)
  sources, targets = (
    _tables(subgraphs[0], slot) if subgraphs else [] for slot in (2, 3)
  )
  if len(sources) != 1 or len(targets) != 1:
    raise ValueError('its metadata are not of one image and its classes')
  (source,), (target,) = sources, targets
  labels = [
    _text(file, 0)
    for file in _tables(target, 6)
    if _byte(file, 2) == metadata.TENSOR_AXIS_LABELS
  ]
  if not labels:
    raise ValueError('its metadata name no labels')
  described['labels'] = files[labels[0]].decode().splitlines()
  image = _child(_child(source, 3), 1)
  colours = {code: name for name, code in metadata.COLOUR_CODES.items()}
  described['color_space'] = colours.get(_byte(image, 0), '')
  described['mean'], described['std'] = [0.0], [1.0]
  for unit in _tables(source, 4):
    if _byte(unit, 0) == metadata.NORMALIZATION_OPTIONS:
      options = _child(unit, 1)
      described['mean'] = _numbers(options, 0)
      described['std'] = _numbers(options, 1)
  stats = _child(source, 5)
  described['max'], described['min'] = _numbers(stats, 0), _numbers(stats, 1)
  names = {name: output for output, name in metadata.OUTPUTS.items()}
  # Others call their scores what they like.
  described['output'] = names.get(_text(target, 0), 'probabilities')
  facts = json.loads(files.get(metadata.FACTS_FILE, b'{}'))
  resizing = facts.get('resizing', {})
  for key in metadata.RESIZING:
    described[key] = resizing.get(key, getattr(metadata.ModelDescription, key))
  described['facts'] = facts
  return described


# Each of a table that may not be there, and a field that may be left out.


def _at(table: Any, slot: int) -> int:
  """Where a field is in the table, 0 = nowhere."""
  return 0 if table is None else table.Offset(4 + 2 * slot)


def _child(table: Any, slot: int) -> Any:
  at = _at(table, slot)
  if not at:
    return None
  return type(table)(table.Bytes, table.Indirect(at + table.Pos))


def _tables(table: Any, slot: int) -> list[Any]:
  at = _at(table, slot)
  if not at:
    return []
  start = table.Vector(at)
  return [
    type(table)(table.Bytes, table.Indirect(start + 4 * i))
    for i in range(table.VectorLen(at))
  ]


def _text(table: Any, slot: int) -> str:
  at = _at(table, slot)
  return table.String(at + table.Pos).decode() if at else ''


def _byte(table: Any, slot: int) -> int:
  at = _at(table, slot)
  return table.Bytes[at + table.Pos] if at else 0


def _numbers(table: Any, slot: int) -> list[float]:
  at = _at(table, slot)
  if not at:
    return []
  count = table.VectorLen(at)
  return list(struct.unpack_from(f'<{count}f', table.Bytes, table.Vector(at)))
