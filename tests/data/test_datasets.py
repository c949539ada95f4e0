"""Split facts, builders, and what is said when data are missing or damaged."""

from __future__ import annotations

import gzip
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny_run

from spnas_jax.core import tensorflow_setup
from spnas_jax.core.errors import UserError
from spnas_jax.data import builders as dataset_builders
from spnas_jax.data import datasets
from spnas_jax.data import store as dataset_store

ROOT = pathlib.Path(__file__).resolve().parents[2]


def make_config(data_dir, **changes):
  config = datasets.default_config()
  config.data_dir = str(data_dir)
  config.update(changes)
  return config


def read_labels(config, split):
  builder = datasets.open_builder(config)
  instruction = datasets.read_instruction(config, builder, split)
  records = builder.as_dataset(split=instruction).as_numpy_iterator()
  return np.array([record['label'] for record in records])


def error_line(function, *args):
  """Text of the UserError that a call raises; it must be a single line."""
  with pytest.raises(UserError) as error:
    function(*args)
  message = str(error.value)
  assert message and '\n' not in message
  return message


def idx_bytes(array):
  sizes = b''.join(size.to_bytes(4, 'big') for size in array.shape)
  return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture(scope='module')
def digits_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('digits')
  datasets.open_builder(make_config(folder))
  return folder


@pytest.fixture
def small_fashion(tmp_path, monkeypatch):
  """A folder with IDX files of 12 and 5 images, one of the four gzipped."""
  monkeypatch.setattr(
    dataset_builders.FashionMnist,
    'SPLITS',
    (('train', 'train', 12), ('test', 't10k', 5)),
  )
  folder = tmp_path / 'raw'
  folder.mkdir()
  random = np.random.default_rng(0)
  arrays = {}
  for prefix, count in (('train', 12), ('t10k', 5)):
    images = random.integers(0, 256, (count, 28, 28), np.uint8)
    labels = np.arange(count, dtype=np.uint8) % 10
    arrays[prefix] = images, labels
    (folder / f'{prefix}-images-idx3-ubyte').write_bytes(idx_bytes(images))
    (folder / f'{prefix}-labels-idx1-ubyte').write_bytes(idx_bytes(labels))
  plain = folder / 'train-images-idx3-ubyte'
  (folder / f'{plain.name}.gz').write_bytes(gzip.compress(plain.read_bytes()))
  plain.unlink()
  return folder, arrays


# Facts.


def test_known_facts_agree_with_what_is_written(tmp_path, digits_dir):
  known = datasets.info(make_config(tmp_path))
  assert not list(tmp_path.iterdir())
  assert known == datasets.info(make_config(digits_dir))
  assert (known.num_train, known.num_test) == (1437, 360)
  assert (known.num_classes, known.channels) == (10, 1)
  assert known.num_validation == 0


@pytest.mark.parametrize(
  ('name', 'facts'),
  [
    ('fashion_mnist', (60_000, 10_000, 10, 1, 10)),
    ('cifar10', (50_000, 10_000, 10, 3, 10)),
    ('imagenet2012', (1_281_167, 50_000, 1000, 3, 0)),
  ],
)
def test_facts_are_known_without_the_images(tmp_path, name, facts):
  info = datasets.info(make_config(tmp_path, name=name))
  assert facts == (
    info.num_train,
    info.num_test,
    info.num_classes,
    info.channels,
    len(info.label_names),
  )


def test_facts_of_what_is_not_there_need_no_tfds(tmp_path, monkeypatch):
  """The GPU benchmark ran on a machine without it."""
  monkeypatch.setattr(
    tensorflow_setup, 'load_tfds', lambda: pytest.fail('tfds was imported')
  )
  info = datasets.info(make_config(tmp_path, name='imagenet2012'))
  assert info.num_classes == 1000


def test_facts_need_no_tensorflow(digits_dir):
  code = f"""
import sys
from spnas_jax.data import datasets, input_pipeline
config = datasets.default_config()
config.data_dir = {str(digits_dir)!r}
assert datasets.info(config).num_train == 1437
assert 'tensorflow' not in sys.modules
"""
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


def test_limits_and_holdout(digits_dir):
  config = make_config(
    digits_dir, holdout=0.2, train_examples=100, test_examples=7
  )
  info = datasets.info(config)
  assert (info.num_train, info.num_validation, info.num_test) == (100, 287, 7)
  assert info.steps_per_epoch(30) == 3
  builder = datasets.open_builder(config)
  spelled = [
    datasets.read_instruction(config, builder, split)
    for split in ('train', 'validation', 'test')
  ]
  assert spelled == ['train[0:100]', 'train[1150:1437]', 'test[0:7]']


def test_validation_needs_a_holdout(digits_dir):
  info = datasets.info(make_config(digits_dir))
  assert 'dataset.holdout' in error_line(info.num_examples, 'validation')
  assert "split is 'dev'" in error_line(info.num_examples, 'dev')
  assert 'batch_size is 2000' in error_line(info.steps_per_epoch, 2000)


