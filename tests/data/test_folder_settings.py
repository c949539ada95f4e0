"""Settings by size: always runnable, never endless."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spnas_jax.data import datasets, folder_settings


def steps(found, section, num_train):
  return (
    num_train // found[f'{section}.batch_size'] * found[f'{section}.epochs']
  )


@given(
  st.integers(1, 3_000_000),
  st.integers(2, 20_000),
  st.floats(1, 10_000),
  st.floats(1, 10_000),
)
@settings(max_examples=300, deadline=None)
def test_whatever_the_data_the_settings_work(num_train, classes, height, width):
  found = folder_settings.settings(num_train, classes, height, width)
  for section in ('search', 'train'):
    assert 1 <= found[f'{section}.batch_size'] <= min(num_train, 128)
    assert steps(found, section, num_train) >= 300
    assert found[f'{section}.checkpoint_epochs'] <= found[f'{section}.epochs']
  assert 0 < found['search.warmup_epochs'] < found['search.epochs']
  assert found['search.epochs'] <= found['train.epochs']
  assert found['dataset.image_size'] in range(32, 225, 32)
  assert found['dataset.image_size'] <= max(32, min(height, width))
  if num_train <= 1000:
    assert steps(found, 'train', num_train) <= 3200
  config = datasets.default_config()
  for key, value in found.items():
    section, _, name = key.partition('.')
    if section == 'dataset':
      config[name] = value
  datasets.check(config)


def test_two_classes_of_a_few_hundred():
  """280 of 400 are left to train on."""
  found = folder_settings.settings(280, 2, 480, 640)
  assert found == {
    'dataset.image_size': 96,
    'dataset.augment': 'crop_flip',
    'dataset.cache': True,
    'space.stem_stride': 2,
    'search.batch_size': 32,
    'search.epochs': 100.0,
    'search.warmup_epochs': 33.0,
    'search.checkpoint_epochs': 10.0,
    'train.batch_size': 32,
    'train.epochs': 200.0,
    'train.mixup': 0.2,
    'train.checkpoint_epochs': 20.0,
    'evaluate.batch_size': 32,
  }


@pytest.mark.parametrize(
  ('side', 'augment', 'cache', 'stride'),
  [(32, 'crop_flip', True, 1), (250, 'inception', False, 2)],
)
def test_a_hundred_classes_of_many(side, augment, cache, stride):
  found = folder_settings.settings(50_000, 100, side, side)
  assert found['train.batch_size'] == 128
  assert found['train.epochs'] == 30
  assert found['train.mixup'] == 0
  assert found['search.epochs'] == 20
  assert found['dataset.augment'] == augment
  assert found['dataset.cache'] is cache
  assert found['space.stem_stride'] == stride


def test_what_does_not_fit_is_not_kept_in_memory():
  assert folder_settings.settings(170_000, 9, 64, 64)['dataset.cache']
  assert not folder_settings.settings(180_000, 9, 64, 64)['dataset.cache']
