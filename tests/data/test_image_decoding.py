"""Decoding: by what a file holds, and the way up that a viewer shows it."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from spnas_jax.data import datasets, input_pipeline
from tests import fake_photos

# Nothing is the same when it is turned or mirrored; 8 px cells survive JPEG.
CELLS = np.random.default_rng(0).integers(0, 256, (5, 3, 3), np.uint8)
STORED = np.kron(CELLS, np.ones((8, 8, 1), np.uint8))
WINDOW = (8, 4, 12, 20)


@pytest.fixture(scope='module')
def decoding():
  from spnas_jax.data import image_decoding

  return image_decoding


def difference(one, other):
  """Mean absolute difference, levels of 255.

  Decoders round JPEGs differently, up to 14 levels at the edges of colours and
  2 on average; turned or mirrored the wrong way the average is above 50.
  """
  assert one.shape == other.shape
  return np.abs(np.int32(one) - np.int32(other)).mean()


def exif_segment(tiff: bytes, *, marker=b'\xff\xe1', head=b'Exif\0\0') -> bytes:
  content = head + tiff
  return marker + struct.pack('>H', len(content) + 2) + content


def tiff(value, order='<', tag=0x0112, begin=8, others=2) -> bytes:
  """EXIF by hand: some other entries, then the one with the orientation."""
  mark = {'<': b'II', '>': b'MM'}[order]
  entries = [
    *[(0x010F + i, 2, 1, 0) for i in range(others)],
    (tag, 3, 1, value),
  ]
  return (
    mark
    + struct.pack(order + 'HI', 42, begin)
    + b'\0' * (begin - 8)
    + struct.pack(order + 'H', len(entries))
    + b''.join(struct.pack(order + 'HHIHxx', *entry) for entry in entries)
  )


def with_segments(*segments: bytes) -> bytes:
  """A JPEG with these segments between its start and JFIF's."""
  plain = fake_photos.encode(STORED, quality=98, subsampling=0)
  return plain[:2] + b''.join(segments) + plain[2:]


# EXIF.


@pytest.mark.parametrize('orientation', range(1, 9))
def test_an_image_is_turned_as_a_viewer_turns_it(decoding, orientation):
  """All eight orientations, whole and by a window of what is seen."""
  file = fake_photos.turned_jpeg(STORED, orientation)
  seen = fake_photos.as_viewed(file)
  assert difference(decoding.decode(file, 3).numpy(), seen) < 4

  top, left, height, width = WINDOW
  sizes = []

  def choose(*size):
    sizes.append(tuple(int(side) for side in size))
    return decoding.tf.constant(WINDOW)

  decoding.tf.config.run_functions_eagerly(True)
  try:
    window = decoding.decode_window(file, 3, choose).numpy()
  finally:
    decoding.tf.config.run_functions_eagerly(False)
  assert set(sizes) == {seen.shape[:2]}, 'windows are of what is seen'
  part = seen[top : top + height, left : left + width]
  assert difference(window, part) < 4


@pytest.mark.parametrize('route', ['cached', 'records', 'window'])
def test_every_route_honours_it(tmp_path, route):
  """One picture stored in all eight ways: every image that comes out is it."""
  first = fake_photos.turned_jpeg(STORED, 1)
  upright = fake_photos.as_viewed(first)
  undo = (
    lambda p: p,
    np.fliplr,
    lambda p: np.rot90(p, 2),
    np.flipud,
    lambda p: p.swapaxes(0, 1),
    np.rot90,
    lambda p: np.rot90(p.swapaxes(0, 1), 2),
    lambda p: np.rot90(p, -1),
  )
  files = [
    fake_photos.turned_jpeg(np.ascontiguousarray(turn(STORED)), i + 1)
    for i, turn in enumerate(undo)
  ]
  for file in files:
    assert difference(fake_photos.as_viewed(file), upright) < 4
  fake_photos.write(tmp_path, {'train': files, 'test': files})
  config = datasets.default_config()
  config.update(name='photos', data_dir=str(tmp_path), image_size=16)
  config.update(mean=(0.5,), std=(0.5,))
  config.cache = route == 'cached'
  config.augment = 'inception' if route == 'window' else 'none'
  images, _ = input_pipeline.test_images(config, 8)
  for image in images[1:]:
    assert difference(image, images[0]) < 6
  assert difference(images[0], images[0][::-1]) > 20, 'a wrong turn would show'


