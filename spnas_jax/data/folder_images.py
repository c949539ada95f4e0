"""From the bytes of any picture to those that a data set stores.

What `image_decoding` decodes as a viewer shows it is stored as it is, so that a
JPEG is never compressed twice: JPEG (not CMYK) and PNG (opaque, upright).
Everything else is decoded by Pillow and stored as a PNG that looks the same:
transparency over white, turned as EXIF says, 16 bits as their upper 8, the
first frame of what moves. Imported only where a folder is prepared, because
TensorFlow takes seconds to import.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError

from spnas_jax.core import tensorflow_setup
from spnas_jax.data import image_decoding, pictures

tf = tensorflow_setup.load_tensorflow()

# By Pillow's format, the modes in which TensorFlow decodes it as Pillow does.
# MPO is a JPEG that carries more pictures behind it.
_STORED_AS_IT_IS = {
  'JPEG': ('L', 'RGB'),
  'MPO': ('L', 'RGB'),
  'PNG': ('1', 'L', 'P', 'RGB', 'I;16'),
}
_GREY = ('1', 'L', 'LA', 'La', 'I;16', 'I;16B', 'I;16L', 'I')
_EXIF_ORIENTATION = 0x0112


class Facts(NamedTuple):
  """What is known of a file that was looked at.

  Attributes:
    digest: SHA-256 of its bytes, hexadecimal.
    problem: why it cannot be read; '' for a picture.
    recognised: whether it begins like a picture, readable or not.
    converted: whether it is stored as a PNG made of it.
    height, width: pixels, as it is seen; 0 if it cannot be read.
    grey: whether its format has no colours.
  """

  digest: str
  problem: str
  recognised: bool
  converted: bool = False
  height: int = 0
  width: int = 0
  grey: bool = False


def look_at(data: bytes, shrink_to: int) -> Facts:
  """Decodes a file once, to know whether and how it can be stored.

  Args:
    data: the file.
    shrink_to: as of `stored`.
  """
  digest = hashlib.sha256(data).hexdigest()
  try:
    image = pictures.opened(data)
  except UnidentifiedImageError:
    return Facts(digest, _what_it_is(data), recognised=False)
  except Exception as error:  # Damaged files make Pillow raise anything.
    return Facts(digest, _reason(error), recognised=True)
  try:
    grey = image.mode in _GREY
    size = None if _needs_pillow(image, shrink_to) else _decoded_size(data)
    converted = size is None
    if size is None:
      width, height = _seen(image, grey, shrink_to).size
      size = height, width
  except Exception as error:  # As above.
    return Facts(digest, _reason(error), recognised=True)
  return Facts(digest, '', True, converted, *size, grey)


def stored(data: bytes, facts: Facts, shrink_to: int) -> bytes:
  """The bytes that a data set stores of a file.

  Args:
    data: the file.
    facts: what `look_at` said of it.
    shrink_to: pixels that the short side has at most; 0 is any number.
  """
  if not facts.converted:
    return data
  image = pictures.opened(data)
  file = io.BytesIO()
  _seen(image, facts.grey, shrink_to).save(file, 'PNG')
  return file.getvalue()


def _needs_pillow(image: Image.Image, shrink_to: int) -> bool:
  kind = str(image.format)
  if image.mode not in _STORED_AS_IT_IS.get(kind, ()):
    return True
  if shrink_to and min(image.size) > shrink_to:
    return True
  # A JPEG is turned where it is decoded.
  return kind == 'PNG' and (
    'transparency' in image.info
    or image.getexif().get(_EXIF_ORIENTATION, 1) != 1
  )


def _decoded_size(data: bytes) -> tuple[int, int] | None:
  """Height and width as `image_decoding` decodes it; None if it does not."""
  try:
    height, width, _ = _decode(data).shape
  except tf.errors.OpError:
    return None
  return int(height), int(width)


# A graph: many threads call it, and Python is not in their way.
@functools.partial(tf.function, input_signature=[tf.TensorSpec([], tf.string)])
def _decode(data: Any) -> Any:
  return image_decoding.decode(data, 3)


def _seen(image: Image.Image, grey: bool, shrink_to: int) -> Image.Image:
  """Decodes a picture as a viewer shows it, to mode 'L' or 'RGB'."""
  image = pictures.seen(image, 'L' if grey else 'RGB')
  short = min(image.size)
  if shrink_to and short > shrink_to:
    width, height = (round(side * shrink_to / short) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
  return image


def _what_it_is(data: bytes) -> str:
  """Why nothing is recognised in a file."""
  if not data:
    return 'it is empty'
  if data[4:8] == b'ftyp' and data[8:11] in (b'hei', b'hev', b'mif'):
    return 'HEIC, which has to be converted to JPEG or PNG'
  return 'no format of pictures that is known here'


def _reason(error: Exception) -> str:
  text = ' '.join(str(error).split()) or type(error).__name__
  return text.replace(os.linesep, ' ')[:120]
