"""Image operations: crops, flips, resizing and normalising."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from spnas_jax.data import augmentation, datasets
from tests import fake_imagenet


def make_config(**changes):
  config = datasets.default_config()
  config.update(changes)
  return config


@pytest.fixture(scope='module')
def preprocessing():
  from spnas_jax.data import preprocessing

  return preprocessing


@pytest.fixture(scope='module')
def image_decoding():
  from spnas_jax.data import image_decoding

  return image_decoding


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


def test_the_plan_follows_the_configuration():
  plans = {
    augment: augmentation.plan_epoch(
      make_config(augment=augment, crop_padding=2), 1000, seed=3, epoch=2
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
def test_operations_agree_eager_and_in_a_pipeline(
  preprocessing, image_decoding, interpolation
):
  tf = preprocessing.tf
  encoded = fake_imagenet.random_jpeg(np.random.default_rng(0), 60, 80)
  scale, offset = np.float32([0.01, 0.02, 0.03]), np.float32([-1, 0, 1])

  def chain(seed):
    image = image_decoding.decode_window(
      encoded,
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


def test_a_window_of_any_format_is_the_part_of_the_whole(
  preprocessing, image_decoding
):
  tf = preprocessing.tf
  jpeg = fake_imagenet.random_jpeg(np.random.default_rng(0), 48, 64)
  whole = image_decoding.decode(jpeg, 3)
  png = tf.io.encode_png(whole)
  window = [8, 16, 24, 32]
  for encoded in (jpeg, png):
    part = image_decoding.decode_window(
      encoded, 3, lambda *_: tf.constant(window)
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


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_normalisation(dtype):
  config = make_config(mean=(0.5, 0.25, 0.0), std=(0.5,))
  pixels = np.array([[[[0, 51, 255]]]], np.uint8)
  result = augmentation.normalize(pixels, config, dtype)
  assert result.dtype == jnp.dtype(dtype)
  np.testing.assert_allclose(
    result.astype(np.float32), [[[[-1, -0.1, 2]]]], atol=1e-3
  )
