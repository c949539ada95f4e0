"""What an app has to know of a .tflite file, inside the file.

The format is TFLite metadata (metadata_schema.fbs of TFLite Support and
MediaPipe, identifier M001), which Android Studio, Netron and the Task libraries
read: a flatbuffer in the model's metadata table, and files in a ZIP archive
appended to the model. The packages that write it do not fit: mediapipe brings
OpenCV and an audio library along, tflite-support needs an older protobuf than
TensorFlow. So the few tables that an image classifier has are written here.

What `ImageClassifier` of these libraries asks of a model beside its metadata:
an image [1, H, W, 3] of float32 or uint8, and scores of float32 or uint8. Grey
models and int8 scores are refused. Scores are passed on as they are, logits as
well: their order is right, but an app that shows percentages or sets a
threshold wants probabilities. uint8 images are fed as pixels whatever `mean`
and `std` say, so integer models should normalise inside.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from spnas_jax.data import datasets
from spnas_jax.export import tflite

LABELS_FILE = 'labels.txt'
FACTS_FILE = 'model.json'
# What the output tensor is called: 'probability' by other writers, too.
OUTPUTS = {'logits': 'logits', 'probabilities': 'probability'}

FIELD = b'TFLITE_METADATA'
_IDENTIFIER = b'M001'
# Of the schema: all that is written here has been in it since then.
_MIN_PARSER_VERSION = '1.0.0'
# Values of the schema's enumerations and unions.
_DESCRIPTIONS, TENSOR_AXIS_LABELS = 1, 2  # AssociatedFileType
_FEATURE_PROPERTIES, _IMAGE_PROPERTIES = 1, 2  # ContentProperties
NORMALIZATION_OPTIONS = 1  # ProcessUnitOptions
_COLOUR_SPACES = {1: 'GRAYSCALE', 3: 'RGB'}  # By channels.
COLOUR_CODES = {'RGB': 1, 'GRAYSCALE': 2}  # ColorSpaceType
# Fields of `ModelDescription` for which the format has no place.
RESIZING = ('interpolation', 'eval_crop')
# ZIP has no dates before; a date of today would make every file another one.
_NO_DATE = (1980, 1, 1, 0, 0, 0)


@dataclasses.dataclass(frozen=True)
class ModelDescription:
  """What is written into an image classifier's file.

  Attributes:
    name: of the model, a few words.
    description: free text: what it recognises, what it was trained on, how
      well it does.
    labels: name of every class, in the order of the output.
    mean, std: the input is (pixel - mean) / std with pixels 0..255; one number
      or one for each channel. As they are, where the model normalises inside.
    output: 'logits' or 'probabilities', what the model gives.
    interpolation: 'bilinear' or 'bicubic', how photos are resized.
    eval_crop: side of the central square that is resized, over the short side;
      None = the whole image.
    version, author, license: left out where empty.
    facts: anything else that JSON can hold; it and how photos are resized, for
      which the format has no place, become `model.json` inside the file.
  """

  name: str
  description: str
  labels: Sequence[str]
  mean: Sequence[float] = (0.0,)
  std: Sequence[float] = (1.0,)
  output: str = 'logits'
  interpolation: str = 'bilinear'
  eval_crop: float | None = None
  version: str = ''
  author: str = ''
  license: str = ''
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)


def with_metadata(model: bytes, description: ModelDescription) -> bytes:
  """The same model with metadata, in place of those it may have.

  The same arguments give the same bytes. Nothing that is computed changes.

  Args:
    model: a .tflite file with one input [1 or any, H, W, 1 or 3] and one output
      [same, N].
    description: what is to be said of it.

  Raises:
    ValueError: the description does not fit the model.
  """
  root, _ = tflite.unpack(model)
  channels, classes, pixels = _interface(root)
  _check(description, channels, classes)
  content = _metadata(description, channels, pixels)
  _put(root, np.frombuffer(content, np.uint8))
  # That writes the flatbuffer only: an older archive behind it is gone.
  file = io.BytesIO(tflite.pack(root))
  labels = '\n'.join(description.labels)
  resizing = {key: getattr(description, key) for key in RESIZING}
  facts = json.dumps({**description.facts, 'resizing': resizing}, indent=1)
  # The libraries look up places in the whole file, as appending gives them, and
  # read what is stored, never what is compressed.
  with zipfile.ZipFile(file, 'a', zipfile.ZIP_STORED) as archive:
    for name, text in ((LABELS_FILE, labels), (FACTS_FILE, facts)):
      entry = zipfile.ZipInfo(name, _NO_DATE)
      entry.create_system = 3  # Of whichever system writes it.
      entry.external_attr = 0o644 << 16
      archive.writestr(entry, text.encode())
  return file.getvalue()


def _interface(root: Any) -> tuple[int, int, bool]:
  """Channels of the input, number of outputs, whether the input is uint8."""
  from ai_edge_litert import schema_py_generated as schema

  graph = root.subgraphs[0]
  source, target = (graph.tensors[i[0]] for i in (graph.inputs, graph.outputs))
  shape = [int(n) for n in source.shape]
  if len(shape) != 4 or shape[3] not in _COLOUR_SPACES:
    raise ValueError(
      f'the input is {shape}, must be [batch, height, width, 1 or 3]'
    )
  pixels = source.type == schema.TensorType.UINT8
  return shape[3], int(target.shape[-1]), pixels


def _check(d: ModelDescription, channels: int, classes: int) -> None:
  """Refuses a description that a reader could not make sense of."""
  if len(d.labels) != classes:
    raise ValueError(f'{len(d.labels)} labels for {classes} outputs')
  for label in d.labels:
    if label.splitlines() != [label]:
      raise ValueError(f'the label {label!r} must be one line of text')
  for key, values in (('mean', d.mean), ('std', d.std)):
    if len(values) not in (1, channels) or len(values) != len(d.mean):
      raise ValueError(
        f'{key} is {tuple(values)}, must be one number, or one for each of '
        f'{channels} channels, as many for mean and std'
      )
  if not all(value > 0 for value in d.std):
    raise ValueError(f'std is {tuple(d.std)}, must be above 0')
  for key, choices in (
    ('output', tuple(OUTPUTS)),
    ('interpolation', datasets.INTERPOLATIONS),
  ):
    if getattr(d, key) not in choices:
      raise ValueError(
        f'{key} is {getattr(d, key)!r}, allowed: {", ".join(choices)}'
      )
  if d.eval_crop is not None and not 0 < d.eval_crop <= 1:
    raise ValueError(f'eval_crop is {d.eval_crop}, allowed: above 0 to 1')


def _put(root: Any, content: np.ndarray) -> None:
  """Puts a buffer into an unpacked model's table of metadata."""
  from ai_edge_litert import schema_py_generated as schema

  for entry in root.metadata or ():
    if entry.name == FIELD:
      root.buffers[entry.buffer].data = content
      return
  buffer = schema.BufferT()
  buffer.data = content
  entry = schema.MetadataT()
  entry.name, entry.buffer = FIELD, len(root.buffers)
  root.buffers.append(buffer)
  root.metadata = [*(root.metadata or ()), entry]


