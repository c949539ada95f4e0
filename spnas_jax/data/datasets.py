"""Which data sets there are, how many images they hold, and their config keys.

Everything is read through tfds; `store.py` knows where it lies.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from spnas_jax.core import tensorflow_setup
from spnas_jax.core.errors import UserError
from spnas_jax.data import folder_report as folder_report_lib
from spnas_jax.data import pixel_statistics
from spnas_jax.data import store as dataset_store
from spnas_jax.data.folder_names import set_name
from spnas_jax.data.known_datasets import KNOWN, DatasetInfo, known

AUGMENTS = ('none', 'crop', 'crop_flip', 'inception')
INTERPOLATIONS = ('bilinear', 'bicubic')
# What keys of the section can be; the statistics of pixels have their own.
CHOICES = {'augment': AUGMENTS, 'interpolation': INTERPOLATIONS}
RANGES = {
  'image_size': (1, 4096),
  'crop_padding': (0, 4096),
  'train_examples': (0, 2**31 - 1),
  'test_examples': (0, 2**31 - 1),
  'shuffle_buffer': (1, 2**31 - 1),
  'record_shares': (0, 4096),
  'split_seed': (0, 2**31 - 1),
  'shrink_to': (0, 2**15),
}
# Fractions of images, below 1.
FRACTIONS = (
  'holdout',
  'test_holdout',
  'max_unreadable',
  'validation_fraction',
  'test_fraction',
)

# The tfds split that is scored as 'test'. Where a name is missing, it is
# 'test' or, without one, 'validation'; the test labels of ImageNet are secret.
_TEST_SPLIT = {'imagenet2012': 'validation'}


def default_config() -> ConfigDict:
  """The `dataset` section with every key it has; digits at 32 px."""
  config = ConfigDict()
  # tfds name: 'digits', 'fashion_mnist', 'cifar10', 'imagenet2012', ...
  config.name = 'digits'
  # A folder of pictures to read in place of `name`, or a .csv table of them
  # ('' = none): FOLDER/CLASS/FILE, FOLDER/train/CLASS/FILE with test and val
  # beside train if they are there, or columns filename,label[,split]. It is
  # prepared once under data_dir.
  config.folder = ''
  # Where the folder does not say which images are for validation, or for test:
  # the fraction that is taken for it of those in neither; 0 = do without. A
  # picture's content and the seed decide which (`folder_splits.py`).
  config.validation_fraction = 0.1
  config.test_fraction = 0.2
  config.split_seed = 0
  # Short side to which larger pictures of the folder are shrunk when it is
  # prepared, pixels; 0 = none is.
  config.shrink_to = 0
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
  # Padding on each side before 'crop' and 'crop_flip', in output pixels, at
  # most image_size.
  config.crop_padding = 3
  # How images are resized: 'bilinear' or 'bicubic'.
  config.interpolation = 'bilinear'
  # Subtracted from, and then divided into, pixel / 255: one number for all
  # channels or one per channel, fractions. () = those of the data: known for
  # the names above, otherwise computed from 2,048 training images.
  config.mean = ()
  config.std = ()
  # tfds splits to train on and to score; '' = 'train', and 'test' or, without
  # one, 'validation'.
  config.train_split = ''
  config.test_split = ''
  # Fraction of the training split that is the test part of a data set without
  # one; `holdout`, a fraction of the whole split too, is held out beside it.
  config.test_holdout = 0.0
  # Train on (test on) the first N images only; 0 is all of them.
  config.train_examples = 0
  config.test_examples = 0
  # Fraction of the training images held out as the split 'validation'; 0 with
  # a folder that has validation images of its own.
  config.holdout = 0.0
  # Fraction of a split's images, or of a folder's, that may be unreadable: they
  # are left out and counted. In training others take their place.
  config.max_unreadable = 0.0
  # Resize once and keep all images in memory: for sets of up to some 100,000
  # small images. Not with 'inception', which crops the original pixels.
  config.cache = True
  # Undecoded records that are shuffled at a time when cache is off, and so
  # kept in memory; cached images are always shuffled all together.
  config.shuffle_buffer = 16_384
  # Even shares of the training records when cache is off, each with a buffer of
  # its own: a multiple of the number of processes, and a divisor of the batch.
  # It fixes what a batch is made of for every number of processes that divides
  # it; 0 = as many as processes.
  config.record_shares = 0
  return config


def check(dataset_config: ConfigDict) -> None:
  """Raises UserError if a key of the `dataset` section is out of range."""
  for key, choices in CHOICES.items():
    if dataset_config[key] not in choices:
      raise UserError(
        f'dataset.{key} is {dataset_config[key]!r}, allowed: '
        f'{", ".join(choices)}.'
      )
  cropped = dataset_config.augment in ('crop', 'crop_flip')
  for key, (least, most) in RANGES.items():
    if cropped and key == 'crop_padding':
      # Padded by more than itself, an image may be cropped to nothing.
      most = dataset_config.image_size
    if not least <= dataset_config[key] <= most:
      raise UserError(
        f'dataset.{key} is {dataset_config[key]}, allowed: {least} or more, up '
        f'to {most}.'
      )
  _check_splits(dataset_config)
  pixel_statistics.check(dataset_config)
  if dataset_config.cache and dataset_config.augment == 'inception':
    raise UserError(
      "dataset.augment is 'inception', which crops the original pixels; the "
      'cache does not keep them: set dataset.cache=False.'
    )


def _check_splits(dataset_config: ConfigDict) -> None:
  for key in FRACTIONS:
    if not 0 <= dataset_config[key] < 1:
      raise UserError(
        f'dataset.{key} is {dataset_config[key]}, allowed: 0 to below 1, a '
        'fraction: 0.05 for 5%.'
      )
  for one, other in (
    ('holdout', 'test_holdout'),
    ('validation_fraction', 'test_fraction'),
  ):
    if dataset_config[one] + dataset_config[other] >= 1:
      raise UserError(
        f'dataset.{one} is {dataset_config[one]} and dataset.{other} is '
        f'{dataset_config[other]} leave no training images; allowed: a sum '
        'below 1.'
      )
  if dataset_config.folder and dataset_config.test_holdout:
    raise UserError(
      f'dataset.test_holdout is {dataset_config.test_holdout}, must be 0 with '
      'dataset.folder; dataset.test_fraction says how much of it is for test.'
    )
  for key in ('train_split', 'test_split'):
    if '[' in dataset_config[key]:
      raise UserError(
        f'dataset.{key} is {dataset_config[key]!r}, allowed: the name of a '
        'tfds split, without a slice; dataset.holdout, dataset.test_holdout, '
        'dataset.train_examples and dataset.test_examples take parts.'
      )
  if dataset_config.test_split and dataset_config.test_holdout:
    raise UserError(
      f'dataset.test_split is {dataset_config.test_split!r} and '
      f'dataset.test_holdout is {dataset_config.test_holdout}, allowed: one of '
      'them.'
    )


def info(dataset_config: ConfigDict) -> DatasetInfo:
  """Says what a data set holds under a configuration.

  The counts come from the prepared data if there are any, else from what is
  known about the name. Nothing is written and TensorFlow is not imported,
  unless it is a folder of pictures: that is prepared first.

  Args:
    dataset_config: the `dataset` section, see `default_config`.

  Raises:
    UserError: if a key is out of range, or the data set is neither prepared
      nor known.
  """
  check(dataset_config)
  builder = (
    open_builder(dataset_config)
    if dataset_config.folder
    else dataset_store.find_prepared(dataset_config)
  )
  if builder is not None:
    return _limited(dataset_config, _read_facts(dataset_config, builder))
  if dataset_config.name not in KNOWN:
    raise dataset_store.not_prepared(dataset_config)
  return _limited(dataset_config, KNOWN[dataset_config.name])


def open_builder(dataset_config: ConfigDict) -> Any:
  """Returns the tfds builder of a data set that is prepared, or is so now.

  What was found in a folder of pictures is said the first time.

  Raises:
    UserError: if the data are missing, damaged, or not images with one label.
  """
  builder = dataset_store.find_prepared(dataset_config)
  if builder is None:
    name, facts = dataset_config.name, known(dataset_config)
    if not dataset_config.folder and name not in dataset_store.LOCAL_VERSIONS:
      raise dataset_store.not_prepared(dataset_config)
    builder = dataset_store.prepare(
      dataset_config, facts.label_names if facts else ()
    )
  _read_facts(dataset_config, builder)
  report = folder_report_lib.of_builder(builder)
  if dataset_config.folder and report:
    folder_report_lib.tell(
      report, set_name(dataset_config), dataset_store.data_dir(dataset_config)
    )
  return builder


def folder_report(dataset_config: ConfigDict) -> dict[str, Any]:
  """What was found when a folder of pictures was prepared.

  Returns:
    `folder_report.FolderReport` as a dictionary of what JSON has, `read` there
    undoes it and `lines` spells it out; {} for any other data set.
  """
  report = folder_report_lib.of_builder(open_builder(dataset_config))
  return report.to_dict() if report else {}


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
  train = _train_split(dataset_config)
  if split == 'train':
    return f'{train}[0:{count}]'
  if split == 'validation' and _has_validation(dataset_config, builder):
    return f'validation[0:{count}]'
  # After the training images of the split: validation, then test.
  whole = builder.info.splits[train].num_examples
  end = whole - round(dataset_config.test_holdout * whole)
  if split == 'validation':
    return f'{train}[{end - count}:{end}]'
  if dataset_config.test_holdout:
    return f'{train}[{end}:{end + count}]'
  return f'{_test_split(dataset_config, builder)}[0:{count}]'


def _has_validation(dataset_config: ConfigDict, builder: Any) -> bool:
  """Whether it is a folder with validation images of its own.

  The split 'validation' of other data sets is for test where there is no other.
  """
  return (
    folder_report_lib.of_builder(builder) is not None
    and not dataset_config.test_holdout
    and 'validation' in builder.info.splits
    and 'validation'
    not in (_train_split(dataset_config), _test_split(dataset_config, builder))
  )


def _train_split(dataset_config: ConfigDict) -> str:
  return dataset_config.train_split or 'train'


def _test_split(dataset_config: ConfigDict, builder: Any) -> str:
  splits = builder.info.splits
  name = set_name(dataset_config)
  asked = dataset_config.test_split
  usual = (_TEST_SPLIT.get(name.partition(':')[0], 'test'), 'validation')
  for split in (asked,) if asked else usual:
    if split in splits and split != _train_split(dataset_config):
      return split
  raise UserError(
    f'dataset.test_split is {asked!r}: {name!r} has no such split to score '
    f'beside {_train_split(dataset_config)!r}; it has {", ".join(splits)}. '
    'Name one, or hold a part of the training images out as test, as in '
    f'dataset.test_{"fraction" if dataset_config.folder else "holdout"}=0.1.'
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
  ):
    raise UserError(
      f'dataset.name is {set_name(dataset_config)!r}, allowed: data sets with '
      "the features 'image' (grey or colour) and 'label'."
    )
  name, train = set_name(dataset_config), _train_split(dataset_config)
  if train not in builder.info.splits:
    raise UserError(
      f'dataset.train_split is {dataset_config.train_split!r}: {name!r} has no '
      f'split {train!r}; it has {", ".join(builder.info.splits)}.'
    )
  report = folder_report_lib.of_builder(builder)
  if report:
    folder_report_lib.check_readable(
      report.folder,
      report.unreadable,
      sum(map(sum, report.counts.values())),
      dataset_config.max_unreadable,
    )
  own_validation = 0
  if _has_validation(dataset_config, builder):
    own_validation = builder.info.splits['validation'].num_examples
    if dataset_config.holdout:
      raise UserError(
        f'dataset.holdout is {dataset_config.holdout}, must be 0, as {name!r} '
        f'has {own_validation} validation images of its own; '
        'dataset.validation_fraction says how many are taken for it where none '
        'are given.'
      )
  label = features['label']
  facts = known(dataset_config)
  return DatasetInfo(
    name=name,
    num_train=builder.info.splits[train].num_examples,
    num_validation=own_validation,
    num_test=0
    if dataset_config.test_holdout
    else builder.info.splits[_test_split(dataset_config, builder)].num_examples,
    num_classes=label.num_classes,
    channels=features['image'].shape[-1],
    label_names=tuple(label.names),
    mean=facts.mean if facts else (),
    std=facts.std if facts else (),
  )


def _limited(dataset_config: ConfigDict, whole: DatasetInfo) -> DatasetInfo:
  """Applies the holdouts, `train_examples` and `test_examples`."""
  held_out = round(dataset_config.holdout * whole.num_train)
  num_train = whole.num_train - held_out
  num_test = whole.num_test
  if dataset_config.test_holdout:
    num_test = round(dataset_config.test_holdout * whole.num_train)
    num_train -= num_test
  return dataclasses.replace(
    whole,
    num_train=min(dataset_config.train_examples or num_train, num_train),
    num_validation=held_out or whole.num_validation,
    num_test=min(dataset_config.test_examples or num_test, num_test),
  )
