"""Writes the bytes of image files as a tfds data set, as people's own are."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from PIL import Image

from spnas_jax.core import tensorflow_setup

LABELS = ('cat', 'dog')

# The 8 EXIF orientations as what a viewer does with the stored pixels.
TURNS = {
  1: lambda p: p,
  2: np.fliplr,
  3: lambda p: np.rot90(p, 2),
  4: np.flipud,
  5: lambda p: p.swapaxes(0, 1),
  6: lambda p: np.rot90(p, -1),
  7: lambda p: np.rot90(p.swapaxes(0, 1), 2),
  8: np.rot90,
}


def write(
  data_dir: Any,
  splits: dict[str, list[bytes]],
  *,
  name: str = 'photos',
  encoding_format: str | None = 'jpeg',
) -> None:
  """Stores files under `data_dir`/NAME/1.0.0; file i is 'SPLIT_i', class i % 2.

  Args:
    data_dir: folder of data sets.
    splits: the files of every split, as they are: nothing decodes them.
    name: of the data set.
    encoding_format: what its features declare, true or not.
  """
  tfds = tensorflow_setup.load_tfds()
  # tfds prints its progress.
  with contextlib.redirect_stdout(io.StringIO()):
    tfds.dataset_builders.store_as_tfds_dataset(
      name,
      '1.0.0',
      data_dir=str(data_dir),
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(encoding_format=encoding_format),
          'label': tfds.features.ClassLabel(names=LABELS),
          'file_name': tfds.features.Text(),
        }
      ),
      split_datasets={
        split: [
          (
            i,
            {
              'image': io.BytesIO(file),
              'label': LABELS[i % 2],
              'file_name': f'{split}_{i}',
            },
          )
          for i, file in enumerate(files)
        ]
        for split, files in splits.items()
      },
    )


def encode(pixels: np.ndarray, kind: str = 'JPEG', **options: Any) -> bytes:
  """An image file of [h, w, 3] or [h, w] uint8; options are Pillow's."""
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, kind, **options)
  return file.getvalue()


def turned_jpeg(seen: np.ndarray, orientation: int, **options: Any) -> bytes:
  """A JPEG that a viewer who honours EXIF shows as `seen`, [h, w, 3] uint8."""
  inverse = {6: 8, 8: 6}.get(orientation, orientation)
  exif = Image.Exif()
  exif[0x0112] = orientation
  stored = np.ascontiguousarray(TURNS[inverse](seen))
  return encode(stored, exif=exif, quality=98, **options)


def coloured(count: int, side: int = 32, seed: int = 0) -> list[np.ndarray]:
  """Different images, [side, side, 3] uint8: coarse, so JPEG keeps them."""
  random = np.random.default_rng(seed)
  cells = random.integers(0, 256, (count, 4, 4, 3), np.uint8)
  return [
    np.kron(c, np.ones((side // 4, side // 4, 1), np.uint8)) for c in cells
  ]