# --- writing ------------------------------------------------------------------

# Numbers of fields are their places in metadata_schema.fbs; a union takes two,
# for its type and for its value.


def _metadata(d: ModelDescription, channels: int, pixels: bool) -> bytes:
  """The flatbuffer ModelMetadata."""
  import flatbuffers

  b = flatbuffers.Builder(0)
  subgraph = _table(
    b,
    {
      2: _vector(b, [_image(b, d, channels, pixels)]),  # input_tensor_metadata
      3: _vector(b, [_scores(b, d)]),  # output_tensor_metadata
    },
  )
  facts = _file(
    b, FACTS_FILE, 'Architecture, data and versions.', _DESCRIPTIONS
  )
  model = _table(
    b,
    {
      0: _string(b, d.name),  # name
      1: _string(b, d.description),  # description
      2: _string(b, d.version),  # version
      3: _vector(b, [subgraph]),  # subgraph_metadata
      4: _string(b, d.author),  # author
      5: _string(b, d.license),  # license
      6: _vector(b, [facts]),  # associated_files
      7: _string(b, _MIN_PARSER_VERSION),  # min_parser_version
    },
  )
  b.Finish(model, _IDENTIFIER)
  return bytes(b.Output())


def _image(b: Any, d: ModelDescription, channels: int, pixels: bool) -> int:
  """TensorMetadata of the input."""
  code = COLOUR_CODES[_COLOUR_SPACES[channels]]
  image = _table(b, {}, bytes_={0: code})  # color_space
  content = _table(
    b,
    {1: image},  # content_properties
    bytes_={0: _IMAGE_PROPERTIES},  # content_properties_type
  )
  options = _table(
    b, {0: _floats(b, d.mean), 1: _floats(b, d.std)}
  )  # mean, std
  unit = _table(
    b,
    {1: options},  # options
    bytes_={0: NORMALIZATION_OPTIONS},  # options_type
  )
  # Of integers the libraries mean the pixels that they feed.
  means, stds = ((0.0,), (1.0,)) if pixels else (d.mean, d.std)
  pairs = list(zip(means, stds, strict=True))
  stats = _table(
    b,
    {
      0: _floats(b, [(255 - mean) / std for mean, std in pairs]),  # max
      1: _floats(b, [(0 - mean) / std for mean, std in pairs]),  # min
    },
  )
  return _table(
    b,
    {
      0: _string(b, 'image'),  # name
      1: _string(b, 'The image to be classified.'),  # description
      3: content,  # content
      4: _vector(b, [unit]),  # process_units
      5: stats,  # stats
    },
  )


