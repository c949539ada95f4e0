"""Predicting: what an exported file alone makes of a folder of files."""

import csv

import numpy as np
import pytest
import tiny
from fake_photos import coloured, encode, turned_jpeg
from tiny_network import SIZE, jax_logits, network

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.export import photos, tflite
from spnas_jax.export.metadata import ModelDescription, with_metadata
from spnas_jax.export.network import to_tflite
from spnas_jax.stages import predict

COLOURS = ('red', 'green', 'blue')


@pytest.fixture(scope='module')
def means():
  """Precision -> a model whose logits are the means of colours, 0..1."""
  return {
    precision: tflite.convert(
      lambda x: (x / 255).mean((1, 2)),
      (1, 4, 4, 3),
      precision=precision,
      calibration=[np.float32(p).reshape(1, 4, 4, 3) for p in corners()],
    )
    for precision in ('float32', 'float16', 'int8')
  }


def corners():
  rng = np.random.default_rng(0)
  return [np.zeros(48), np.full(48, 255), *rng.integers(0, 256, (8, 48))]


def described(model: bytes, **changes) -> bytes:
  fields = {'name': 'colours', 'description': '', 'labels': COLOURS}
  return with_metadata(model, ModelDescription(**{**fields, **changes}))


def plain(colour, side: int = 6) -> bytes:
  return encode(np.broadcast_to(np.uint8(colour), (side, side, 3)), 'PNG')


def config(images, model='', top_k=1):
  c = tiny.config()
  c.predict.update(images=str(images), model=str(model), top_k=top_k)
  return c


@pytest.fixture
def folder(tmp_path):
  """Red, green and blue; what is hidden; what is no image."""
  images = tmp_path / 'images'
  (images / 'more').mkdir(parents=True)
  (images / '.thumbnails').mkdir()
  (images / '10.png').write_bytes(plain((250, 10, 0)))
  (images / '2, or so.png').write_bytes(plain((0, 250, 0)))
  (images / 'more' / '1.png').write_bytes(plain((0, 51, 255)))
  (images / 'more' / 'notes.txt').write_text('no image')
  (images / '.thumbnails' / '1.png').write_bytes(plain((0, 0, 0)))
  (images / '.hidden').write_text('')
  return images


def softmax(logits):
  powers = np.exp(np.asarray(logits))
  return powers / powers.sum()


@pytest.mark.parametrize('precision', ['float32', 'float16', 'int8'])
def test_a_line_for_each_photo(means, folder, tmp_path, capsys, precision):
  """In natural order; what cannot be read is named and counted."""
  model = tmp_path / 'elsewhere.tflite'
  model.write_bytes(described(means[precision]))
  workdir = Workdir(tmp_path / 'workdir')
  rows = predict.run(config(folder, model, top_k=2), workdir)
  names = [str(folder / n) for n in ('2, or so.png', '10.png', 'more/1.png')]
  assert [row['path'] for row in rows] == names
  assert [r['classes'] for r in rows][1:] == [
    ['red', 'green'],
    ['blue', 'green'],
  ]
  assert [row['classes'][0] for row in rows] == ['green', 'red', 'blue']
  tolerance = 5e-3 if precision == 'int8' else 1e-3
  for row, logits in zip(
    rows, ((0, 250, 0), (250, 10, 0), (0, 51, 255)), strict=True
  ):
    want = np.sort(softmax(np.array(logits) / 255))[::-1][:2]
    np.testing.assert_allclose(row['confidences'], want, atol=tolerance)
  with open(tmp_path / 'workdir' / 'predictions.csv', newline='') as file:
    header, *lines = csv.reader(file)
  assert header == ['path', 'class', 'confidence', 'class_2', 'confidence_2']
  assert lines == [
    [
      r['path'],
      *(
        x
        for k, v in zip(r['classes'], r['confidences'], strict=True)
        for x in (k, f'{v:.4f}')
      ),
    ]
    for r in rows
  ]
  said = capsys.readouterr().out
  assert list(csv.reader(said.splitlines()))[1:4] == lines
  assert f'left out, as it cannot be read: {folder}/more/notes.txt (not' in said
  assert '3 images, 1 files could not be read' in said
  assert [p.name for p in (tmp_path / 'workdir').iterdir()] == [
    'predictions.csv'
  ]


def test_probabilities_are_taken_as_they_are(means, folder, tmp_path):
  model = tmp_path / 'model.tflite'
  model.write_bytes(described(means['float32'], output='probabilities'))
  rows = predict.run(config(folder, model, top_k=9), Workdir(tmp_path))
  np.testing.assert_allclose(rows[2]['confidences'], [1, 0.2, 0], atol=1e-6)
  assert rows[2]['classes'] == ['blue', 'green', 'red']


