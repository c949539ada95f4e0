"""Facts about data sets: what one is described by, and those known by name."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from spnas_jax.core.errors import UserError

SPLITS = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """Facts about a data set as configured: no pixels are read for them.

  Attributes:
    name: the tfds name.
    num_train: images to train on, after `holdout` and `train_examples`.
    num_validation: images held out of training, 0 if there are none.
    num_test: images to score, after `test_examples`.
    num_classes: number of labels.
    channels: 1 (grey) or 3 (colour).
    label_names: a name per label; empty if they are not known here.
    mean, std: of the training pixels, fractions of 255, one number or one for
      each channel; empty if they are not known here.
  """

  name: str
  num_train: int
  num_validation: int
  num_test: int
  num_classes: int
  channels: int
  label_names: tuple[str, ...] = ()
  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()

  def num_examples(self, split: str) -> int:
    """Number of images of 'train', 'validation' or 'test'.

    Raises:
      UserError: if the split is none of these, or has no images.
    """
    if split not in SPLITS:
      raise UserError(f'split is {split!r}, allowed: {", ".join(SPLITS)}.')
    count = int(getattr(self, f'num_{split}'))
    if not count:
      raise UserError(
        f'dataset.name is {self.name!r}: no {split} images; set '
        'dataset.holdout > 0 to hold some out of training.'
        if split == 'validation'
        else f'dataset.name is {self.name!r}: no {split} images.'
      )
    return count

  def steps_per_epoch(self, batch_size: int, split: str = 'train') -> int:
    """Full batches in one pass over a split; the remainder is dropped.

    Args:
      batch_size: images per step over all processes and devices.
      split: 'train' or 'validation'.

    Raises:
      UserError: if the split does not fill one batch.
    """
    count = self.num_examples(split)
    if not 1 <= batch_size <= count:
      raise UserError(
        f'batch_size is {batch_size}, allowed: 1 to {count}, the number of '
        f'{split} images of {self.name!r}.'
      )
    return count // batch_size


_DIGIT_NAMES = tuple(str(digit) for digit in range(10))


_CLOTHES = (
  'T-shirt/top',
  'Trouser',
  'Pullover',
  'Dress',
  'Coat',
  'Sandal',
  'Shirt',
  'Sneaker',
  'Bag',
  'Ankle boot',
)


_CIFAR10_NAMES = (
  'airplane',
  'automobile',
  'bird',
  'cat',
  'deer',
  'dog',
  'frog',
  'horse',
  'ship',
  'truck',
)


# Stages that need only the counts run on machines that lack the images.
KNOWN = {
  'digits': DatasetInfo(
    'digits', 1437, 0, 360, 10, 1, _DIGIT_NAMES, (0.305,), (0.376,)
  ),
  'fashion_mnist': DatasetInfo(
    'fashion_mnist', 60_000, 0, 10_000, 10, 1, _CLOTHES, (0.286,), (0.353,)
  ),
  'cifar10': DatasetInfo(
    'cifar10',
    50_000,
    0,
    10_000,
    10,
    3,
    _CIFAR10_NAMES,
    (0.491, 0.482, 0.447),
    (0.247, 0.243, 0.262),
  ),
  'imagenet2012': DatasetInfo(
    'imagenet2012',
    1_281_167,
    0,
    50_000,
    1000,
    3,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
  ),
}


def known(dataset_config: ConfigDict) -> DatasetInfo | None:
  """What is known about a configured data set by its name, None if nothing."""
  return None if dataset_config.folder else KNOWN.get(dataset_config.name)
