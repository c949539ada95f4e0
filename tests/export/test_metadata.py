"""Metadata inside .tflite files: what other programs find there."""

import dataclasses
import io
import json
import struct
import zipfile

import numpy as np
import pytest
from tiny_network import SIZE, images, network

from spnas_jax.export import tflite
from spnas_jax.export.metadata import ModelDescription, with_metadata
from spnas_jax.export.metadata_reader import read_metadata
from spnas_jax.export.network import to_tflite

LABELS = ('cat', 'dog', 'Käse, reif', 'd', 'e', 'f')
DESCRIBED = ModelDescription(
  name='six things',
  description='Tells six things from each other.',
  labels=LABELS,
  mean=(120.0, 130.0, 140.0),
  std=(50.0, 60.0, 70.0),
  author='somebody',
  version='3',
  facts={'top1': 0.9},
)
PRECISIONS = ('float32', 'float16', 'int8')


@pytest.fixture(scope='module')
def models():
  """Precision -> a model of six classes; int8 takes pixels."""
  arch, variables = network()
  inside = np.full(3, 1 / 255, np.float32), np.zeros(3, np.float32)
  return {
    'float32': to_tflite(arch, variables, SIZE),
    'float16': to_tflite(arch, variables, SIZE, precision='float16'),
    'int8': to_tflite(
      arch,
      variables,
      SIZE,
      precision='int8',
      calibration=np.rint(255 * images(16)),
      scale_and_offset=inside,
    ),
  }


class Table:
  """A flatbuffer's table, read from its bytes alone."""

  def __init__(self, data: bytes, at: int):
    self.data, self.at = data, at
    self.vtable = at - struct.unpack_from('<i', data, at)[0]

  def field(self, slot: int) -> int:
    """Where a field's value lies, 0 = it has none."""
    (size,) = struct.unpack_from('<H', self.data, self.vtable)
    entry = 4 + 2 * slot
    if entry >= size:
      return 0
    (offset,) = struct.unpack_from('<H', self.data, self.vtable + entry)
    return offset and self.at + offset

  def target(self, slot: int) -> int:
    at = self.field(slot)
    return at + struct.unpack_from('<I', self.data, at)[0]

  def table(self, slot: int) -> 'Table':
    return Table(self.data, self.target(slot))

  def tables(self, slot: int) -> list['Table']:
    start = self.target(slot)
    (count,) = struct.unpack_from('<I', self.data, start)
    places = [start + 4 + 4 * i for i in range(count)]
    return [
      Table(self.data, p + struct.unpack_from('<I', self.data, p)[0])
      for p in places
    ]

  def vector(self, slot: int, kind: str) -> tuple:
    start = self.target(slot)
    (count,) = struct.unpack_from('<I', self.data, start)
    return struct.unpack_from(f'<{count}{kind}', self.data, start + 4)

  def text(self, slot: int) -> str:
    start = self.target(slot)
    (count,) = struct.unpack_from('<I', self.data, start)
    return self.data[start + 4 : start + 4 + count].decode()

  def byte(self, slot: int) -> int:
    return self.data[self.field(slot)]


def root(data: bytes, identifier: bytes) -> Table:
  assert data[4:8] == identifier
  return Table(data, struct.unpack_from('<I', data)[0])


def model_metadata(model: bytes) -> Table:
  """ModelMetadata; slots of Model: 4 buffers, 6 metadata."""
  top = root(model, b'TFL3')
  (entry,) = (
    t for t in top.tables(6) if t.text(0) == 'TFLITE_METADATA'
  )  # Metadata: 0 name, 1 buffer
  (index,) = struct.unpack_from('<I', model, entry.field(1))
  buffer = bytes(top.tables(4)[index].vector(0, 'B'))  # Buffer: 0 data
  return root(buffer, b'M001')


def test_flatbuffer_is_what_the_schema_says(models):
  """Slots as metadata_schema.fbs counts them, read without the writer."""
  found = model_metadata(with_metadata(models['float32'], DESCRIBED))
  assert [found.text(slot) for slot in (0, 1, 2, 4, 7)] == [
    'six things',
    'Tells six things from each other.',
    '3',
    'somebody',
    '1.0.0',
  ]
  assert found.field(5) == 0  # license
  (facts,) = found.tables(6)
  assert (facts.text(0), facts.byte(2)) == ('model.json', 1)  # DESCRIPTIONS
  (subgraph,) = found.tables(3)
  (image,), (scores,) = subgraph.tables(2), subgraph.tables(3)
  assert image.text(0) == 'image'
  content = image.table(3)
  assert content.byte(0) == 2  # ImageProperties
  assert content.table(1).byte(0) == 1  # RGB
  (unit,) = image.tables(4)
  assert unit.byte(0) == 1  # NormalizationOptions
  assert unit.table(1).vector(0, 'f') == DESCRIBED.mean
  assert unit.table(1).vector(1, 'f') == DESCRIBED.std
  stats = image.table(5)
  np.testing.assert_allclose(
    stats.vector(0, 'f'), [(255 - 120) / 50, (255 - 130) / 60, (255 - 140) / 70]
  )
  np.testing.assert_allclose(
    stats.vector(1, 'f'), [-120 / 50, -130 / 60, -140 / 70]
  )
  assert scores.text(0) == 'logits'
  assert scores.table(3).byte(0) == 1  # FeatureProperties
  (labels,) = scores.tables(6)
  assert (labels.text(0), labels.byte(2)) == ('labels.txt', 2)  # AXIS_LABELS


