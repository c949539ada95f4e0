"""tfds builders of the two data sets that need no download.

Imported by `datasets.py` only when one of them has to be written to disk.
"""

from __future__ import annotations

import gzip
import math
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from etils import epath

from spnas_jax.core import tensorflow_setup
from spnas_jax.core.errors import UserError
from spnas_jax.core.remote import as_path, reaching

tfds = tensorflow_setup.load_tfds()
_TfdsBuilder: Any = tfds.core.GeneratorBasedBuilder

# Every fifth image of the digits, counted class by class, is a test image.
DIGITS_TEST_STRIDE = 5

_GZIP_MAGIC = b'\x1f\x8b'
_IDX_UINT8 = 8


def digits_test_mask(labels: np.ndarray) -> np.ndarray:
  """Marks the test images of the digits data set.

  The images are put in order of class, within a class in the order they come
  in, and every fifth is taken. That needs no random numbers, gives 360 of
  1,797 images and leaves each class within one image of a fifth of itself.

  Args:
    labels: [n] integer.

  Returns:
    [n] bool.
  """
  mask = np.zeros(len(labels), bool)
  mask[np.argsort(labels, kind='stable')[::DIGITS_TEST_STRIDE]] = True
  return mask


def read_idx(path: pathlib.Path | epath.Path) -> np.ndarray:
  """Reads an IDX file of unsigned bytes, gzipped or plain.

  Args:
    path: file to read; what it holds decides whether it is unzipped.

  Returns:
    uint8 array of the shape the file's header names.

  Raises:
    UserError: if the file cannot be read or is not such a file.
  """
  try:
    data = path.read_bytes()
    if data.startswith(_GZIP_MAGIC):
      data = gzip.decompress(data)
  except (OSError, EOFError, zlib.error) as error:
    raise UserError(f'{path} cannot be read: {error}') from error
  if len(data) < 4 or data[:2] != b'\0\0' or data[2] != _IDX_UINT8:
    raise UserError(f'{path} is not an IDX file of unsigned bytes.')
  header = 4 + 4 * data[3]
  shape = tuple(
    int.from_bytes(data[i : i + 4], 'big') for i in range(4, header, 4)
  )
  if len(data) - header != math.prod(shape):
    raise UserError(
      f'{path} is damaged: its header promises {math.prod(shape)} values of '
      f'shape {shape}, it holds {max(len(data) - header, 0)}.'
    )
  return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


class _LocalBuilder(_TfdsBuilder):
  """A builder whose images are on this machine already.

  Subclasses are kept out of tfds' registry, which has a downloading
  `fashion_mnist` of its own, and are used directly.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: ClassVar = {'1.0.0': 'First version.'}
  SIDE: int  # Height and width of the images, in pixels.

  # tfds would look for a file of checksums beside this module.
  url_infos = None

  def __init_subclass__(cls, **kwargs: Any):
    super().__init_subclass__(skip_registration=True, **kwargs)

  def __init__(
    self, *, raw_dir: str, label_names: tuple[str, ...], **kwargs: Any
  ):
    """Makes a builder; tfds' own arguments are passed on.

    Args:
      raw_dir: folder of the files to read, if there are any.
      label_names: a name per label.
      **kwargs: `data_dir` and what else tfds takes.
    """
    self._raw_dir = as_path('dataset.raw_dir', raw_dir)
    self._label_names = label_names
    super().__init__(**kwargs)

  def _info(self) -> Any:
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(self.SIDE, self.SIDE, 1)),
          'label': tfds.features.ClassLabel(names=self._label_names),
        }
      ),
      supervised_keys=('image', 'label'),
    )

  def _generate_examples(
    self, images: np.ndarray, labels: np.ndarray
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (key, example); images [n, h, w] uint8, labels [n] integer."""
    for key, (image, label) in enumerate(zip(images, labels, strict=True)):
      yield key, {'image': image[..., None], 'label': int(label)}


class Digits(_LocalBuilder):
  """scikit-learn's handwritten digits, 0..16 scaled to 0..255."""

  SIDE = 8

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    from sklearn import datasets as sklearn_datasets

    digits = sklearn_datasets.load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target
    test = digits_test_mask(labels)
    return {
      'train': self._generate_examples(images[~test], labels[~test]),
      'test': self._generate_examples(images[test], labels[test]),
    }


class FashionMnist(_LocalBuilder):
  """Fashion-MNIST, ten kinds of clothing, from its authors' IDX files."""

  SIDE = 28

  # Split, how its files are called, and its number of images.
  SPLITS = (('train', 'train', 60_000), ('test', 't10k', 10_000))

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    return {
      split: self._generate_examples(*self._read(prefix, count))
      for split, prefix, count in self.SPLITS
    }

  def _read(self, prefix: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    with reaching('dataset.raw_dir', self._raw_dir):
      images = read_idx(self._find(f'{prefix}-images-idx3-ubyte'))
      labels = read_idx(self._find(f'{prefix}-labels-idx1-ubyte'))
    expected = (count, self.SIDE, self.SIDE)
    if images.shape != expected or labels.shape != (count,):
      raise UserError(
        f'dataset.raw_dir is {str(self._raw_dir)!r}: the {prefix} files hold '
        f'images {images.shape} and labels {labels.shape}; Fashion-MNIST '
        f'has {expected} and {(count,)}.'
      )
    if labels.max() >= len(self._label_names):
      raise UserError(
        f'dataset.raw_dir is {str(self._raw_dir)!r}: the {prefix} labels reach '
        f'{labels.max()}; allowed: up to {len(self._label_names) - 1}.'
      )
    return images, labels

  def _find(self, name: str) -> epath.Path:
    for path in (self._raw_dir / name, self._raw_dir / f'{name}.gz'):
      if path.exists():
        return path
    raise UserError(
      f'dataset.raw_dir: no {name} or {name}.gz in {str(self._raw_dir)!r}; '
      'install the Debian package dataset-fashion-mnist (apt install '
      'dataset-fashion-mnist) or set dataset.raw_dir to a folder with the '
      'four Fashion-MNIST IDX files.'
    )


BUILDERS = {'digits': Digits, 'fashion_mnist': FashionMnist}
