"""Batches: reproducible, resumable, complete, and the images they should be."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spnas_jax.core.errors import UserError
from spnas_jax.data import (
  augmentation,
  datasets,
  input_pipeline,
  pixel_statistics,
)
from tests import fake_imagenet

NUM_TRAIN, NUM_VALIDATION = 64, 21


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
  config = datasets.default_config()
  config.data_dir = str(tmp_path_factory.mktemp('digits'))
  config.image_size = 16
  config.crop_padding = 2
  return config


@pytest.fixture(scope='module')
def jpegs(tmp_path_factory):
  """64 + 21 JPEGs; labels 0, 1, ... number the images of each split."""
  folder = tmp_path_factory.mktemp('jpegs')
  random = np.random.default_rng(0)
  fake_imagenet.write(
    folder,
    {
      split: [
        fake_imagenet.random_jpeg(random, *random.integers(40, 130, 2))
        for _ in range(count)
      ]
      for split, count in (
        ('train', NUM_TRAIN),
        ('validation', NUM_VALIDATION),
      )
    },
  )
  config = datasets.default_config()
  config.name = 'imagenet2012'
  config.data_dir = str(folder)
  config.image_size = 24
  config.augment = 'inception'
  config.cache = False
  config.shuffle_buffer = 16
  config.mean = (0.485, 0.456, 0.406)
  config.std = (0.229, 0.224, 0.225)
  return config


def changed(config, **changes):
  copy = config.copy_and_resolve_references()
  copy.update(changes)
  return copy


def train(config, count, **kwargs):
  kwargs = {'batch_size': 20, 'seed': 0} | kwargs
  batches = input_pipeline.train_batches(config, **kwargs)
  return list(itertools.islice(batches, count))


def evaluate(config, batch_size, **kwargs):
  return list(
    input_pipeline.eval_batches(config, batch_size=batch_size, **kwargs)
  )


def assert_same(batch, other):
  assert batch.keys() == other.keys()
  for key in batch:
    assert batch[key].dtype == other[key].dtype
    np.testing.assert_array_equal(batch[key], other[key])


def same_images(batch, other):
  return np.array_equal(batch['image'], other['image'])


# Training streams.


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('name', ['digits', 'jpegs'])
def test_shapes_and_types(name, dtype, request):
  config = request.getfixturevalue(name)
  (batch,) = train(config, 1, dtype=dtype)
  channels = datasets.info(config).channels
  side = config.image_size
  assert batch['image'].shape == (20, side, side, channels)
  assert batch['image'].dtype == jnp.dtype(dtype)
  assert batch['label'].shape == (20,)
  assert batch['label'].dtype == np.int32


@pytest.fixture(scope='module')
def digits_stream(digits):
  """Three epochs and a bit: 71 steps of 20 images each."""
  return train(digits, 230)


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 225))
def test_cached_stream_resumes_at_any_step(digits, digits_stream, start):
  resumed = train(digits, 4, start_step=start)
  for batch, other in zip(resumed, digits_stream[start:], strict=False):
    assert_same(batch, other)


def test_record_stream_resumes_at_any_step(jpegs):
  stream = train(jpegs, 8)
  for start in (1, 2, 3, 5):
    resumed = train(jpegs, 8 - start, start_step=start)
    for batch, other in zip(resumed, stream[start:], strict=True):
      assert_same(batch, other)


@pytest.mark.parametrize('name', ['digits', 'jpegs'])
def test_seeds_and_epochs_differ(name, request):
  config = request.getfixturevalue(name)
  steps = datasets.info(config).steps_per_epoch(20)
  first, *_, second = train(config, steps + 1)
  (other,) = train(config, 1, seed=1)
  assert not same_images(first, second)
  assert not same_images(first, other)


@pytest.mark.parametrize('name', ['digits', 'jpegs'])
def test_an_epoch_sees_no_image_twice(name, request):
  config = changed(request.getfixturevalue(name), augment='none')
  batches = train(config, datasets.info(config).steps_per_epoch(20))
  images = np.concatenate([batch['image'] for batch in batches])
  whole = np.concatenate(
    [batch['image'] for batch in evaluate(config, 20, split='train')]
  )
  # scikit-learn's digits are all different from each other.
  seen = {image.tobytes() for image in images}
  assert len(seen) == len(images)
  if name == 'digits':
    assert seen <= {image.tobytes() for image in whole}


def test_global_batches_do_not_depend_on_the_process_count(
  digits_stream, digits
):
  config = changed(digits, augment='crop_flip')
  whole = train(config, 75)
  halves = [
    train(config, 75, process_index=index, process_count=2)
    for index in range(2)
  ]
  for batch, first, second in zip(whole, *halves, strict=True):
    assert len(first['label']) == 10
    assert_same(
      batch,
      {key: np.concatenate([first[key], second[key]]) for key in batch},
    )


def test_processes_share_records_out(jpegs):
  seen = [
    np.concatenate(
      [
        batch['label']
        for batch in train(
          jpegs, 4, batch_size=16, process_index=index, process_count=2
        )
      ]
    )
    for index in range(2)
  ]
  assert sorted(np.concatenate(seen)) == list(range(NUM_TRAIN))


def test_shares_make_batches_of_records_the_same_for_all_process_counts(jpegs):
  """Also where a stream begins in the middle of an epoch."""
  config = changed(jpegs, record_shares=2)
  whole = train(config, 5, batch_size=16)
  halves = [
    train(
      *(config, 2),
      batch_size=16,
      start_step=3,
      process_index=index,
      process_count=2,
    )
    for index in range(2)
  ]
  for batch, first, second in zip(whole[3:], *halves, strict=True):
    joined = {key: np.concatenate([first[key], second[key]]) for key in batch}
    assert_same(batch, joined)
  # An epoch, which is four steps, has every image once.
  epoch = np.concatenate([batch['label'] for batch in whole[:4]])
  assert sorted(epoch) == list(range(NUM_TRAIN))


@pytest.mark.parametrize(('shares', 'count'), [(3, 2), (6, 2), (1, 2)])
def test_shares_that_cannot_be_shared_out_are_named(jpegs, shares, count):
  message = error_line(
    *(train, changed(jpegs, record_shares=shares), 1),
    batch_size=16,
    process_index=0,
    process_count=count,
  )
  assert f'dataset.record_shares is {shares}, allowed: a multiple' in message


def test_shuffling_reaches_across_the_buffer(jpegs):
  (batch,) = train(changed(jpegs, shuffle_buffer=NUM_TRAIN), 1, batch_size=64)
  assert sorted(batch['label']) == list(range(NUM_TRAIN))
  assert list(batch['label']) != sorted(batch['label'])


def test_limits_and_holdout_are_disjoint(jpegs):
  config = changed(jpegs, holdout=0.25, train_examples=30)
  seen = {
    split: {
      int(label)
      for batch in train(config, steps, batch_size=15, split=split)
      for label in batch['label']
    }
    for split, steps in (('train', 2), ('validation', 1))
  }
  held_out = {
    int(label)
    for batch in evaluate(config, 16, split='validation')
    for label in batch['label'][batch['mask'] > 0]
  }
  assert len(seen['train']) == 30
  assert len(held_out) == 16
  assert seen['validation'] < held_out
  assert not seen['train'] & held_out


# Evaluation.


@pytest.mark.parametrize('count', [1, 2, 3])
def test_every_test_image_counts_once(jpegs, count):
  per_process = [
    evaluate(jpegs, 12, process_index=index, process_count=count)
    for index in range(count)
  ]
  assert {len(batches) for batches in per_process} == {2}
  labels = []
  for batch in itertools.chain(*per_process):
    assert batch['image'].shape == (12 // count, 24, 24, 3)
    assert batch['mask'].dtype == np.float32
    labels.extend(batch['label'][batch['mask'] == 1])
    np.testing.assert_array_equal(batch['image'][batch['mask'] == 0], 0)
  assert sorted(labels) == list(range(NUM_VALIDATION))


@pytest.mark.parametrize(('batch_size', 'count'), [(64, 2), (360, 1), (7, 1)])
def test_cached_evaluation_is_complete_and_in_order(digits, batch_size, count):
  images, labels = input_pipeline.test_images(digits, 360)
  per_process = [
    evaluate(digits, batch_size, process_index=index, process_count=count)
    for index in range(count)
  ]
  parts = list(itertools.chain(*zip(*per_process, strict=True)))
  mask = np.concatenate([part['mask'] for part in parts]) == 1
  joined = {
    key: np.concatenate([part[key] for part in parts])[mask]
    for key in ('image', 'label')
  }
  np.testing.assert_array_equal(joined['label'], labels)
  np.testing.assert_array_equal(
    joined['image'], augmentation.normalize(images, digits)
  )


@pytest.mark.parametrize('name', ['digits', 'jpegs'])
def test_evaluation_normalises_whole_pixels(name, request):
  config = request.getfixturevalue(name)
  (pixels, *_), (batch, *_) = (
    evaluate(config, 8, dtype=dtype) for dtype in ('uint8', 'float32')
  )
  assert pixels['image'].dtype == np.uint8
  mean, std = map(np.array, pixel_statistics.statistics(config))
  np.testing.assert_allclose(
    batch['image'], (pixels['image'] / 255 - mean) / std, atol=1e-5
  )


@pytest.mark.parametrize('name', ['digits', 'jpegs'])
def test_calibration_and_test_images(name, request):
  config = request.getfixturevalue(name)
  channels = datasets.info(config).channels
  shape = (9, config.image_size, config.image_size, channels)
  images = input_pipeline.calibration_images(config, 9, seed=0)
  assert (images.shape, images.dtype) == (shape, np.uint8)
  again = input_pipeline.calibration_images(config, 9, seed=0)
  np.testing.assert_array_equal(images, again)
  other = input_pipeline.calibration_images(config, 9, seed=1)
  assert not np.array_equal(images, other)
  images, labels = input_pipeline.test_images(config, 9)
  assert (images.shape, images.dtype) == (shape, np.uint8)
  assert (labels.shape, labels.dtype) == ((9,), np.int32)
  (batch, *_) = evaluate(config, 9, dtype='uint8')
  np.testing.assert_array_equal(images, batch['image'])


def test_small_images_are_augmented_from_records_too(digits):
  config = changed(digits, cache=False, augment='crop_flip', shuffle_buffer=99)
  plain = changed(config, augment='none')
  (batch,), (same,) = train(config, 1), train(plain, 1)
  np.testing.assert_array_equal(batch['label'], same['label'])
  assert not same_images(batch, same)
  # Cropping moves pixels and brings black in, but makes up no others.
  mean, std = pixel_statistics.statistics(config)
  black = np.float32((0 - mean[0]) / std[0])
  for image, original in zip(batch['image'], same['image'], strict=True):
    extra = np.setdiff1d(image, original)
    np.testing.assert_allclose(extra, black, rtol=1e-5)


# Devices.


def test_prefetched_batches_enter_pmap_as_they_are(digits):
  devices = jax.local_devices()[:2]
  batches = train(digits, 5)
  placed = list(input_pipeline.prefetch_to_devices(batches, devices))
  assert len(placed) == 5
  traces = []

  def step(batch):
    traces.append(None)
    return jax.lax.psum(batch['image'].sum(), 'batch')

  step = jax.pmap(step, axis_name='batch', devices=devices)
  # Any copy from the host or between devices would be refused.
  with jax.transfer_guard('disallow'):
    sums = [step(batch) for batch in placed]
  assert len(traces) == 1
  for batch, there, total in zip(batches, placed, sums, strict=True):
    assert there['image'].shape == (2, 10, 16, 16, 1)
    assert there['image'].sharding.device_set == set(devices)
    np.testing.assert_array_equal(
      np.asarray(there['label']), batch['label'].reshape(2, 10)
    )
    np.testing.assert_allclose(total[0], batch['image'].sum(), rtol=1e-4)


def test_prefetching_stays_two_batches_ahead():
  taken = []

  def batches():
    for i in range(9):
      taken.append(i)
      yield {'label': np.full(2, i, np.int32)}

  placed = input_pipeline.prefetch_to_devices(batches(), jax.devices()[:1])
  for i in range(9):
    assert int(next(placed)['label'][0, 0]) == i
    assert len(taken) == min(i + 3, 9)


# Errors.


def error_line(function, *args, **kwargs):
  with pytest.raises(UserError) as error:
    function(*args, **kwargs)
  message = str(error.value)
  assert message and '\n' not in message
  return message


@pytest.mark.parametrize(
  ('changes', 'expected'),
  [
    ({'mean': (0.1, 0.2)}, 'dataset.mean is (0.1, 0.2)'),
    ({'std': (0.0,)}, 'dataset.std is (0.0,)'),
    ({'image_size': -1}, 'dataset.image_size is -1'),
  ],
)
def test_a_wrong_configuration_is_refused_at_once(digits, changes, expected):
  config = changed(digits, **changes)
  assert expected in error_line(train, config, 0)
  assert expected in error_line(evaluate, config, 8)


def test_batches_that_cannot_be_shared_out(digits):
  message = error_line(train, digits, 0, process_index=0, process_count=3)
  assert 'batch_size is 20' in message
  placed = input_pipeline.prefetch_to_devices(
    [{'label': np.zeros(3)}], jax.devices()[:2]
  )
  assert 'batch_size' in error_line(next, placed)
  assert 'batch_size is 99' in error_line(
    train, changed(digits, train_examples=50), 0, batch_size=99
  )


@pytest.mark.parametrize('damage', ['cut', 'noise', 'image'])
def test_a_damaged_record_is_the_users_error(jpegs, tmp_path, damage):
  if damage == 'image':
    random = np.random.default_rng(0)
    whole = fake_imagenet.random_jpeg(random, 40, 40)
    fake_imagenet.write(
      tmp_path, {'train': [whole, whole], 'validation': [whole[:30]] * 2}
    )
  else:
    whole = fake_imagenet.random_jpeg(np.random.default_rng(0), 40, 40)
    fake_imagenet.write(tmp_path, {'train': [whole], 'validation': [whole] * 8})
    (path,) = tmp_path.glob('imagenet2012/*/*validation*tfrecord*')
    data = path.read_bytes()
    path.write_bytes(
      data[:-40] if damage == 'cut' else data[:99] + b'#' * 99 + data[198:]
    )
  config = changed(jpegs, data_dir=str(tmp_path))
  message = error_line(evaluate, config, 2)
  assert str(tmp_path) in message
  assert "dataset.name is 'imagenet2012'" in message
