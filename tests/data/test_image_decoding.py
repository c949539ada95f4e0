"""Image files of other people: turned, misnamed, damaged."""

import fake_photos
import numpy as np
import pytest

from spnas_jax.core.errors import UserError
from spnas_jax.data import datasets, input_pipeline, unreadable

SIDE = 32


def make_config(folder, **changes):
  config = datasets.default_config()
  config.update(
    name='photos', data_dir=str(folder), image_size=SIDE, augment='none'
  )
  config.update(mean=(0.0,), std=(1.0,), shuffle_buffer=16, **changes)
  return config


def scored(config, split='test', batch=4):
  """uint8 images and labels that evaluation counts."""
  batches = list(
    input_pipeline.eval_batches(
      config, batch_size=batch, split=split, dtype='uint8'
    )
  )
  mask = np.concatenate([b['mask'] for b in batches]) > 0
  images = np.concatenate([b['image'] for b in batches])[mask]
  return images, np.concatenate([b['label'] for b in batches])[mask]


# --- turned -------------------------------------------------------------------


@pytest.mark.parametrize('route', ['cached', 'records', 'window'])
def test_exif_orientation_is_honoured_on_every_route(route, tmp_path):
  """All eight, so that a phone's upright photo is upright in training too."""
  seen = fake_photos.coloured(8, SIDE)
  files = [fake_photos.turned_jpeg(p, i + 1) for i, p in enumerate(seen)]
  fake_photos.write(tmp_path, {'train': files, 'test': files})
  config = make_config(tmp_path, cache=route == 'cached')
  if route == 'window':
    config.augment = 'inception'
  images, _ = scored(config)
  # tfds may store the images in another order; `inception` sees the central
  # 7/8, so its cells are a little larger.
  away = np.array(
    [[np.abs(i.astype(int) - p).mean() for p in seen] for i in images]
  )
  assert sorted(away.argmin(1)) == list(range(8))
  near, others = np.sort(away, 1)[:, :2].T
  # JPEG at quality 98; another turn of an image is as far as another image.
  assert (near < (0.7 * others if route == 'window' else 10)).all()


@pytest.mark.parametrize('channels', [1, 3])
def test_what_is_no_orientation_turns_nothing(channels):
  """Damaged EXIF, other application segments, no EXIF: as it is stored."""
  from spnas_jax.data import image_decoding

  pixels = fake_photos.coloured(1, 16)[0][:, :12]
  plain = fake_photos.encode(pixels, quality=98)
  turned = fake_photos.turned_jpeg(pixels, 6)
  assert int(image_decoding.orientation(turned)) == 6
  assert int(image_decoding.orientation(plain)) == 1
  cut = turned.replace(b'Exif\0\0MM\0*', b'Exif\0\0MM\xff\xff')
  comment = plain[:2] + b'\xff\xfe\0\x06abcd' + plain[2:]
  big = turned.replace(b'\x01\x12\0\x03\0\0\0\x01\0\x06', b'\x01\x12\0\x03' * 2)
  for file in (comment, cut[:30] + plain[20:], big, turned[:40], b'', b'\xff'):
    assert int(image_decoding.orientation(file)) in range(1, 9)
  assert int(image_decoding.orientation(comment)) == 1
  image = image_decoding.decode(plain, channels)
  assert image.shape == (16, 12, channels)


# --- misnamed -----------------------------------------------------------------


@pytest.mark.parametrize('augment', ['none', 'inception'])
@pytest.mark.parametrize('kind', ['PNG', 'BMP', 'GIF'])
def test_the_content_decides_how_a_file_is_decoded(kind, augment, tmp_path):
  """A PNG that its data set calls JPEG, on every route."""
  pixels = fake_photos.coloured(4, SIDE)
  files = [fake_photos.encode(p, kind) for p in pixels]
  fake_photos.write(tmp_path, {'train': files, 'test': files})
  config = make_config(tmp_path, cache=False, augment=augment)
  images, _ = scored(config)
  assert len(images) == 4
  if augment == 'none' and kind != 'GIF':  # Which has 256 colours.
    for image in images:
      assert min(np.abs(image.astype(int) - p).max() for p in pixels) == 0
  batch = next(input_pipeline.train_batches(config, batch_size=4, seed=0))
  assert np.isfinite(batch['image']).all()


# --- damaged ------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path):
  """Twelve training images of which two cannot be read; four test images."""
  unreadable._told.clear()
  good = [fake_photos.encode(p) for p in fake_photos.coloured(12, SIDE)]
  train = list(good)
  train[3] = b'this is a text file'
  train[8] = good[8][:60]
  fake_photos.write(tmp_path, {'train': train, 'test': good[:4]})
  return tmp_path


@pytest.mark.parametrize('cache', [True, False])
def test_an_unreadable_image_is_named_with_what_to_do(cache, damaged):
  """The record, its file, its own name, and the key that goes on without."""
  config = make_config(damaged, cache=cache)
  with pytest.raises(UserError) as e:
    stream = input_pipeline.train_batches(config, batch_size=4, seed=0)
    for _ in range(3):
      next(stream)
  text = str(e.value)
  assert '\n' not in text
  for word in ('photos', "'train'", 'record', 'file_name train_'):
    assert word in text
  assert 'dataset.max_unreadable' in text and '0 of 12' in text


@pytest.mark.parametrize('cache', [True, False])
def test_a_share_of_unreadable_images_may_be_left_out(cache, damaged, capsys):
  """Said once; training goes on, resumes to the same batches, and sees none."""
  config = make_config(damaged, cache=cache, max_unreadable=0.2)

  def take(start, count):
    stream = input_pipeline.train_batches(
      config, batch_size=4, seed=0, start_step=start
    )
    return [next(stream) for _ in range(count)]

  whole, later = take(0, 6), take(2, 4)
  for a, b in zip(whole[2:], later, strict=True):
    np.testing.assert_array_equal(a['image'], b['image'])
    np.testing.assert_array_equal(a['label'], b['label'])
  assert all(b['image'].std((1, 2, 3)).min() > 0 for b in whole), 'no zeros'
  said = capsys.readouterr().out
  assert said.count('left out') in (1, 2) and 'train_' in said
  config.max_unreadable = 0.1  # One of twelve.
  with pytest.raises(UserError, match=r'dataset\.max_unreadable'):
    input_pipeline.cached_batches._read_split.cache_clear()
    take(0, 6)


def test_evaluation_counts_what_can_be_read(tmp_path):
  unreadable._told.clear()
  good = [fake_photos.encode(p) for p in fake_photos.coloured(6, SIDE)]
  test = [*good[:2], b'nothing', *good[3:]]
  fake_photos.write(tmp_path, {'train': good, 'test': test})
  config = make_config(tmp_path, cache=False, max_unreadable=0.2)
  images, labels = scored(config)
  assert len(images) == len(labels) == 5


def test_a_damaged_file_of_records_is_named(tmp_path):
  good = [fake_photos.encode(p) for p in fake_photos.coloured(6, SIDE)]
  fake_photos.write(tmp_path, {'train': good, 'test': good})
  (path,) = tmp_path.glob('photos/1.0.0/*test*')
  content = bytearray(path.read_bytes())
  content[200] ^= 255
  path.write_bytes(content)
  config = make_config(tmp_path, cache=False, max_unreadable=0.5)
  with pytest.raises(
    UserError, match=r'is damaged.*prepare the data set again'
  ):
    scored(config)