@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize('begin', [8, 20])
def test_both_byte_orders_and_any_place_of_the_directory(
  decoding, order, begin
):
  file = with_segments(exif_segment(tiff(6, order, begin=begin)))
  assert int(decoding.orientation(file)) == 6
  assert difference(decoding.decode(file, 3).numpy(), np.rot90(STORED, -1)) < 6


def test_other_segments_may_come_first(decoding):
  """A colour profile as large as a segment can be, a comment, XMP, EXIF."""
  file = with_segments(
    exif_segment(b'x' * 65_000, marker=b'\xff\xe2', head=b'ICC_PROFILE\0'),
    exif_segment(b'Exif\0\0 in a comment', marker=b'\xff\xfe', head=b''),
    exif_segment(b'<x/>', head=b'http://ns.adobe.com/xap/1.0/\0'),
    exif_segment(tiff(3)),
  )
  assert int(decoding.orientation(file)) == 3


@pytest.mark.parametrize(
  'segment',
  [
    exif_segment(tiff(0)),
    exif_segment(tiff(9)),
    exif_segment(tiff(6, tag=0x0113)),
    exif_segment(tiff(6)[:20]),
    exif_segment(tiff(6)[:5]),
    exif_segment(b''),
    exif_segment(b'II*\0\xff\xff\xff\xff' + bytes(40)),
    exif_segment(b'II*\0\x08\0\0\0\xff\xff' + bytes(40)),
    exif_segment(tiff(6), head=b'Exis\0\0'),
    b'',
  ],
  ids=range(10),
)
def test_what_makes_no_sense_leaves_the_image_as_it_is(decoding, segment):
  file = with_segments(segment)
  assert int(decoding.orientation(file)) == 1
  assert difference(decoding.decode(file, 3).numpy(), STORED) < 6


def test_a_file_cut_anywhere_has_an_orientation_or_is_unreadable(decoding):
  """The search ends: lengths that point past the end are no endless loop."""
  file = fake_photos.turned_jpeg(STORED, 6)
  orientation = decoding.tf.function(
    decoding.orientation, input_signature=[decoding.tf.TensorSpec([], 'string')]
  )
  found = {int(orientation(file[:size])) for size in range(0, 120)}
  assert found == {1, 6}


# Formats.


def formats():
  """Kind of file -> its bytes; all show STORED, the grey ones its grey."""
  from PIL import Image

  image = Image.fromarray(STORED)

  def encoded(converted, kind):
    return fake_photos.encode(np.asarray(converted), kind)

  palette = fake_photos.save(image.quantize(256), 'PNG')
  return {
    'png': fake_photos.encode(STORED, 'PNG'),
    'png_alpha': encoded(image.convert('RGBA'), 'PNG'),
    'png_palette': palette,
    'bmp': fake_photos.encode(STORED, 'BMP'),
    'gif': fake_photos.save(image.quantize(256), 'GIF'),
    'jpeg': fake_photos.encode(STORED, quality=98),
    'jpeg_progressive': fake_photos.encode(
      STORED, quality=98, progressive=True
    ),
    'jpeg_cmyk': fake_photos.save(image.convert('CMYK'), 'JPEG', quality=98),
  }


@pytest.mark.parametrize('route', ['cached', 'records', 'window'])
def test_content_decides_how_a_file_is_decoded(tmp_path, route):
  """All kinds of files in a data set that says that they are JPEGs."""
  files = list(formats().values())
  fake_photos.write(tmp_path, {'train': files, 'test': files})
  config = datasets.default_config()
  config.update(name='photos', data_dir=str(tmp_path), image_size=16)
  config.update(mean=(0.5,), std=(0.5,))
  config.cache = route == 'cached'
  config.augment = 'inception' if route == 'window' else 'none'
  images, _ = input_pipeline.test_images(config, len(files))
  assert len(images) == len(files)
  for image in images[1:]:
    assert difference(image, images[0]) < 8
