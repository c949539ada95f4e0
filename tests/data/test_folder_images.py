"""Any file that is a picture is stored so that it is decoded as it is seen."""

from __future__ import annotations

import io

import fake_photos
import numpy as np
import pytest
from PIL import Image

from spnas_jax.data import folder_images, image_decoding

PIXELS = fake_photos.coloured(1, side=16)[0][:, :12]
GREY = PIXELS[..., 0]


def stored(file, shrink_to=0):
  """Facts, and what is read of what is stored."""
  facts = folder_images.look_at(file, shrink_to)
  assert facts.problem == ''
  data = folder_images.stored(file, facts, shrink_to)
  channels = 1 if facts.grey else 3
  pixels = image_decoding.decode(data, channels).numpy()
  assert pixels.shape == (facts.height, facts.width, channels)
  assert (data == file) is not facts.converted
  return facts, pixels


def over_white(pixels, alpha):
  share = alpha[..., None] / 255
  return pixels * share + 255 * (1 - share)


ALPHA = np.linspace(0, 255, GREY.size).reshape(GREY.shape).astype(np.uint8)
RGBA = np.dstack([PIXELS, ALPHA])
BOOLEAN = Image.fromarray(GREY).convert('1')
PALETTE = Image.fromarray(PIXELS).convert('P', palette=Image.Palette.ADAPTIVE)
# 12 x 16 pixels of no more than 16 colours: none is lost.
PALETTE_PIXELS = np.asarray(PALETTE.convert('RGB'))


@pytest.mark.parametrize(
  ('file', 'expected', 'converted'),
  [
    (fake_photos.encode(PIXELS, 'PNG'), PIXELS, False),
    (fake_photos.encode(GREY, 'PNG'), GREY, False),
    (fake_photos.save(PALETTE, 'PNG'), PALETTE_PIXELS, False),
    (fake_photos.save(BOOLEAN, 'PNG'), BOOLEAN.convert('L'), False),
    (fake_photos.encode(PIXELS, 'BMP'), PIXELS, True),
    (fake_photos.save(PALETTE, 'BMP'), PALETTE_PIXELS, True),
    (fake_photos.save(PALETTE, 'GIF'), PALETTE_PIXELS, True),
    (fake_photos.encode(PIXELS, 'WEBP', lossless=True), PIXELS, True),
    (fake_photos.encode(PIXELS, 'TIFF'), PIXELS, True),
    (fake_photos.encode(GREY, 'TIFF'), GREY, True),
    (fake_photos.encode(PIXELS, 'PPM'), PIXELS, True),
    (fake_photos.encode(RGBA, 'PNG'), over_white(PIXELS, ALPHA), True),
    (
      fake_photos.encode(RGBA, 'WEBP', lossless=True, exact=True),
      over_white(PIXELS, ALPHA),
      True,
    ),
    (fake_photos.encode(RGBA, 'TIFF'), over_white(PIXELS, ALPHA), True),
    (
      fake_photos.encode(np.dstack([GREY, ALPHA]), 'PNG'),
      over_white(GREY[..., None], ALPHA)[..., 0],
      True,
    ),
  ],
)
def test_formats_and_modes(file, expected, converted):
  facts, pixels = stored(file)
  expected = np.asarray(expected, float)
  assert facts.grey is (expected.ndim == 2)
  assert facts.converted is converted
  # Blending rounds.
  np.testing.assert_allclose(
    pixels.reshape(expected.shape), expected, atol=1.01
  )


def test_a_transparent_colour_of_a_palette_is_white():
  image = Image.fromarray((GREY > 99).astype(np.uint8)).convert('P')
  image.putpalette([10, 20, 30, 200, 100, 50])
  facts, pixels = stored(fake_photos.save(image, 'PNG', transparency=1))
  assert facts.converted
  shown = np.where((GREY > 99)[..., None], [255] * 3, [10, 20, 30])
  np.testing.assert_array_equal(pixels, shown)


@pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
def test_of_16_bits_the_upper_8_are_kept(kind):
  deep = np.arange(192, dtype=np.uint16).reshape(16, 12) * 341
  facts, pixels = stored(fake_photos.encode(deep, kind))
  assert facts.grey
  np.testing.assert_array_equal(pixels[..., 0], deep >> 8)


