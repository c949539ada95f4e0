"""Which data sets there are, how many images they hold, and their config keys.

Everything is read through tfds; `dataset_store.py` knows where it lies.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from spnas_jax import dataset_store, tensorflow_setup
from spnas_jax.errors import UserError

AUGMENTS = ('none', 'crop', 'crop_flip', 'inception')
INTERPOLATIONS = ('bilinear', 'bicubic')
SPLITS = ('train', 'validation', 'test')

# The tfds split that is scored as 'test'. Where a name is missing, it is
# 'test' or, without one, 'validation'; the test labels of ImageNet are secret.
_TEST_SPLIT = {'imagenet2012': 'validation'}


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
  """

  name: str
  num_train: int
  num_validation: int
  num_test: int
  num_classes: int
  channels: int
  label_names: tuple[str, ...] = ()

  @property
  def has_validation(self) -> bool:
    """Whether some training images are held out."""
    return self.num_validation > 0

  def num_examples(self, split: str) -> int:
    """Number of images of 'train', 'validation' or 'test'.

    Raises:
      UserError: if the split is none of these, or has no images.
    """
    if split not in SPLITS:
      raise UserError(f'split={split!r}: allowed are {", ".join(SPLITS)}.')
    count = int(getattr(self, f'num_{split}'))
    if not count:
      raise UserError(
        f'dataset.name={self.name!r} has no {split} images; set '
        'dataset.holdout > 0 to hold some out of training.'
        if split == 'validation'
        else f'dataset.name={self.name!r} has no {split} images.'
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
        f'batch_size={batch_size}: allowed is 1 to {count}, the number of '
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
_KNOWN = {
  'digits': DatasetInfo('digits', 1437, 0, 360, 10, 1, _DIGIT_NAMES),
  'fashion_mnist': DatasetInfo(
    'fashion_mnist', 60_000, 0, 10_000, 10, 1, _CLOTHES
  ),
  'cifar10': DatasetInfo('cifar10', 50_000, 0, 10_000, 10, 3, _CIFAR10_NAMES),
  'imagenet2012': DatasetInfo('imagenet2012', 1_281_167, 0, 50_000, 1000, 3),
}


def default_config() -> ConfigDict:
  """The `dataset` section with every key it has; digits at 32 px."""
  config = ConfigDict()
  # tfds name: 'digits', 'fashion_mnist', 'cifar10', 'imagenet2012', ...
  config.name = 'digits'
  # Folder of the prepared tfds data sets; '' is `data` beside main.py.
  config.data_dir = ''
  # Folder of the Fashion-MNIST IDX files; '' means data_dir if it holds them,
  # else the folder of the Debian package dataset-fashion-mnist.
  config.raw_dir = ''
  # Height and width of what comes out, in pixels.
  config.image_size = 32
  # 'none'; 'crop': pad, then crop at random; 'crop_flip': and flip left-right;
  # 'inception': random crop of 8-100% of the area, aspect 3/4-4/3, and flip.
  # Evaluation resizes whole images; with 'inception' the central square of
  # 7/8 of the short side.
  config.augment = 'crop'
  # RandAugment behind 'inception': operations for each image (2 is usual, 0 =
  # none) and their strength, 0 to 10.
  config.randaugment_operations = 0
  config.randaugment_magnitude = 9.0
  # Padding on each side before 'crop' and 'crop_flip', in output pixels.
  config.crop_padding = 3
  # How images are resized: 'bilinear' or 'bicubic'.
  config.interpolation = 'bilinear'
  # Subtracted from, and then divided into, pixel / 255: one number for all
  # channels or one per channel.
  config.mean = (0.305,)
  config.std = (0.376,)
  # Train on (test on) the first so many images only; 0 is all of them.
  config.train_examples = 0
  config.test_examples = 0
  # Fraction of the training images held out as the split 'validation'.
  config.holdout = 0.0
  # Resize once and keep all images in memory: for sets of up to some 100,000
  # small images. Not with 'inception', which crops the original pixels.
  config.cache = True
  # Undecoded records that are shuffled at a time when cache is off, and so
  # kept in memory; cached images are always shuffled all together.
  config.shuffle_buffer = 16_384
  return config


def check(dataset_config: ConfigDict) -> None:
  """Raises UserError if a key of the `dataset` section is out of range."""
  for key, choices in (
    ('augment', AUGMENTS),
    ('interpolation', INTERPOLATIONS),
  ):
    if dataset_config[key] not in choices:
      raise UserError(
        f'dataset.{key}={dataset_config[key]!r}: allowed are '
        f'{", ".join(choices)}.'
      )
  for key, least in (
    ('image_size', 1),
    ('crop_padding', 0),
    ('train_examples', 0),
    ('test_examples', 0),
    ('shuffle_buffer', 1),
    ('randaugment_operations', 0),
  ):
    if dataset_config[key] < least:
      raise UserError(
        f'dataset.{key}={dataset_config[key]}: allowed is {least} or more.'
      )
  if not 0 <= dataset_config.holdout < 1:
    raise UserError(
      f'dataset.holdout={dataset_config.holdout}: allowed is 0 to below 1, a '
      'fraction: 0.05 for 5%.'
    )
  if not 0 <= dataset_config.randaugment_magnitude <= 10:
    raise UserError(
      'dataset.randaugment_magnitude='
      f'{dataset_config.randaugment_magnitude}: allowed is 0 to 10.'
    )
  if (
    dataset_config.randaugment_operations
    and dataset_config.augment != 'inception'
  ):
    raise UserError(
      'dataset.randaugment_operations='
      f'{dataset_config.randaugment_operations}: must be 0 unless '
      "dataset.augment='inception'."
    )
  if dataset_config.cache and dataset_config.augment == 'inception':
    raise UserError(
      "dataset.augment='inception' crops the original pixels, which the cache "
      'does not keep; set dataset.cache=False.'
    )


def info(dataset_config: ConfigDict) -> DatasetInfo:
  """Says what a data set holds under a configuration.

  The counts come from the prepared data if there are any, else from what is
  known about the name. Nothing is written and TensorFlow is not imported.

  Args:
    dataset_config: the `dataset` section, see `default_config`.

  Raises:
    UserError: if a key is out of range, or the data set is neither prepared
      nor known.
  """
  check(dataset_config)
  builder = dataset_store.find_prepared(dataset_config)
  if builder is not None:
    return _limited(dataset_config, _read_facts(dataset_config, builder))
  if dataset_config.name not in _KNOWN:
    raise dataset_store.not_prepared(dataset_config)
  return _limited(dataset_config, _KNOWN[dataset_config.name])


def open_builder(dataset_config: ConfigDict) -> Any:
  """Returns the tfds builder of a data set that is prepared, or is so now.

  Raises:
    UserError: if the data are missing, damaged, or not images with one label.
  """
  builder = dataset_store.find_prepared(dataset_config)
  if builder is None:
    name = dataset_config.name
    if name not in dataset_store.LOCAL_VERSIONS:
      raise dataset_store.not_prepared(dataset_config)
    builder = dataset_store.prepare(dataset_config, _KNOWN[name].label_names)
  _read_facts(dataset_config, builder)
  return builder


def read_instruction(
  dataset_config: ConfigDict, builder: Any, split: str
) -> str:
  """Spells a split of ours as a tfds split, such as 'train[0:1149]'.

  Args:
    dataset_config: the `dataset` section.
    builder: what `open_builder` returned for it.
    split: 'train', 'validation' (the held-out end of train) or 'test'.
  """
  facts = _limited(dataset_config, _read_facts(dataset_config, builder))
  count = facts.num_examples(split)
  if split == 'test':
    return f'{_test_split(dataset_config, builder)}[0:{count}]'
  if split == 'train':
    return f'train[0:{count}]'
  end = builder.info.splits['train'].num_examples
  return f'train[{end - count}:{end}]'


def _test_split(dataset_config: ConfigDict, builder: Any) -> str:
  splits = builder.info.splits
  name = dataset_config.name.partition(':')[0]
  for split in (_TEST_SPLIT.get(name, 'test'), 'validation'):
    if split in splits:
      return split
  raise UserError(
    f'dataset.name={dataset_config.name!r} has no test or validation split; '
    f'it has {", ".join(splits)}.'
  )


def _read_facts(dataset_config: ConfigDict, builder: Any) -> DatasetInfo:
  """Reads the whole data set's facts from a prepared builder."""
  tfds = tensorflow_setup.load_tfds()
  features = builder.info.features
  if (
    not isinstance(features, tfds.features.FeaturesDict)
    or not {'image', 'label'} <= set(features)
    or not isinstance(features['image'], tfds.features.Image)
    or not isinstance(features['label'], tfds.features.ClassLabel)
    or features['image'].shape[-1] not in (1, 3)
    or 'train' not in builder.info.splits
  ):
    raise UserError(
      f'dataset.name={dataset_config.name!r}: allowed are data sets with a '
      "split 'train' and the features 'image' (grey or colour) and 'label'."
    )
  label = features['label']
  return DatasetInfo(
    name=dataset_config.name,
    num_train=builder.info.splits['train'].num_examples,
    num_validation=0,
    num_test=builder.info.splits[
      _test_split(dataset_config, builder)
    ].num_examples,
    num_classes=label.num_classes,
    channels=features['image'].shape[-1],
    label_names=tuple(label.names),
  )


def _limited(dataset_config: ConfigDict, whole: DatasetInfo) -> DatasetInfo:
  """Applies `holdout`, `train_examples` and `test_examples`."""
  held_out = round(dataset_config.holdout * whole.num_train)
  num_train = whole.num_train - held_out
  num_test = whole.num_test
  return dataclasses.replace(
    whole,
    num_train=min(dataset_config.train_examples or num_train, num_train),
    num_validation=held_out,
    num_test=min(dataset_config.test_examples or num_test, num_test),
  )
