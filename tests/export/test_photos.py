"""Photos without TensorFlow: shown as by viewers, resized as in evaluation."""

import io

import numpy as np
import pytest
from fake_photos import as_viewed, coloured, encode, save, turned_jpeg
from PIL import Image
from sklearn.datasets import load_sample_images

from spnas_jax.data import preprocessing
from spnas_jax.export import photos

tf = preprocessing.tf


@pytest.fixture(scope='module')
def pictures():
  """Two real ones, [427, 640, 3], and the corner of one, upright."""
  real = [np.asarray(image) for image in load_sample_images().images]
  return [*real, real[0][:301, 100:199]]


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
@pytest.mark.parametrize('crop', [None, preprocessing.EVAL_CROP])
def test_resizes_as_evaluation_does(pictures, interpolation, crop):
  """Shrinking much, little, enlarging: a level apart in hardly any value."""
  for image in pictures:
    for size in (32, 224, 500):
      seen = tf.constant(image)
      if crop is not None:
        height, width = image.shape[:2]
        window = preprocessing.centre_crop_window(
          tf.constant(height), tf.constant(width)
        )
        seen = tf.image.crop_to_bounding_box(seen, *tf.unstack(window))
      want = preprocessing.to_pixels(
        preprocessing.resize(seen, size, interpolation)
      ).numpy()
      got = photos.fit(image, (size, size), interpolation, crop)
      difference = np.abs(got.astype(int) - want)
      assert difference.max() <= 1
      assert (difference > 0).mean() < 1e-3


def test_resizes_to_the_smallest_and_from_it():
  one = np.array([[[3, 200, 7]]], np.uint8)
  assert (photos.fit(one, (5, 4), 'bicubic') == one).all()
  assert photos.fit(one, (5, 4)).shape == (5, 4, 3)
  assert (photos.fit(one, (1, 1), crop=0.5) == one).all()


@pytest.mark.parametrize('orientation', range(1, 9))
def test_jpegs_are_turned_upright(orientation):
  stored = coloured(1)[0][:, :20]
  file = turned_jpeg(stored, orientation)
  np.testing.assert_array_equal(photos.read(file, 3), as_viewed(file))


def test_same_pixels_as_tensorflow_with_the_accurate_transform(pictures):
  """Of colour, of grey, and of the grey that a colour JPEG stores."""
  grey = encode(pictures[0][..., 1], quality=80)
  colour = encode(pictures[0], quality=80)
  for file in (grey, colour):
    for channels in (1, 3):
      want = tf.io.decode_jpeg(
        file, channels=channels, dct_method='INTEGER_ACCURATE'
      ).numpy()
      got = photos.read(file, channels).astype(int)
      assert np.abs(got - want).max() <= 1


def square(mode: str, colour) -> Image.Image:
  return Image.new(mode, (4, 3), colour)


def palette(transparent: bool) -> bytes:
  image = square('P', 1)
  image.putpalette([0, 0, 0, 10, 200, 30])
  options = {'transparency': 1} if transparent else {}
  return save(image, 'PNG', **options)


def animation() -> bytes:
  frames = [square('RGB', c) for c in ('red', 'blue')]
  return save(frames[0], 'GIF', save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
  ('file', 'colour', 'grey'),
  [
    (save(square('RGB', 'red'), 'PNG'), (255, 0, 0), 76),
    (save(square('RGBA', (0, 0, 0, 0)), 'PNG'), (255, 255, 255), 255),
    (save(square('RGBA', (0, 0, 255, 255)), 'PNG'), (0, 0, 255), 29),
    (save(square('RGBA', (0, 0, 0, 51)), 'WEBP', lossless=True), 204, 204),
    (save(square('LA', (9, 0)), 'PNG'), 255, 255),
    (save(square('L', 9), 'PNG', transparency=9), 255, 255),
    (palette(transparent=False), (10, 200, 30), 124),
    (palette(transparent=True), 255, 255),
    (save(square('CMYK', (0, 255, 255, 0)), 'TIFF'), (255, 0, 0), 76),
    (save(square('I;16', 200 * 256 + 7), 'PNG'), 200, 200),
    (save(square('I', 200 * 256 + 7), 'TIFF'), 200, 200),
    (save(square('1', 1), 'PNG'), 255, 255),
    (save(square('L', 77), 'BMP'), 77, 77),
    (animation(), (255, 0, 0), 76),
  ],
)
def test_every_kind_of_pixel(file, colour, grey):
  image = photos.read(file, 3)
  assert (image.shape, image.dtype) == ((3, 4, 3), np.uint8)
  assert (image == np.uint8(colour)).all()
  image = photos.read(file, 1)
  assert image.shape == (3, 4, 1)
  assert np.abs(image.astype(int) - grey).max() <= 1


def test_what_cannot_be_read_says_why(pictures):
  whole = encode(pictures[0])
  for file, reason in (
    (b'', 'not an image'),
    (b'some text', 'not an image'),
    (whole[: len(whole) // 2], 'truncated'),
    (save(square('F', 0.5), 'TIFF'), 'fractional pixels'),
  ):
    with pytest.raises(ValueError, match=reason):
      photos.read(file, 3)


def test_damaged_exif_is_no_reason():
  """Viewers show such a photo as it is stored."""
  stored = coloured(1)[0]
  file = encode(stored, quality=98, exif=b'Exif\0\0MM\0*\xff\xff\xff\xff')
  want = np.asarray(Image.open(io.BytesIO(encode(stored, quality=98))))
  np.testing.assert_array_equal(photos.read(file, 3), want)