@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_a_jpeg_is_never_compressed_again(mode):
  image = Image.fromarray(PIXELS).convert(mode)
  for options in ({}, {'progressive': True}, {'subsampling': 0}):
    facts, _ = stored(fake_photos.save(image, 'JPEG', **options))
    assert facts.converted is False
    assert facts.grey is (mode == 'L')


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
def test_pictures_are_turned_as_they_are_seen(kind, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  options = {'quality': 95, 'lossless': True} if kind == 'WEBP' else {}
  file = fake_photos.encode(PIXELS, kind, exif=exif, **options)
  facts, pixels = stored(file)
  assert facts.converted is (
    kind in ('WEBP', 'TIFF') or (kind == 'PNG' and orientation > 1)
  )
  seen = fake_photos.as_viewed(file).astype(int)
  assert pixels.shape == seen.shape
  assert pixels.shape[:2] == ((12, 16) if orientation > 4 else (16, 12))
  assert np.abs(pixels - seen).mean() < (3 if kind == 'JPEG' else 0.01)


def test_the_colours_of_printers_are_those_of_screens():
  image = Image.fromarray(PIXELS).convert('CMYK')
  file = fake_photos.save(image, 'JPEG', quality=98)
  facts, pixels = stored(file)
  assert facts.converted
  # A JPEG of 98 stays near; inverted colours are far away.
  assert np.abs(pixels - PIXELS.astype(int)).mean() < 12


@pytest.mark.parametrize('kind', ['GIF', 'PNG', 'WEBP', 'TIFF'])
def test_of_what_moves_the_first_frame_is_kept(kind):
  frames = [Image.new('RGB', (9, 7), c) for c in ('red', 'lime', 'blue')]
  file = fake_photos.save(
    frames[0], kind, save_all=True, append_images=frames[1:], lossless=True
  )
  assert Image.open(io.BytesIO(file)).n_frames == 3
  _, pixels = stored(file)
  np.testing.assert_array_equal(pixels, np.full((7, 9, 3), [255, 0, 0]))


@pytest.mark.parametrize(
  ('shape', 'expected'),
  [
    ((40, 20), (16, 8)),
    ((20, 50), (8, 20)),
    ((8, 99), (8, 99)),
    ((300, 9), (267, 8)),
  ],
)
def test_larger_ones_are_shrunk_if_that_is_asked_for(shape, expected):
  file = fake_photos.encode(np.full((*shape, 3), 77, np.uint8), quality=95)
  facts, pixels = stored(file, shrink_to=8)
  assert (facts.height, facts.width) == expected
  assert facts.converted is (expected != shape)
  assert np.abs(pixels.astype(int) - 77).max() <= 2
  assert stored(file)[0].converted is False


@pytest.mark.parametrize('shape', [(1, 1), (1, 3000), (3000, 1)])
def test_odd_shapes(shape):
  for kind in ('JPEG', 'PNG', 'BMP'):
    facts, _ = stored(fake_photos.encode(np.zeros((*shape, 3), 'u1'), kind))
    assert (facts.height, facts.width) == shape


@pytest.mark.parametrize(
  'kind', ['JPEG', 'PNG', 'BMP', 'GIF', 'WEBP', 'TIFF', 'PPM']
)
def test_what_is_cut_off_cannot_be_read(kind):
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  file = fake_photos.encode(noise, kind)
  facts = folder_images.look_at(file[: len(file) * 2 // 3], 0)
  assert facts.problem
  assert '\n' not in facts.problem
  assert facts.recognised


@pytest.mark.parametrize(
  ('data', 'words'),
  [
    (b'', 'it is empty'),
    (b'just a text', 'no format of pictures'),
    (b'\0\0\0\x18ftypheic' + bytes(50), 'HEIC, which has to be converted'),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'no format'),
  ],
)
def test_what_is_no_picture_is_not_taken_for_one(data, words):
  facts = folder_images.look_at(data, 0)
  assert words in facts.problem
  assert not facts.recognised


def test_numbers_without_a_known_range_are_refused():
  file = fake_photos.save(Image.fromarray(np.ones((4, 4), np.float32)), 'TIFF')
  assert 'range' in folder_images.look_at(file, 0).problem
  deep = Image.fromarray(np.full((4, 4), 1 << 20, np.int32))
  file = fake_photos.save(deep, 'TIFF')
  assert '16 bits' in folder_images.look_at(file, 0).problem


def test_real_photographs_are_stored_as_they_are():
  from sklearn.datasets import load_sample_images

  for photo in load_sample_images().images:
    facts, pixels = stored(fake_photos.encode(photo[::4, ::4], quality=95))
    assert (facts.converted, facts.grey) == (False, False)
    assert np.abs(pixels - photo[::4, ::4].astype(int)).mean() < 6