@pytest.mark.parametrize(
  ('key', 'value', 'allowed'),
  [
    ('augment', 'mixup', 'none, crop, crop_flip, inception'),
    ('augment', 'inception', 'dataset.cache=False'),
    ('interpolation', 'area', 'bilinear, bicubic'),
    ('image_size', 0, '1 or more'),
    ('crop_padding', -1, '0 or more'),
    ('train_examples', -5, '0 or more'),
    ('shuffle_buffer', 0, '1 or more'),
    ('holdout', 1.0, '0 to below 1'),
  ],
)
def test_a_wrong_key_is_named(tmp_path, key, value, allowed):
  message = error_line(datasets.info, make_config(tmp_path, **{key: value}))
  assert f'dataset.{key} is {value!r}' in message
  assert allowed in message


# Digits.


def test_digits_split_is_stratified_and_complete(digits_dir):
  from sklearn.datasets import load_digits

  config = make_config(digits_dir)
  test = np.bincount(read_labels(config, 'test'), minlength=10)
  train = np.bincount(read_labels(config, 'train'), minlength=10)
  whole = np.bincount(load_digits().target)
  np.testing.assert_array_equal(test + train, whole)
  assert (test.sum(), train.sum()) == (360, 1437)
  assert np.abs(test - whole / 5).max() < 1


def test_every_fifth_image_in_order_of_class_is_for_test():
  labels = np.array([1, 0, 0, 1, 0, 1, 1])
  mask = dataset_builders.digits_test_mask(labels)
  # In order: 1, 2, 4 (class 0), then 0, 3, 5, 6 (class 1).
  np.testing.assert_array_equal(np.flatnonzero(mask), [1, 5])


def test_digits_pixels_fill_the_byte_range(digits_dir):
  from sklearn.datasets import load_digits

  config = make_config(digits_dir)
  builder = datasets.open_builder(config)
  read = [
    record['image'].tobytes()
    for split in ('train', 'test')
    for record in builder.as_dataset(split=split).as_numpy_iterator()
  ]
  expected = np.rint(load_digits().images / 16 * 255).astype(np.uint8)
  assert expected.max() == 255
  assert sorted(read) == sorted(image.tobytes() for image in expected)


# Fashion-MNIST.


def test_fashion_mnist_from_idx_files(tmp_path, small_fashion):
  folder, arrays = small_fashion
  config = make_config(
    tmp_path / 'data', name='fashion_mnist', raw_dir=str(folder)
  )
  builder = datasets.open_builder(config)
  info = datasets.info(config)
  assert (info.num_train, info.num_test) == (12, 5)
  assert info.label_names[9] == 'Ankle boot'
  for split, prefix in (('train', 'train'), ('test', 't10k')):
    images, labels = arrays[prefix]
    label_of = {
      image.tobytes(): label
      for image, label in zip(images, labels, strict=True)
    }
    records = list(builder.as_dataset(split=split).as_numpy_iterator())
    assert len(records) == len(labels)
    for record in records:
      assert label_of[record['image'].tobytes()] == record['label']


def test_idx_files_beside_the_prepared_data_are_found(tmp_path, small_fashion):
  folder, _ = small_fashion
  shutil.copytree(folder, tmp_path / 'data')
  config = make_config(tmp_path / 'data', name='fashion_mnist')
  assert datasets.open_builder(config).info.splits['train'].num_examples == 12


def test_a_missing_idx_file_is_named(tmp_path, monkeypatch):
  config = make_config(
    tmp_path / 'data', name='fashion_mnist', raw_dir=str(tmp_path)
  )
  message = error_line(datasets.open_builder, config)
  assert 'train-images-idx3-ubyte' in message
  assert str(tmp_path) in message
  assert 'apt install dataset-fashion-mnist' in message
  assert 'dataset.raw_dir' in message
  monkeypatch.setattr(
    dataset_store, 'FASHION_MNIST_DIR', str(tmp_path / 'nowhere')
  )
  config.raw_dir = ''
  assert 'nowhere' in error_line(datasets.open_builder, config)


def test_an_idx_set_of_another_size_is_refused(tmp_path, small_fashion):
  folder, arrays = small_fashion
  images, _ = arrays['train']
  (folder / 'train-images-idx3-ubyte').write_bytes(idx_bytes(images[:9]))
  config = make_config(
    tmp_path / 'data', name='fashion_mnist', raw_dir=str(folder)
  )
  message = error_line(datasets.open_builder, config)
  assert '(9, 28, 28)' in message
  assert '(12, 28, 28)' in message


