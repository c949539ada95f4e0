"""Photos as an exported model gets them: what evaluation does, without
TensorFlow.

A file is shown the way viewers show it (first picture, turned upright, on
white) and resized by the rules of `data/preprocessing.py`: no smoothing where
an image shrinks, which is TensorFlow's default and not Pillow's. Both make the
same image, up to one level in one of some 10,000 values; Pillow's own resizing
was up to 168 levels away.
"""

from __future__ import annotations

import warnings

import numpy as np
from PIL import UnidentifiedImageError

from spnas_jax.data import pictures

_MODES = {1: 'L', 3: 'RGB'}  # By channels.
# Neighbours that have a part in a pixel, from the one before it on.
_REACH = {'bilinear': (0, 2), 'bicubic': (-1, 3)}
# Places between pixels that TensorFlow's bicubic resizing tells apart.
_BICUBIC_STEPS = 1024


def read(file: bytes, channels: int) -> np.ndarray:
  """A photo as a viewer shows it.

  Args:
    file: content of an image file of any format that Pillow knows; of several
      pictures the first. What is transparent is white, of 16 bits the upper 8
      are taken.
    channels: 1 (grey) or 3 (RGB).

  Returns:
    [height, width, channels] uint8.

  Raises:
    ValueError: it cannot be read; says why in a few words.
  """
  mode = _MODES[channels]
  try:
    with warnings.catch_warnings():
      # Of files that are odd but readable.
      warnings.simplefilter('ignore')
      image = pictures.opened(file)
      if channels == 1:
        # Of a JPEG the grey that it stores, as TensorFlow does.
        image.draft(mode, image.size)
      image = pictures.seen(image, mode)
  except UnidentifiedImageError as e:
    raise ValueError('not an image of a known format') from e
  # Decoders raise what they like about damaged files: OSError, SyntaxError,
  # struct.error, ...
  except Exception as e:
    reason = ' '.join(str(e).split()) or type(e).__name__
    raise ValueError(reason[:200]) from e
  return np.asarray(image).reshape(image.height, image.width, channels)


def fit(
  pixels: np.ndarray,
  size: tuple[int, int],
  interpolation: str = 'bilinear',
  crop: float | None = None,
) -> np.ndarray:
  """An image at the size of a model's input, as evaluation sees it.

  Args:
    pixels: [height, width, channels] uint8.
    size: height and width of the result.
    interpolation: 'bilinear' or 'bicubic'.
    crop: side of the central square that is taken, over the short side; None
      takes the whole image, whatever its shape.

  Returns:
    [*size, channels] uint8.
  """
  if crop is not None:
    height, width = pixels.shape[:2]
    # In float32, as preprocessing.centre_crop_window computes it.
    side = max(int(np.float32(crop) * np.float32(min(height, width))), 1)
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    pixels = pixels[top : top + side, left : left + side]
  rows, row_weights = _taps(pixels.shape[0], size[0], interpolation)
  columns, column_weights = _taps(pixels.shape[1], size[1], interpolation)
  resized = np.zeros((*size, pixels.shape[2]), np.float32)
  for row, row_weight in zip(rows, row_weights, strict=True):
    line = np.zeros_like(resized)
    for column, weight in zip(columns, column_weights, strict=True):
      line += pixels[np.ix_(row, column)] * weight[None, :, None]
    resized += line * row_weight[:, None, None]
  return np.rint(resized).clip(0, 255).astype(np.uint8)


def _taps(
  old: int, new: int, interpolation: str
) -> tuple[np.ndarray, np.ndarray]:
  """Where each pixel of a resized row comes from.

  Returns:
    Both [taps, new]: places in the old row, and weights (float32) that sum to
    1. Places outside have none.
  """
  half = np.float32(0.5)
  place = (np.arange(new, dtype=np.float32) + half) * np.float32(old / new)
  place -= half
  first = np.floor(place)
  part = place - first
  if interpolation == 'bicubic':
    part = np.rint(part * _BICUBIC_STEPS) / np.float32(_BICUBIC_STEPS)
  offsets = np.arange(*_REACH[interpolation], dtype=np.float32)[:, None]
  distance = np.abs(offsets - part)
  weights = 1 - distance
  if interpolation == 'bicubic':  # Keys' cubic with a = -1/2.
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance <= 1, near, far)
  places = (first + offsets).astype(np.int64)
  weights = weights * ((places >= 0) & (places < old))
  weights /= weights.sum(0)
  return places.clip(0, old - 1), weights.astype(np.float32)
