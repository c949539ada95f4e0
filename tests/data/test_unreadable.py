"""Images that cannot be read: named, left out, and never a different run."""

from __future__ import annotations

import itertools

import fake_photos
import numpy as np
import pytest

from spnas_jax.core.errors import UserError
from spnas_jax.data import datasets, input_pipeline

NUM_TRAIN, NUM_TEST = 24, 12
# Of the files as they are written; tfds stores them in an order of its own.
BAD_TRAIN, BAD_TEST = (3, 11), (5,)
ROUTES = ('cached', 'records', 'window')


def damaged(files, indices):
  """The same files, some cut off, one a text."""
  files = list(files)
  for i in indices:
    files[i] = files[i][: len(files[i]) // 2]
  return files


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """'whole' and the same with some damaged files, 'holes'."""
  folder = tmp_path_factory.mktemp('sets')
  files = [
    fake_photos.encode(p)
    for p in fake_photos.coloured(NUM_TRAIN + NUM_TEST, seed=1)
  ]
  train, test = files[:NUM_TRAIN], files[NUM_TRAIN:]
  fake_photos.write(folder, {'train': train, 'test': test}, name='whole')
  fake_photos.write(
    folder,
    {'train': damaged(train, BAD_TRAIN), 'test': damaged(test, BAD_TEST)},
    name='holes',
  )
  return folder


@pytest.fixture(autouse=True)
def untold(monkeypatch):
  """Every test is told anew, and starts on the fast way."""
  from spnas_jax.data import cached_batches, unreadable

  monkeypatch.setattr(unreadable, '_told', set())
  cached_batches._read_split.cache_clear()


def make_config(folder, route, name='holes', **changes):
  config = datasets.default_config()
  config.update(name=name, data_dir=str(folder), image_size=16)
  config.update(mean=(0.5,), std=(0.25,), shuffle_buffer=7)
  config.cache = route == 'cached'
  config.augment = 'inception' if route == 'window' else 'crop'
  config.update(changes)
  return config


def train(config, count, **kwargs):
  kwargs = {'batch_size': 8, 'seed': 0} | kwargs
  batches = input_pipeline.train_batches(config, **kwargs)
  return list(itertools.islice(batches, count))


def scored(config, **kwargs):
  """(images, labels) of the test images that count."""
  batches = list(
    input_pipeline.eval_batches(config, batch_size=4, dtype='uint8', **kwargs)
  )
  mask = np.concatenate([b['mask'] for b in batches]) > 0
  return tuple(
    np.concatenate([b[key] for b in batches])[mask]
    for key in ('image', 'label')
  )


def error_line(function, *args, **kwargs):
  with pytest.raises(UserError) as error:
    function(*args, **kwargs)
  message = str(error.value)
  assert '\n' not in message
  return message


def assert_equal(one, other):
  assert len(one) == len(other)
  for a, b in zip(one, other, strict=True):
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize('route', ROUTES)
def test_the_record_and_the_file_are_named(folder, route):
  config = make_config(folder, route)
  message = error_line(scored, config)
  for part in (
    "dataset.name is 'holes'",
    f'dataset.data_dir={str(folder)!r}',
    "'test'",
    'holes-test.tfrecord-00000-of-00001, record ',
    'file_name test_5',
    'JPEG',
    'dataset.max_unreadable',
    '0 of 12',
  ):
    assert part in message
  index = int(message.partition('record ')[2].partition(',')[0])
  builder = datasets.open_builder(config)
  decoders = {'image': _skip_decoding()}
  records = builder.as_dataset(split='test', decoders=decoders)
  name = list(records.as_numpy_iterator())[index]['file_name']
  assert name == b'test_5'
  message = error_line(train, config, 3)
  assert 'train_3' in message or 'train_11' in message


def _skip_decoding():
  import tensorflow_datasets as tfds

  return tfds.decode.SkipDecoding()


@pytest.mark.parametrize('content', [b'', b'x', b'no image at all' * 9])
def test_what_is_no_image_is_named_too(tmp_path, content):
  good = fake_photos.encode(fake_photos.coloured(1)[0])
  fake_photos.write(tmp_path, {'train': [good], 'test': [good, content]})
  for route in ROUTES:
    config = make_config(tmp_path, route, 'photos')
    assert 'file_name test_1' in error_line(scored, config)


@pytest.mark.parametrize('route', ROUTES)
def test_a_share_is_left_out_of_scores_and_told_of_once(folder, route, capsys):
  config = make_config(folder, route, max_unreadable=0.1)
  images, labels = scored(config)
  assert len(labels) == NUM_TEST - 1
  out = capsys.readouterr().out
  assert out.count('test_5') == 1
  assert out.count('1 of 12 images') == 1
  again, _ = scored(config)
  np.testing.assert_array_equal(images, again)
  assert capsys.readouterr().out == ''
  whole, _ = scored(make_config(folder, route, 'whole'))
  kept = {image.tobytes() for image in whole}
  assert all(image.tobytes() in kept for image in images)


@pytest.mark.parametrize('route', ROUTES)
def test_more_than_the_share_is_refused(folder, route):
  """Two of 24: 0.08 allows one, 0.084 both."""
  config = make_config(folder, route, max_unreadable=0.08)
  message = error_line(train, config, 3)
  assert 'and 1 before it' in message
  assert '1 of 24' in message
  assert len(train(make_config(folder, route, max_unreadable=0.084), 3)) == 3


@pytest.mark.parametrize('route', ['records', 'window'])
def test_only_what_cannot_be_read_changes(folder, route):
  """Every other image of a batch is, bit for bit, that of the whole data set;
  what is missing is another of the batch."""
  changed = 0
  batches = train(make_config(folder, route, max_unreadable=0.2), 6)
  whole = train(make_config(folder, route, 'whole'), 6)
  for batch, wanted in zip(batches, whole, strict=True):
    images = {image.tobytes() for image in batch['image']}
    assert len(images) < 9
    for i in range(8):
      if not np.array_equal(batch['image'][i], wanted['image'][i]):
        changed += 1
        others = [
          j
          for j in range(8)
          if np.array_equal(batch['image'][i], batch['image'][j]) and j != i
        ]
        assert batch['label'][i] == batch['label'][others[0]]
  # Two images, each once in both of the two epochs.
  assert changed == 4


@pytest.mark.parametrize(
  'route',
  ['cached', 'records', pytest.param('window', marks=pytest.mark.slow)],
)
def test_a_resumed_run_goes_on_with_the_very_images(folder, route):
  """From every step of two epochs, before and after it was told of."""
  from spnas_jax.data import unreadable

  config = make_config(folder, route, max_unreadable=0.2)
  whole = train(config, 6)
  for start in range(6):
    unreadable._told.clear()
    assert_equal(train(config, 6 - start, start_step=start), whole[start:])
  assert_equal(train(config, 6), whole)


def test_processes_share_the_same_batches_of_what_is_kept(folder):
  config = make_config(folder, 'cached', max_unreadable=0.2)
  whole = train(config, 4)
  parts = [train(config, 4, process_index=i, process_count=2) for i in range(2)]
  assert_equal(
    [
      {key: np.concatenate([a[key], b[key]]) for key in a}
      for a, b in zip(*parts, strict=True)
    ],
    whole,
  )


@pytest.mark.parametrize('route', ROUTES)
def test_processes_score_every_readable_image_once(folder, route):
  config = make_config(folder, route, max_unreadable=0.2)
  whole, _ = scored(config)
  parts = [
    scored(config, process_index=i, process_count=2)[0] for i in range(2)
  ]
  assert sorted(image.tobytes() for part in parts for image in part) == sorted(
    image.tobytes() for image in whole
  )


@pytest.mark.parametrize('route', ['records', 'window'])
def test_the_slower_way_gives_the_same_images_in_the_same_order(
  folder, route, monkeypatch
):
  config = make_config(folder, route, 'whole')
  fast = train(config, 5)
  from spnas_jax.data import unreadable

  monkeypatch.setattr(unreadable, '_told', {(str(folder), 'whole', 'train')})
  assert_equal(train(config, 5), fast)


def test_a_batch_of_nothing_readable_is_the_users_error(folder):
  config = make_config(folder, 'records', max_unreadable=0.2)
  message = error_line(train, config, 24, batch_size=1)
  assert 'none of the 1 images of a batch' in message


def test_cached_training_still_takes_the_steps_of_the_whole(folder):
  """24 images, 22 of them readable: three steps of 8 and every image seen."""
  config = make_config(folder, 'cached', max_unreadable=0.2, augment='none')
  assert datasets.info(config).steps_per_epoch(8) == 3
  epoch = train(config, 3)
  seen = [image.tobytes() for batch in epoch for image in batch['image']]
  assert (len(seen), len(set(seen))) == (24, 22)


@pytest.mark.parametrize('damage', ['cut', 'noise'])
def test_a_damaged_file_of_records_is_named(tmp_path, damage):
  """No share helps: where the next record begins is lost, too."""
  files = [fake_photos.encode(p) for p in fake_photos.coloured(8)]
  fake_photos.write(tmp_path, {'train': files, 'test': files})
  (path,) = tmp_path.glob('photos/*/*test*tfrecord*')
  data = path.read_bytes()
  path.write_bytes(
    data[:-40] if damage == 'cut' else data[:99] + b'#' * 99 + data[198:]
  )
  for route in ROUTES:
    config = make_config(tmp_path, route, 'photos', max_unreadable=0.9)
    message = error_line(scored, config)
    assert f'{str(path)!r} is damaged' in message
    assert 'prepare the data set again' in message


def test_decoding_is_traced_once_for_all_epochs_and_passes(folder):
  """TensorFlow takes a second for it, and an epoch makes its own pipeline."""
  from spnas_jax.data import record_batches

  config = make_config(folder, 'records', 'whole')
  train(config, 7)  # Three batches an epoch.
  scored(config)
  scored(config)
  builder = datasets.open_builder(config)
  for function, dtype in (
    (record_batches._augmented, 'float32'),
    (record_batches._plain, 'uint8'),
  ):
    reader = record_batches._ImageReader.of(config, builder, dtype)
    assert function(reader).experimental_get_tracing_count() == 1
