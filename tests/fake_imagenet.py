"""Writes made-up JPEGs as tfds stores ImageNet, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from spnas_jax.core import tensorflow_setup

tfds = tensorflow_setup.load_tfds()

NUM_CLASSES = 1000


class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """The name and the features of tfds' imagenet2012."""

  VERSION = tfds.core.Version('5.1.0')

  # tfds would look for a file of checksums beside this module.
  url_infos = None

  def __init__(self, *, splits: dict[str, list[bytes]], **kwargs: Any):
    self._splits = splits
    super().__init__(**kwargs)

  def _info(self) -> Any:
    return tfds.core.DatasetInfo(
      builder=self,
      description='Made-up images.',
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(encoding_format='jpeg'),
          'label': tfds.features.ClassLabel(num_classes=NUM_CLASSES),
          'file_name': tfds.features.Text(),
        }
      ),
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    return {
      name: self._generate_examples(name, images)
      for name, images in self._splits.items()
    }

  def _generate_examples(
    self, split: str, images: list[bytes]
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    for index, image in enumerate(images):
      name = f'{split}_{index:08d}.JPEG'
      yield (
        name,
        {
          'image': io.BytesIO(image),
          # Labels are the numbers of the images, so that they identify them.
          'label': index % NUM_CLASSES,
          'file_name': name,
        },
      )


def write(data_dir: Any, splits: dict[str, list[bytes]]) -> None:
  """Writes splits of JPEGs to `data_dir`/imagenet2012/5.1.0."""
  builder = Imagenet2012(data_dir=str(data_dir), splits=splits)
  # tfds prints its progress.
  with contextlib.redirect_stdout(io.StringIO()):
    builder.download_and_prepare(download_dir=f'{data_dir}/downloads')


def random_jpeg(
  random: np.random.Generator, height: int, width: int, quality: int = 90
) -> bytes:
  """A colour JPEG with coarse shapes and fine grain, as photographs have.

  Args:
    random: what it is drawn from.
    height: pixels.
    width: pixels.
    quality: of the JPEG, up to 100.
  """
  pixels = np.zeros((height, width, 3))
  for cells, contrast in ((4, 100), (24, 50), (96, 25)):
    grid = random.normal(0, contrast, (cells, cells, 3))
    rows = np.arange(height) * cells // height
    columns = np.arange(width) * cells // width
    pixels += grid[rows][:, columns]
  pixels += random.normal(128, 6, pixels.shape)
  file = io.BytesIO()
  Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
    file, 'JPEG', quality=quality
  )
  return file.getvalue()