def test_integer_inputs_are_pixels_and_probabilities_are_called_so(models):
  described = dataclasses.replace(DESCRIBED, output='probabilities')
  found = model_metadata(with_metadata(models['int8'], described))
  (subgraph,) = found.tables(3)
  (image,), (scores,) = subgraph.tables(2), subgraph.tables(3)
  stats = image.table(5)
  assert (stats.vector(0, 'f'), stats.vector(1, 'f')) == ((255.0,), (0.0,))
  assert scores.text(0) == 'probability'
  stats = scores.table(5)
  assert (stats.vector(0, 'f'), stats.vector(1, 'f')) == ((1.0,), (0.0,))


def test_archive_is_stored_behind_the_model(models, tmp_path):
  """Uncompressed, as C++ readers map it; of no date, so always the same."""
  path = tmp_path / 'model.tflite'
  path.write_bytes(with_metadata(models['float32'], DESCRIBED))
  with zipfile.ZipFile(path) as archive:
    assert archive.testzip() is None
    assert archive.namelist() == ['labels.txt', 'model.json']
    assert archive.read('labels.txt').decode().split('\n') == list(LABELS)
    assert json.loads(archive.read('model.json')) == {
      'top1': 0.9,
      'resizing': {'interpolation': 'bilinear', 'eval_crop': None},
    }
    data = path.read_bytes()
    for entry in archive.infolist():
      assert entry.compress_type == zipfile.ZIP_STORED
      assert entry.date_time == (1980, 1, 1, 0, 0, 0)
      # Places count from the beginning of the whole file.
      assert data[entry.header_offset :].startswith(b'PK\x03\x04')


@pytest.mark.parametrize('precision', PRECISIONS)
def test_nothing_that_is_computed_changes(models, precision):
  model = models[precision]
  described = with_metadata(model, DESCRIBED)
  x = images(5)
  if precision == 'int8':
    x = np.rint(255 * x)
  np.testing.assert_array_equal(tflite.run(described, x), tflite.run(model, x))
  assert tflite.operations(described) == tflite.operations(model)
  assert tflite.interface(described) == tflite.interface(model)


def test_what_the_converter_noted_stays(models):
  names = {
    t.text(0)
    for t in root(with_metadata(models['float32'], DESCRIBED), b'TFL3').tables(
      6
    )
  }
  assert {'min_runtime_version', 'TFLITE_METADATA'} <= names


def test_any_batch_size_stays(models):
  model = with_metadata(tflite.with_any_batch(models['float32']), DESCRIBED)
  assert tflite.interface(model)['input']['shape'] == [-1, SIZE, SIZE, 3]


def test_same_arguments_same_bytes_and_the_last_description_counts(models):
  model = models['float32']
  once = with_metadata(model, DESCRIBED)
  assert with_metadata(model, DESCRIBED) == once
  assert with_metadata(once, DESCRIBED) == once
  other = dataclasses.replace(
    DESCRIBED, name='others', facts={'long': 'x' * 99}
  )
  again = with_metadata(with_metadata(model, other), DESCRIBED)
  assert again == once
  assert len(zipfile.ZipFile(io.BytesIO(again)).namelist()) == 2


def test_everything_is_read_back(models):
  described = dataclasses.replace(
    DESCRIBED, license='Apache-2.0', interpolation='bicubic', eval_crop=0.875
  )
  found = read_metadata(with_metadata(models['float16'], described))
  asked = {
    'name': described.name,
    'description': described.description,
    'version': '3',
    'author': 'somebody',
    'license': 'Apache-2.0',
    'labels': list(LABELS),
    'color_space': 'RGB',
    'mean': list(described.mean),
    'std': list(described.std),
    'output': 'logits',
    'interpolation': 'bicubic',
    'eval_crop': 0.875,
  }
  assert {key: found[key] for key in asked} == asked
  assert found['facts']['top1'] == 0.9


def test_grey_images_are_called_so():
  model = tflite.convert(lambda x: x.sum((1, 2)), (1, 4, 4, 1))
  found = read_metadata(
    with_metadata(model, ModelDescription('grey', '', ['all']))
  )
  assert found['color_space'] == 'GRAYSCALE'
  assert (found['mean'], found['std']) == ([0.0], [1.0])
  assert (found['min'], found['max']) == ([0.0], [255.0])


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'labels': LABELS[:5]}, '5 labels for 6 outputs'),
    ({'labels': (*LABELS[:5], 'two\nlines')}, 'one line'),
    ({'labels': (*LABELS[:5], '')}, 'one line'),
    ({'mean': (1.0, 2.0)}, 'mean'),
    ({'std': (1.0,)}, 'std'),
    ({'std': (1.0, 0.0, 1.0)}, 'above 0'),
    ({'output': 'scores'}, 'logits, probabilities'),
    ({'interpolation': 'nearest'}, 'bilinear, bicubic'),
    ({'eval_crop': 0.0}, 'eval_crop'),
  ],
)
def test_descriptions_that_do_not_fit_are_refused(models, changes, message):
  described = dataclasses.replace(DESCRIBED, **changes)
  with pytest.raises(ValueError, match=message):
    with_metadata(models['float32'], described)


def test_models_of_other_things_are_refused():
  model = tflite.convert(lambda x: x + 1, (1, 2))
  with pytest.raises(ValueError, match='batch, height, width'):
    with_metadata(model, ModelDescription('', '', ['a', 'b']))


def test_files_that_say_nothing_or_are_damaged(models):
  with pytest.raises(ValueError, match=r'not a \.tflite file'):
    read_metadata(b'text')
  with pytest.raises(ValueError, match='no metadata'):
    read_metadata(models['float32'])
  whole = with_metadata(models['float32'], DESCRIBED)
  for length in (8, 100, len(whole) // 2, len(whole) - 30):
    with pytest.raises(ValueError, match='damaged'):
      read_metadata(whole[:length])
