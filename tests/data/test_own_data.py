"""Data sets of one's own: splits, statistics, and advice that is true."""

import numpy as np
import pytest

from spnas_jax.core import tensorflow_setup
from spnas_jax.core.errors import UserError
from spnas_jax.data import (
  augmentation,
  datasets,
  input_pipeline,
  pixel_statistics,
  record_batches,
)

COUNT = 50


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Data sets 'one' (split train) and 'odd' (splits fit and judge).

  Image i is 8 x 8 px, all of it (i, 2 i, 100), so that a pixel says which image
  it is of; class i % 2.
  """
  tf = tensorflow_setup.load_tensorflow()
  tfds = tensorflow_setup.load_tfds()
  folder = tmp_path_factory.mktemp('own')

  def images(first, count):
    pixels = np.zeros((count, 8, 8, 3), np.uint8)
    numbers = np.arange(first, first + count)
    pixels[..., 0] = numbers[:, None, None]
    pixels[..., 1] = 2 * numbers[:, None, None]
    pixels[..., 2] = 100
    return tf.data.Dataset.from_tensor_slices(
      {'image': pixels, 'label': numbers % 2}
    )

  for name, splits in (
    ('one', {'train': images(0, COUNT)}),
    ('odd', {'fit': images(0, COUNT), 'judge': images(COUNT, 20)}),
  ):
    tfds.dataset_builders.store_as_tfds_dataset(
      name=name,
      version='1.0.0',
      data_dir=folder,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(None, None, 3)),
          'label': tfds.features.ClassLabel(names=['even', 'odd']),
        }
      ),
      split_datasets=splits,
      disable_shuffling=True,
    )
  return folder


def make_config(folder, **changes):
  config = datasets.default_config()
  config.update(name='one', data_dir=str(folder), image_size=8)
  config.update(**changes)
  return config


def numbers(config, split) -> list[int]:
  """Which images a split of ours holds."""
  count = datasets.info(config).num_examples(split)
  images, labels = record_batches.read(config, split, count)
  found = images[:, 0, 0, 0].tolist()
  assert [n % 2 for n in found] == labels.tolist()
  return found


# --- splits -------------------------------------------------------------------


def test_a_data_set_of_one_split_has_a_test_part_by_config(folder):
  """Train, validation and test are disjoint, and together all there is."""
  config = make_config(
    folder, test_holdout=0.2, holdout=0.1, mean=(0.5,), std=(0.5,)
  )
  parts = {s: numbers(config, s) for s in ('train', 'validation', 'test')}
  assert {k: len(v) for k, v in parts.items()} == {
    'train': 35,
    'validation': 5,
    'test': 10,
  }
  assert sorted(n for part in parts.values() for n in part) == list(
    range(COUNT)
  )
  # Holding some out for validation does not move the test part.
  config.holdout = 0.5
  assert numbers(config, 'test') == parts['test']
  # Fewer training images leave both as they are.
  config.update(holdout=0.1, train_examples=7, test_examples=3)
  assert numbers(config, 'train') == parts['train'][:7]
  assert numbers(config, 'validation') == parts['validation']
  assert numbers(config, 'test') == parts['test'][:3]


def test_splits_of_any_name_can_be_used(folder):
  config = make_config(folder, mean=(0.5,), std=(0.5,))
  config.update(name='odd', train_split='fit', test_split='judge', holdout=0.1)
  assert sorted(numbers(config, 'test')) == list(range(COUNT, COUNT + 20))
  both = numbers(config, 'train') + numbers(config, 'validation')
  assert sorted(both) == list(range(COUNT))


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({}, ['dataset.test_split', 'dataset.test_holdout=0.1', 'it has train']),
    ({'name': 'odd'}, ["no split 'train'", 'it has fit, judge']),
    ({'train_split': 'all'}, ["dataset.train_split is 'all'", 'it has train']),
    ({'test_split': 'train'}, ["dataset.test_split is 'train'", 'beside']),
    ({'test_split': 'a[:3]'}, ['without a slice', 'dataset.test_holdout']),
    ({'test_split': 'a', 'test_holdout': 0.1}, ['one of them']),
    ({'test_holdout': 1.0}, ['dataset.test_holdout is 1.0', '0.05 for 5%']),
    ({'test_holdout': 0.5, 'holdout': 0.5}, ['sum below 1']),
  ],
)
def test_wrong_splits_are_refused_with_those_there_are(folder, changes, words):
  with pytest.raises(UserError) as e:
    datasets.info(make_config(folder, **changes))
  for word in words:
    assert word in str(e.value)


# --- statistics ---------------------------------------------------------------


def test_statistics_are_those_of_the_training_images(folder):
  """Of the 40 training images, not of the test part, by channel."""
  config = make_config(folder, test_holdout=0.2)
  with pytest.raises(UserError, match=r'dataset\.mean is unset'):
    pixel_statistics.statistics(config)
  input_pipeline.fill_statistics(config)
  n = np.arange(40)
  np.testing.assert_allclose(
    config.mean, [n.mean() / 255, 2 * n.mean() / 255, 100 / 255], atol=5e-5
  )
  # The third channel does not vary: divided by the least that is allowed.
  np.testing.assert_allclose(
    config.std, [n.std() / 255, 2 * n.std() / 255, 0.001], atol=5e-5
  )
  datasets.check(config)
  scale, offset = augmentation.scale_and_offset(config, 3)
  assert scale.shape == offset.shape == (3,)
  again = make_config(folder, test_holdout=0.2)
  input_pipeline.fill_statistics(again)
  assert (again.mean, again.std) == (config.mean, config.std)


@pytest.mark.parametrize('name', ['digits', 'fashion_mnist', 'imagenet2012'])
def test_known_data_sets_need_not_be_read(name, tmp_path):
  config = make_config(tmp_path)
  config.name = name
  input_pipeline.fill_statistics(config)
  assert not list(tmp_path.iterdir())
  assert all(0 < value < 1 for value in (*config.mean, *config.std))


def test_given_statistics_stay(folder):
  config = make_config(folder, mean=(0.1,), std=(0.2,))
  input_pipeline.fill_statistics(config)
  assert (config.mean, config.std) == ((0.1,), (0.2,))


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    (
      {'mean': (77.8,), 'std': (95.9,)},
      ['dataset.mean is (77.8,)', '0..255', 'divide by 255'],
    ),
    ({'mean': (0.3,), 'std': (95.9,)}, ['dataset.std is (95.9,)', '0..255']),
    ({'mean': (-0.1,), 'std': (0.2,)}, ['dataset.mean is (-0.1,)', '0 to 1']),
    ({'mean': (0.1,), 'std': (0.0,)}, ['dataset.std is (0.0,)', '0.001 to 1']),
    ({'mean': (float('nan'),), 'std': (0.2,)}, ['dataset.mean is (nan,)']),
    ({'mean': (0.1,)}, ['dataset.std is ()', 'both']),
  ],
)
def test_statistics_in_another_unit_are_refused(changes, words):
  """Training with pixels of 0..255 looks fine and scores 10%."""
  config = datasets.default_config()
  config.update(**changes)
  with pytest.raises(UserError) as e:
    datasets.check(config)
  for word in words:
    assert word in str(e.value)


# --- advice -------------------------------------------------------------------


@pytest.mark.parametrize(
  ('name', 'words', 'never'),
  [
    # A name that tfds knows can be prepared by it; another cannot.
    ('cats_vs_dogs', ['download_and_prepare', 'odd, one'], 'Your own pictures'),
    ('photos', ['knows no data set', 'Your own pictures'], 'download_and'),
    ('/some/photos', [': a path;', 'dataset.data_dir'], 'delete'),
    ('./photos', [': a path;', 'dataset.data_dir'], 'delete'),
  ],
)
def test_advice_about_a_name_is_true(name, words, never, folder):
  config = make_config(folder)
  config.name = name
  with pytest.raises(UserError) as e:
    datasets.info(config)
  for word in words:
    assert word in str(e.value)
  assert never not in str(e.value)