@pytest.mark.parametrize(
  ('data', 'problem'),
  [
    (b'', 'not an IDX file'),
    (b'\0\0\x0d\1\0\0\0\0', 'not an IDX file'),
    (idx_bytes(np.zeros((2, 3), np.uint8))[:-1], 'damaged'),
    (idx_bytes(np.zeros((2, 3), np.uint8))[:6], 'damaged'),
    (gzip.compress(b'x' * 100, mtime=0)[:-10], 'cannot be read'),
    (gzip.compress(b'x' * 100, mtime=0)[:12] + b'\xff' * 20, 'cannot be read'),
  ],
)
def test_a_damaged_idx_file_is_named(tmp_path, data, problem):
  path = tmp_path / 'file'
  path.write_bytes(data)
  message = error_line(dataset_builders.read_idx, path)
  assert str(path) in message
  assert problem in message


@pytest.mark.slow
@pytest.mark.skipif(
  not pathlib.Path(dataset_store.FASHION_MNIST_DIR).exists(),
  reason='needs the Debian package dataset-fashion-mnist',
)
def test_fashion_mnist_of_the_debian_package(tmp_path):
  config = make_config(tmp_path, name='fashion_mnist')
  known = datasets.info(config)
  datasets.open_builder(config)
  assert known == datasets.info(config)
  np.testing.assert_array_equal(
    np.bincount(read_labels(config, 'test')), np.full(10, 1000)
  )


@pytest.mark.skipif(
  not pathlib.Path(dataset_store.FASHION_MNIST_DIR).exists(),
  reason='needs the Debian package dataset-fashion-mnist',
)
def test_idx_files_of_the_debian_package():
  folder = pathlib.Path(dataset_store.FASHION_MNIST_DIR)
  images = dataset_builders.read_idx(folder / 't10k-images-idx3-ubyte.gz')
  labels = dataset_builders.read_idx(folder / 't10k-labels-idx1-ubyte.gz')
  assert images.shape == (10_000, 28, 28)
  np.testing.assert_array_equal(np.bincount(labels), np.full(10, 1000))


# Finding and preparing.


@pytest.mark.parametrize('name', ['imagenet2012', 'cifar10', 'mnist'])
def test_a_set_that_is_not_prepared(tmp_path, name):
  config = make_config(tmp_path, name=name)
  message = error_line(datasets.open_builder, config)
  assert f'dataset.name is {name!r}' in message
  assert f'dataset.data_dir={str(tmp_path)!r}' in message
  assert f'tfds.builder({name!r}, data_dir={str(tmp_path)!r})' in message
  assert not list(tmp_path.iterdir())


def test_an_unknown_set_has_no_facts(tmp_path):
  config = make_config(tmp_path, name='no_such_set')
  assert "dataset.name is 'no_such_set'" in error_line(datasets.info, config)


def test_damaged_metadata(tmp_path, digits_dir):
  shutil.copytree(digits_dir / 'digits', tmp_path / 'digits')
  config = make_config(tmp_path)
  metadata = tmp_path / 'digits' / '1.0.0' / 'dataset_info.json'
  metadata.write_text('{"name": "dig')
  message = error_line(datasets.info, config)
  assert str(tmp_path) in message
  assert 'delete it' in message


def test_half_a_data_set_is_not_taken_for_one(tmp_path):
  (tmp_path / 'digits' / '1.0.0').mkdir(parents=True)
  message = error_line(datasets.open_builder, make_config(tmp_path))
  assert 'delete it' in message


def test_a_folder_that_cannot_be_written_to(tmp_path):
  (tmp_path / 'file').write_text('')
  config = make_config(tmp_path / 'file')
  message = error_line(datasets.open_builder, config)
  assert 'dataset.data_dir' in message


def test_preparing_is_quiet(tmp_path, capfd):
  datasets.open_builder(make_config(tmp_path))
  captured = capfd.readouterr()
  assert captured.out == ''
  assert captured.err == ''


@pytest.mark.slow
def test_two_processes_prepare_at_once(tmp_path):
  code = f"""
from spnas_jax.data import datasets
config = datasets.default_config()
config.data_dir = {str(tmp_path)!r}
builder = datasets.open_builder(config)
print(sum(1 for _ in builder.as_dataset(split='test')))
"""
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', code],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for _ in range(2)
  ]
  for process in processes:
    out, err = process.communicate(timeout=tiny_run.PATIENCE)
    assert (process.returncode, out.strip(), err) == (0, '360', '')
  assert sorted(path.name for path in tmp_path.glob('digits/*')) == ['1.0.0']


def test_losing_the_race_without_a_lock(tmp_path, digits_dir, monkeypatch):
  """Where files cannot be locked, the slower process meets a full folder."""

  def write_too_late(config, label_names):
    shutil.copytree(digits_dir / 'digits', tmp_path / 'digits')
    raise OSError('Directory not empty')

  monkeypatch.setattr(dataset_store, '_write', write_too_late)
  builder = datasets.open_builder(make_config(tmp_path))
  assert builder.info.splits['train'].num_examples == 1437
