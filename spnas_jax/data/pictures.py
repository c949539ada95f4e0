"""Any picture as a viewer shows it, by Pillow and without TensorFlow."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageOps

# Formats that are pictures, without those that Pillow calls other programs for.
_FORMATS = (
  'AVIF',
  'BMP',
  'GIF',
  'JPEG',
  'JPEG2000',
  'PNG',
  'PPM',
  'TIFF',
  'WEBP',
)


def opened(data: bytes) -> Image.Image:
  """The picture that a file's bytes are; its pixels are not decoded yet.

  Raises:
    PIL.UnidentifiedImageError: it is none of a known format. Damaged files make
      Pillow raise anything.
  """
  return Image.open(io.BytesIO(data), formats=_formats())


@functools.cache
def _formats() -> tuple[str, ...]:
  """Those that this Pillow was built with."""
  Image.init()
  return tuple(name for name in _FORMATS if name in Image.OPEN)


def seen(image: Image.Image, mode: str) -> Image.Image:
  """Decodes a picture: turned as EXIF says, on white, 16 bits as the upper 8,
  the first frame of what moves.

  Args:
    image: as `opened` gives it.
    mode: 'L' or 'RGB', of the result.

  Raises:
    ValueError: its range of values is not known. Damaged files make Pillow
      raise anything.
  """
  image = ImageOps.exif_transpose(image)
  if image.mode.startswith('I'):
    image = _eight_bits(image)
  elif image.mode == 'F':
    raise ValueError('the range of its fractional pixels is not known')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  return image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
  """The upper 8 of 16 bits, as TensorFlow reads a PNG."""
  pixels = np.asarray(image)
  if pixels.min() < 0 or pixels.max() >= 1 << 16:
    raise ValueError('it has more than 16 bits a pixel')
  return Image.fromarray((pixels.astype(np.int64) >> 8).astype(np.uint8))
