"""Writes the bytes of image files as a tfds data set, as people's own are."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from spnas_jax.core import tensorflow_setup

LABELS = ('cat', 'dog')


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
  """An image file of [h, w, channels] or [h, w] uint8; see `save`."""
  return save(Image.fromarray(pixels), kind, **options)


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
  """The bytes of a file of Pillow's format `kind`, with Pillow's options."""
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def turned_jpeg(stored: np.ndarray, orientation: int, **options: Any) -> bytes:
  """A JPEG of [h, w, 3] uint8 with an EXIF orientation, 1 to 8."""
  exif = Image.Exif()
  exif[0x0112] = orientation
  return encode(stored, exif=exif, quality=98, **options)


def as_viewed(file: bytes) -> np.ndarray:
  """[h, w, 3] uint8, as a viewer shows it that honours EXIF: Pillow's way."""
  image = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
  return np.asarray(image.convert('RGB'))


def coloured(count: int, side: int = 32, seed: int = 0) -> list[np.ndarray]:
  """Different images, [side, side, 3] uint8: coarse, so JPEG keeps them."""
  random = np.random.default_rng(seed)
  cells = random.integers(0, 256, (count, 4, 4, 3), np.uint8)
  return [
    np.kron(c, np.ones((side // 4, side // 4, 1), np.uint8)) for c in cells
  ]