def _scores(b: Any, d: ModelDescription) -> int:
  """TensorMetadata of the output."""
  feature = _table(b, {})
  content = _table(
    b,
    {1: feature},  # content_properties
    bytes_={0: _FEATURE_PROPERTIES},  # content_properties_type
  )
  labels = _file(b, LABELS_FILE, 'Names of the classes.', TENSOR_AXIS_LABELS)
  meaning = {
    'logits': 'Logits of the classes: softmax makes them probabilities.',
    'probabilities': 'Probabilities of the classes.',
  }
  slots = {
    0: _string(b, OUTPUTS[d.output]),  # name
    1: _string(b, meaning[d.output]),  # description
    3: content,  # content
    6: _vector(b, [labels]),  # associated_files
  }
  if d.output == 'probabilities':
    slots[5] = _table(
      b, {0: _floats(b, [1.0]), 1: _floats(b, [0.0])}
    )  # stats: max, min
  return _table(b, slots)


def _file(b: Any, name: str, description: str, kind: int) -> int:
  """AssociatedFile."""
  return _table(
    b,
    {0: _string(b, name), 1: _string(b, description)},  # name, description
    bytes_={2: kind},  # type
  )


def _table(
  b: Any, slots: dict[int, int], bytes_: dict[int, int] | None = None
) -> int:
  """A table of fields by number: places of what was written, and bytes."""
  bytes_ = bytes_ or {}
  b.StartObject(max([*slots, *bytes_], default=-1) + 1)
  for slot, place in slots.items():
    b.PrependUOffsetTRelativeSlot(slot, place, 0)  # 0 is left out.
  for slot, value in bytes_.items():
    b.PrependUint8Slot(slot, value, 0)
  return b.EndObject()


def _string(b: Any, text: str) -> int:
  return b.CreateString(text) if text else 0


def _vector(b: Any, places: list[int]) -> int:
  b.StartVector(4, len(places), 4)
  for place in reversed(places):
    b.PrependUOffsetTRelative(place)
  return b.EndVector()


def _floats(b: Any, values: Sequence[float]) -> int:
  return b.CreateNumpyVector(np.asarray(values, np.float32))
