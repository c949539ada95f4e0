"""From the bytes of an image file to pixels the way up that viewers show them.

Pure TensorFlow functions, the same called eagerly and inside `tf.data`. What a
file holds decides how it is decoded, whatever its data set says it is. Imported
only where records are read, because TensorFlow takes seconds to import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from spnas_jax.core import tensorflow_setup

tf = tensorflow_setup.load_tensorflow()

Tensor = Any

# What other decoders, those of apps above all, use. TensorFlow's default, a
# faster transform, gives pixels that differ by up to 20 levels.
_DCT = 'INTEGER_ACCURATE'
# A JPEG is a row of segments: two bytes of marker, two of length (which counts
# itself), content. EXIF is one of those before the image, and begins so:
_EXIF = b'Exif\0\0'
_HEADER = 4 + len(_EXIF)
# The tag of EXIF that says how the camera was held.
_ORIENTATION = 0x0112
# How most JPEGs without EXIF begin: JFIF's segment, then tables of the image.
_JFIF = b'\xff\xd8\xff\xe0\0\x10' + bytes(14) + b'\xff\xdb'
_JFIF_MASK = bytes([255] * 6 + [0] * 14 + [255] * 2)

# What an EXIF orientation, the index, does to the stored image: reverse its
# rows, reverse its columns, then exchange both.
_REVERSES_ROWS = np.isin(np.arange(9), (3, 4, 6, 7))
_REVERSES_COLUMNS = np.isin(np.arange(9), (2, 3, 7, 8))
_EXCHANGES = np.arange(9) >= 5
_AXES = np.where(_EXCHANGES[:, None], [[1, 0]], [[0, 1]]).astype(np.int32)


def decode(encoded: Tensor, channels: int) -> Tensor:
  """Decodes an image of any common format to [h, w, channels] uint8.

  JPEG, PNG, GIF (its first frame) and BMP. A JPEG is turned the way its EXIF
  orientation says.

  Args:
    encoded: [] string, the bytes of a file.
    channels: 1 or 3.

  Raises:
    tf.errors.InvalidArgumentError: it is none of these, or damaged.
  """

  def of_jpeg() -> Tensor:
    image = tf.io.decode_jpeg(encoded, channels=channels, dct_method=_DCT)
    return tf.cond(
      _is_upright(encoded),
      lambda: image,
      _called(lambda: _turned(image, orientation(encoded))),
    )

  def of_another() -> Tensor:
    return tf.io.decode_image(
      encoded, channels=channels, expand_animations=False
    )

  image = tf.cond(tf.io.is_jpeg(encoded), of_jpeg, _called(of_another))
  return tf.ensure_shape(image, [None, None, channels])


def decode_window(
  encoded: Tensor,
  channels: int,
  choose: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
  """Decodes the part of an image that a window chosen by its size shows.

  A JPEG's size is read from its header, and what lies outside the window is
  never decoded.

  Args:
    encoded: [] string, the bytes of a file.
    channels: 1 or 3.
    choose: maps height and width, as the image is seen, to a window [4]: top,
      left, height, width.

  Returns:
    [window height, window width, channels] uint8.

  Raises:
    tf.errors.InvalidArgumentError: as of `decode`.
  """

  def of_upright() -> Tensor:
    shape = tf.io.extract_jpeg_shape(encoded)
    window = choose(shape[0], shape[1])
    return tf.image.decode_and_crop_jpeg(
      encoded, window, channels=channels, dct_method=_DCT
    )

  def of_jpeg() -> Tensor:
    stored = tf.io.extract_jpeg_shape(encoded)[:2]
    turn = orientation(encoded)
    seen = tf.gather(stored, tf.gather(_AXES, turn))
    window = tf.linalg.matvec(
      tf.gather(_STORED_WINDOW, turn),
      tf.concat([choose(seen[0], seen[1]), stored], 0),
    )
    image = tf.image.decode_and_crop_jpeg(
      encoded, window, channels=channels, dct_method=_DCT
    )
    return _turned(image, turn)

  def of_another() -> Tensor:
    image = decode(encoded, channels)
    shape = tf.shape(image)
    return tf.image.crop_to_bounding_box(
      image, *tf.unstack(choose(shape[0], shape[1]))
    )

  def of_any() -> Tensor:
    return tf.cond(tf.io.is_jpeg(encoded), of_jpeg, of_another)

  image = tf.cond(_is_upright(encoded), of_upright, _called(of_any))
  return tf.ensure_shape(image, [None, None, channels])


def orientation(encoded: Tensor) -> Tensor:
  """EXIF orientation of a JPEG, [] int32: 1 (as it is stored) to 8.

  1 for every other format, and where there is no EXIF or none that makes sense.

  Args:
    encoded: [] string, the bytes of a file.
  """
  return tf.cond(
    tf.io.is_jpeg(encoded),
    lambda: _jpeg_orientation(encoded),
    lambda: tf.constant(1),
  )


def _is_upright(encoded: Tensor) -> Tensor:
  """Whether a file is a JPEG that begins in the usual way without EXIF."""
  size = len(_JFIF)
  start = tf.io.decode_raw(
    tf.strings.substr(encoded, 0, size), tf.uint8, fixed_length=size
  )
  mask, jfif = (np.frombuffer(b, np.uint8) for b in (_JFIF_MASK, _JFIF))
  return tf.reduce_all(tf.equal(tf.bitwise.bitwise_and(start, mask), jfif))


def _jpeg_orientation(encoded: Tensor) -> Tensor:
  """`orientation` of a JPEG: goes from segment to segment."""
  length = tf.strings.length(encoded)

  def part(at: Tensor, size: Any) -> Tensor:
    """As many bytes from a position on as the file has, [] string."""
    return tf.strings.substr(encoded, tf.minimum(at, length), size)

  def header(at: Tensor) -> Tensor:
    """[_HEADER] uint8 from a position on; zeros where the file has ended."""
    return tf.io.decode_raw(part(at, _HEADER), tf.uint8, fixed_length=_HEADER)

  def is_exif(header: Tensor) -> Tensor:
    return tf.equal(header[1], 0xE1) & tf.reduce_all(
      tf.equal(header[4:], [*_EXIF])
    )

  def goes_on(at: Tensor, header: Tensor) -> Tensor:
    # Other application segments and comments may come first. Any other marker
    # says that the image's own begin.
    kind = header[1]
    skipped = ((kind >= 0xE0) & (kind <= 0xEF)) | tf.equal(kind, 0xFE)
    return tf.equal(header[0], 0xFF) & skipped & ~is_exif(header)

  def next_segment(at: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
    at += 2 + _number(old[2:4], 2, big=True)
    return at, header(at)

  first = tf.constant(2)
  at, found = tf.while_loop(goes_on, next_segment, (first, header(first)))
  size = _number(found[2:4], 2, big=True) + 2 - _HEADER
  return tf.cond(
    is_exif(found),
    lambda: _exif_orientation(part(at + _HEADER, tf.maximum(size, 0))),
    lambda: tf.constant(1),
  )


def _exif_orientation(exif: Tensor) -> Tensor:
  """Looks the orientation up in EXIF's first directory.

  Args:
    exif: [] string: byte order ('II' or 'MM', twice a letter), 42, where the
      directory begins (4 bytes); there its number of entries (2), and 12 bytes
      each: tag (2), type (2), count (4), value (4).
  """
  # Zeros after the end stand in for what damaged lengths and places promise.
  data = tf.pad(tf.io.decode_raw(exif, tf.uint8), [[0, 12]])
  size = tf.size(data)
  big = tf.equal(data[0], ord('M'))
  begin = tf.clip_by_value(_number(data[4:8], 4, big), 0, size - 2)
  count = tf.minimum(
    _number(data[begin : begin + 2], 2, big), (size - begin - 2) // 12
  )
  entries = tf.reshape(data[begin + 2 : begin + 2 + 12 * count], [-1, 12])
  tags = _number(entries[:, :2], 2, big)
  values = _number(entries[:, 8:10], 2, big)
  value = tf.reduce_max(tf.where(tf.equal(tags, _ORIENTATION), values, 0))
  return tf.where((value >= 1) & (value <= 8), value, 1)


def _number(data: Tensor, n: int, big: Any) -> Tensor:
  """Unsigned integers of n (2 or 4) bytes, [..., n] uint8, as [...] int32.

  Those of 4 bytes that do not fit come out as some other number.
  """
  places = np.array([1 << 8 * i for i in range(n)], np.int64)
  places = tf.where(big, places[::-1], places)
  return tf.cast(tf.reduce_sum(tf.cast(data, tf.int64) * places, -1), tf.int32)


def _turned(image: Tensor, turn: Tensor) -> Tensor:
  """Turns and mirrors a stored image [h, w, channels] to how it is seen."""
  dims = [tf.gather(t, turn) for t in (_REVERSES_ROWS, _REVERSES_COLUMNS)]
  image = tf.raw_ops.Reverse(tensor=image, dims=tf.stack([*dims, False]))
  return tf.transpose(image, tf.concat([tf.gather(_AXES, turn), [2]], 0))


def _stored_windows() -> np.ndarray:
  """[9, 4, 6] int32: by orientation, from a window of the image as it is seen,
  and the stored image's height and width, to the same window of the latter."""
  maps = []
  for rows, columns, exchanged in zip(
    _REVERSES_ROWS, _REVERSES_COLUMNS, _EXCHANGES, strict=True
  ):
    top, left, height, width, whole_height, whole_width = np.eye(
      6, dtype=np.int32
    )
    if exchanged:
      top, left, height, width = left, top, width, height
    if rows:
      top = whole_height - top - height
    if columns:
      left = whole_width - left - width
    maps.append([top, left, height, width])
  return np.array(maps)


_STORED_WINDOW = _stored_windows()


def _called(branch: Callable[[], Tensor]) -> Callable[[], Tensor]:
  """Makes a branch that is seldom taken one operation of the graph.

  TensorFlow puts both branches' operations side by side and visits those not
  taken, too: a hundred of them took longer than decoding a small image.
  """
  return tf.function(branch, experimental_attributes={'_noinline': True})