def test_normalisation_and_crop_of_the_file_are_used(means, tmp_path):
  """The red border is outside of the central square."""
  pixels = np.zeros((16, 24, 3), np.uint8)
  pixels[..., 0] = 255
  pixels[4:12, 8:16] = 0, 100, 0
  (tmp_path / 'photo.png').write_bytes(encode(pixels, 'PNG'))
  model = tmp_path / 'model.tflite'
  model.write_bytes(
    described(
      means['float32'],
      mean=(0.0, 50.0, -255.0),
      std=(1.0, 0.5, 1.0),
      eval_crop=0.5,
      output='probabilities',
    )
  )
  (row,) = predict.run(
    config(tmp_path / 'photo.png', model, top_k=3), Workdir(tmp_path)
  )
  assert row['classes'] == ['blue', 'green', 'red']
  np.testing.assert_allclose(row['confidences'], [1, 100 / 255, 0], atol=1e-6)


def test_says_what_the_network_says_in_jax(tmp_path, monkeypatch):
  """Turned photos, in several chunks, of the workdir's own file."""
  monkeypatch.setattr(predict, '_CHUNK', 2)
  arch, variables = network()
  labels = tuple('abcdef')
  model = with_metadata(
    to_tflite(arch, variables, SIZE),
    ModelDescription('six', '', labels, mean=(127.5,), std=(63.75,)),
  )
  (tmp_path / 'model.tflite').write_bytes(model)
  images = tmp_path / 'images'
  images.mkdir()
  inputs = []
  for i, pixels in enumerate(coloured(5)):
    file = turned_jpeg(pixels[:, :24], 1 + i)
    (images / f'{i}.jpg').write_bytes(file)
    inputs.append(photos.fit(photos.read(file, 3), (SIZE, SIZE)))
  x = (np.stack(inputs).astype(np.float32) - 127.5) / 63.75
  want = np.stack([softmax(row) for row in jax_logits(arch, variables, x)])
  rows = predict.run(config(images, top_k=6), Workdir(tmp_path))
  for row, values in zip(rows, want, strict=True):
    order = np.argsort(-values)
    assert row['classes'] == [labels[i] for i in order]
    np.testing.assert_allclose(row['confidences'], values[order], rtol=1e-3)


def test_photos_come_in_natural_order(tmp_path):
  """Numbers in names are numbers, also where only leading zeros differ."""
  names = ['b/1.jpg', 'a10', 'a2/9.jpg', 'a2/10.jpg', 'a02', 'a', '7', '11']
  for name in names:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  found = predict.find_photos(str(tmp_path))
  assert [str(path.relative_to(tmp_path)) for path in found] == [
    '7', '11', 'a', 'a02', 'a2/9.jpg', 'a2/10.jpg', 'a10', 'b/1.jpg',
  ]  # fmt: skip


def test_what_is_not_there_is_said_before_anything_runs(
  means, folder, tmp_path
):
  workdir = Workdir(tmp_path / 'workdir')
  good = tmp_path / 'good.tflite'
  good.write_bytes(described(means['float32']))
  bare = tmp_path / 'bare.tflite'
  bare.write_bytes(means['float32'])
  other = tmp_path / 'other.tflite'
  other.write_bytes(b'text')
  empty = tmp_path / 'empty'
  empty.mkdir()
  for images, model, message in (
    ('', good, r'predict\.images is not set'),
    (tmp_path / 'none', good, r'predict\.images .*none'),
    (empty, good, r'predict\.images .*empty'),
    (folder, '', r'model\.tflite cannot be read .*--stage=export'),
    (folder, tmp_path / 'none', 'cannot be read .No such file'),
    (folder, bare, 'no metadata.*export it again'),
    (folder, other, r'not a \.tflite file'),
  ):
    with pytest.raises(UserError, match=message) as error:
      predict.check(config(images, model), workdir)
    assert '\n' not in str(error.value)
  predict.check(config(folder, good), workdir)


def test_no_readable_photo_is_an_error(means, folder, tmp_path, capsys):
  workdir = Workdir(tmp_path / 'workdir')
  workdir.write('model.tflite', described(means['float32']))
  with pytest.raises(UserError, match='none of its 1 files'):
    predict.run(config(folder / 'more' / 'notes.txt'), workdir)
  assert 'notes.txt' in capsys.readouterr().out
  assert not (workdir / 'predictions.csv').exists()
