"""Batches: reproducible, resumable, complete, and the images they should be."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spnas_jax import augmentation, datasets, input_pipeline
from spnas_jax.errors import UserError
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
  mean, std = (np.array(value) for value in (config.mean, config.std))
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


# Augmentation.


def test_crops_and_flips_are_the_ones_planned():
  random = np.random.default_rng(0)
  images = random.integers(1, 256, (40, 6, 5, 3), np.uint8)
  top_left = random.integers(0, 5, (40, 2))
  flip = random.random(40) < 0.5
  result = augmentation.crop_and_flip(images, top_left, flip, padding=2)
  padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
  for i, (top, left) in enumerate(top_left):
    expected = padded[i, top : top + 6, left : left + 5]
    if flip[i]:
      expected = expected[:, ::-1]
    np.testing.assert_array_equal(result[i], expected)


def test_the_plan_follows_the_configuration(digits):
  plans = {
    augment: augmentation.plan_epoch(
      changed(digits, augment=augment), 1000, seed=3, epoch=2
    )
    for augment in ('none', 'crop', 'crop_flip')
  }
  for plan in plans.values():
    np.testing.assert_array_equal(np.sort(plan.order), np.arange(1000))
  assert plans['none'].top_left.max() == 0
  for augment in ('crop', 'crop_flip'):
    counts = np.bincount(plans[augment].top_left.ravel(), minlength=5)
    assert counts.min() > 300  # Of 2,000 draws among five places.
  assert not plans['none'].flip.any() and not plans['crop'].flip.any()
  assert 400 < plans['crop_flip'].flip.sum() < 600


@pytest.fixture(scope='module')
def preprocessing():
  from spnas_jax import preprocessing

  return preprocessing


@pytest.fixture(scope='module')
def crop_windows(preprocessing):
  """1,000 random windows in an image of 300 x 400: [1000, 4]."""
  tf = preprocessing.tf
  windows = (
    tf.data.Dataset.range(1000)
    .map(
      lambda i: preprocessing.random_crop_window(
        tf.constant(300), tf.constant(400), tf.stack([i, i + 7])
      )
    )
    .batch(1000)
  )
  return next(windows.as_numpy_iterator())


def test_random_crops_keep_to_area_and_aspect(crop_windows):
  top, left, height, width = crop_windows.T
  assert (top >= 0).all() and (top + height <= 300).all()
  assert (left >= 0).all() and (left + width <= 400).all()
  area = height * width / (300 * 400)
  aspect = width / height
  # Sides are whole pixels, and the smallest side is about 70.
  assert 0.08 * 0.97 < area.min() < 0.1
  assert 0.9 < area.max() <= 1
  assert 3 / 4 * 0.97 < aspect.min() < 0.77
  assert 1.3 < aspect.max() < 4 / 3 * 1.03


def test_windows_are_the_same_eager_and_in_a_pipeline(
  preprocessing, crop_windows
):
  tf = preprocessing.tf
  for i in range(20):
    seed = tf.constant([i, i + 7], tf.int64)
    window = preprocessing.random_crop_window(300, 400, seed)
    np.testing.assert_array_equal(window, crop_windows[i])


def test_an_image_too_long_to_crop_is_cropped_centrally(preprocessing):
  seed = preprocessing.tf.constant([0, 0], preprocessing.tf.int64)
  window = preprocessing.random_crop_window(10, 1000, seed)
  np.testing.assert_array_equal(window, [1, 496, 8, 8])


@pytest.mark.parametrize(
  ('height', 'width', 'window'),
  [
    (256, 256, [16, 16, 224, 224]),
    (375, 500, [24, 86, 328, 328]),
    (500, 375, [86, 24, 328, 328]),
    (1, 1, [0, 0, 1, 1]),
  ],
)
def test_evaluation_crop(preprocessing, height, width, window):
  np.testing.assert_array_equal(
    preprocessing.centre_crop_window(height, width), window
  )


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_operations_agree_eager_and_in_a_pipeline(preprocessing, interpolation):
  tf = preprocessing.tf
  encoded = fake_imagenet.random_jpeg(np.random.default_rng(0), 60, 80)
  scale, offset = np.float32([0.01, 0.02, 0.03]), np.float32([-1, 0, 1])

  def chain(seed):
    image = preprocessing.decode_window(
      encoded,
      True,
      3,
      lambda height, width: preprocessing.random_crop_window(
        height, width, seed
      ),
    )
    image = preprocessing.resize(image, 32, interpolation)
    image = tf.ensure_shape(image, [32, 32, 3])
    image = preprocessing.pad_and_crop(image, 3, seed)
    image = preprocessing.random_flip(image, seed)
    return preprocessing.normalize(image, scale, offset, 'float32')

  seeds = np.arange(16).reshape(8, 2)
  piped = tf.data.Dataset.from_tensor_slices(seeds).map(chain)
  for seed, image in zip(seeds, piped.as_numpy_iterator(), strict=True):
    np.testing.assert_allclose(
      chain(tf.constant(seed)), image, rtol=0, atol=1e-5
    )


def test_a_window_of_any_format_is_the_part_of_the_whole(preprocessing):
  tf = preprocessing.tf
  jpeg = fake_imagenet.random_jpeg(np.random.default_rng(0), 48, 64)
  whole = preprocessing.decode(jpeg, 3)
  png = tf.io.encode_png(whole)
  window = [8, 16, 24, 32]
  for encoded, is_jpeg in ((jpeg, True), (png, False)):
    part = preprocessing.decode_window(
      encoded, is_jpeg, 3, lambda *_: tf.constant(window)
    )
    # At its edge a part of a JPEG lacks the neighbours that colour, which is
    # stored at half the size, is interpolated from.
    inside = np.s_[1:-1, 1:-1]
    np.testing.assert_array_equal(part[inside], whole[8:32, 16:48][inside])


def test_resizing_to_the_same_size_changes_nothing(preprocessing):
  image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
  for interpolation in datasets.INTERPOLATIONS:
    resized = preprocessing.resize(image, 9, interpolation)
    np.testing.assert_array_equal(preprocessing.to_pixels(resized), image)


def test_overshoot_is_clipped(preprocessing):
  pixels = preprocessing.to_pixels(np.float32([[-3.2, 255.6], [0.4, 254.6]]))
  np.testing.assert_array_equal(pixels, [[0, 255], [0, 255]])


def test_small_images_are_augmented_from_records_too(digits):
  config = changed(digits, cache=False, augment='crop_flip', shuffle_buffer=99)
  plain = changed(config, augment='none')
  (batch,), (same,) = train(config, 1), train(plain, 1)
  np.testing.assert_array_equal(batch['label'], same['label'])
  assert not same_images(batch, same)
  # Cropping moves pixels and brings black in, but makes up no others.
  black = np.float32((0 - config.mean[0]) / config.std[0])
  for image, original in zip(batch['image'], same['image'], strict=True):
    extra = np.setdiff1d(image, original)
    np.testing.assert_allclose(extra, black, rtol=1e-5)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_normalisation(digits, dtype):
  config = changed(digits, mean=(0.5, 0.25, 0.0), std=(0.5,))
  pixels = np.array([[[[0, 51, 255]]]], np.uint8)
  result = augmentation.normalize(pixels, config, dtype)
  assert result.dtype == jnp.dtype(dtype)
  np.testing.assert_allclose(
    result.astype(np.float32), [[[[-1, -0.1, 2]]]], atol=1e-3
  )


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
    ({'mean': (0.1, 0.2)}, 'dataset.mean=(0.1, 0.2)'),
    ({'std': (0.0,)}, 'dataset.std=(0.0,)'),
    ({'image_size': -1}, 'dataset.image_size=-1'),
  ],
)
def test_a_wrong_configuration_is_refused_at_once(digits, changes, expected):
  config = changed(digits, **changes)
  assert expected in error_line(train, config, 0)
  assert expected in error_line(evaluate, config, 8)


def test_batches_that_cannot_be_shared_out(digits):
  message = error_line(train, digits, 0, process_index=0, process_count=3)
  assert 'batch_size=20' in message
  placed = input_pipeline.prefetch_to_devices(
    [{'label': np.zeros(3)}], jax.devices()[:2]
  )
  assert 'batch_size' in error_line(next, placed)
  assert 'batch_size=99' in error_line(
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
  assert "dataset.name='imagenet2012'" in message
