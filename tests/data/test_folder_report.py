"""What is said of a folder of pictures, and what is refused."""

from __future__ import annotations

import hashlib
import json

import pytest
from fake_folder import (
  config_of,
  error_line,
  make_config,
  photo,
  photos,
  put,
  said,
)

from spnas_jax.data import datasets, folder_names, folder_report, folder_splits


@pytest.fixture(autouse=True)
def looked_at_anew(monkeypatch):
  folder_names.forget()
  monkeypatch.setattr(folder_report, '_told', set())


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  root = photos(tmp_path_factory.mktemp('own') / 'pets', cat=6, dog=6)
  datasets.open_builder(config_of(root))
  return root


# --- what is said -------------------------------------------------------------


def test_what_is_wrong_with_a_folder_is_said_once(tmp_path, capsys):
  root = photos(tmp_path / 'pets', cat=20, dog=2, emu=4)
  put(root / 'cat' / 'cut.jpg', photo('cat', 0)[:300])
  put(root / 'dog' / 'empty.png', b'')
  put(root / 'cat' / 'again.jpg', photo('cat', 7))
  put(root / 'emu' / 'cat.jpg', photo('cat', 8))
  put(root / 'cat' / 'notes.txt', b'of cats')
  put(root / 'cat' / '.DS_Store', b'')
  put(root / 'lonely.jpg', photo('emu', 9))
  (root / 'fox').mkdir()
  config = config_of(root, max_unreadable=0.1)
  datasets.info(config)
  lines = said(capsys)
  name = datasets.info(config).name
  report = folder_report.read(datasets.folder_report(config))
  counts = {
    n: [c[i] for c in report.counts.values()]
    for i, n in enumerate(report.label_names)
  }
  spelled = {n: '/'.join(map(str, c)) for n, c in counts.items()}
  train = {n: c[0] for n, c in counts.items()}
  order = sorted(train, key=lambda n: -train[n])
  assert lines == [
    f'reading {root}; this is done once',
    f'{root}: 3 classes, train {sum(train.values())}, validation '
    f'{sum(c[1] for c in counts.values())}, test '
    f'{sum(c[2] for c in counts.values())}; colour, 24 x 16 px (median)',
    'images a class (train/validation/test): '
    + ', '.join(f'{n} {spelled[n]}' for n in order),
    f'not balanced: cat has {train["cat"] / train["dog"]:.3g} times the '
    'training images of dog',
    'left out, as they cannot be read: 2 (cat/cut.jpg: '
    f'{report.unreadable[0][1]}, dog/empty.png: it is empty)',
    'equal files in more than one class: 1 (cat/8.jpg = emu/cat.jpg)',
    'equal files within a split: 2 (cat/7.jpg = cat/again.jpg, cat/8.jpg = '
    'emu/cat.jpg)',
    "no picture in 'validation' of 1 class: dog",
    'classes without a picture: fox',
    'files passed over: 1 hidden, 1 that are not pictures, 1 in no class '
    'folder',
    f'prepared as dataset.name={name} under dataset.data_dir={config.data_dir}',
  ]
  assert counts['dog'] == [1, 0, 1]
  assert sum(sum(c) for c in counts.values()) == 20 + 2 + 4 + 2
  # The same is beside the data, for who comes later.
  (beside,) = (tmp_path / 'data' / name).glob('*/metadata.json')
  kept = json.loads(beside.read_text())['folder_report']
  assert folder_report.read(kept) == report
  assert json.loads(json.dumps(report.to_dict())) == kept
  datasets.open_builder(config)
  assert said(capsys) == []
  # Another process, which finds it prepared.
  folder_report._told.clear()
  datasets.open_builder(config)
  assert said(capsys) == lines[1:]


def test_equal_files_in_train_and_test_are_named(tmp_path, capsys):
  root = photos(tmp_path / 'pets' / 'train', cat=9, dog=9).parent
  photos(root / 'test', cat=3, dog=1)
  datasets.open_builder(config_of(root, validation_fraction=0))
  (line,) = [line for line in said(capsys) if line.startswith('equal')]
  assert line == (
    'equal files in more than one split: 4 (test/cat/0.jpg = train/cat/0.jpg, '
    'test/cat/1.jpg = train/cat/1.jpg, test/cat/2.jpg = train/cat/2.jpg and 1 '
    'more); scores will be too good: remove them from one'
  )


def test_many_classes_are_summed_up():
  names = tuple(f'c{i}' for i in range(100))
  report = folder_report.FolderReport(
    *('x', 'classes', names, {'train': tuple(range(1, 101))}, 1, 28.0, 28.0),
    *(0, (), (), (), (), {'test': names}, (), 0, 0, 0),
  )
  lines = folder_report.lines(report)
  assert lines == [
    'x: 100 classes, train 5,050; grey, 28 x 28 px (median)',
    'images of the largest, the median and the smallest class (train): c99 '
    '100, c49 50, c0 1',
    'not balanced: c99 has 100 times the training images of c0',
    "no picture in 'test' of 100 classes: c0, c1, c2 and 97 more",
  ]


# --- refusals -----------------------------------------------------------------


def no_pictures(root):
  put(root / 'cat' / 'readme.txt', b'text')
  put(root / 'dog' / 'readme.txt', b'text')
  return 'no picture in it (2 files, 0 more in no class folder)'


def nothing_in_folders(root):
  put(root / '1.jpg', photo('cat', 1))
  return 'no picture in it (0 files, 1 more in no class folder)'


def one_class(root):
  photos(root, cat=5)
  return "'cat' is its only class with pictures; at least two are needed."


def one_class_with_pictures(root):
  photos(root, cat=5)
  put(root / 'dog' / 'readme.txt', b'text')
  return "'cat' is its only class with pictures"


def one_too_deep(root):
  photos(root / 'unpacked', cat=5, dog=5)
  return f"did you mean dataset.folder='{root}/unpacked'?"


def never_trained(root):
  photos(root / 'train', cat=5, dog=5)
  photos(root / 'test', cat=1, emu=2)
  return '1 class without a training image: emu; put some into train'


def never_trained_by_chance(root):
  """Its only picture is a cat's, too, and for test by its content."""
  photos(root, cat=9, dog=9)
  number = next(
    i
    for i in range(99)
    if folder_splits.place(hashlib.sha256(photo('cat', i)).hexdigest(), seed=0)
    < 0.2
  )
  for label in ('cat', 'emu'):
    put(root / label / 'same.jpg', photo('cat', number))
  return '1 class without a training image: emu'


def unreadable(root):
  photos(root, cat=5, dog=5)
  for i in range(5):
    put(root / 'cat' / f'bad{i}.jpg', b'')
  return (
    '5 of 15 pictures cannot be read (cat/bad0.jpg: it is empty, cat/bad1.jpg: '
    'it is empty, cat/bad2.jpg: it is empty and 2 more); put them right or '
    'remove them, or set dataset.max_unreadable to the share of images that '
    'may be left out (0.3 now: 4 of 15).'
  )


@pytest.mark.parametrize(
  'make',
  [
    no_pictures,
    nothing_in_folders,
    one_class,
    one_class_with_pictures,
    one_too_deep,
    never_trained,
    never_trained_by_chance,
    unreadable,
  ],
)
def test_what_cannot_be_learnt_from_is_refused(tmp_path, make):
  root = tmp_path / 'pets'
  words = make(root)
  config = config_of(root, max_unreadable=0.3)
  message = error_line(datasets.info, config)
  assert message.startswith(f'dataset.folder is {str(root)!r}: ')
  assert words in message
  assert not list((tmp_path / 'data').glob('pets*'))


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'test_fraction': 1.0}, 'dataset.test_fraction is 1.0, allowed: 0 to'),
    ({'validation_fraction': -0.1}, 'dataset.validation_fraction is -0.1'),
    (
      {'test_fraction': 0.5, 'validation_fraction': 0.5},
      'leave no training images',
    ),
    ({'split_seed': -1}, 'dataset.split_seed is -1'),
    ({'shrink_to': -1}, 'dataset.shrink_to is -1'),
    ({'test_holdout': 0.1}, 'dataset.test_fraction says how much'),
    ({'holdout': 0.1}, 'validation images of its own'),
    ({'test_split': 'dev'}, 'has train, validation, test. Name one'),
  ],
)
def test_keys_that_do_not_fit_are_refused(prepared, changes, words):
  assert words in error_line(datasets.info, config_of(prepared, **changes))


@pytest.mark.parametrize('place', ['s3://nowhere/x', 'foo://nowhere/x/l.csv'])
def test_a_bucket_that_cannot_be_reached_is_said(tmp_path, place):
  config = make_config(place, data_dir=str(tmp_path))
  assert f'dataset.folder is {place!r}' in error_line(datasets.info, config)


@pytest.mark.parametrize('inside', ['', '/prepared'])
def test_what_is_prepared_lies_outside_the_pictures(tmp_path, inside):
  root = photos(tmp_path / 'pets', cat=4, dog=4)
  config = config_of(root, data_dir=f'{root}{inside}')
  message = error_line(datasets.info, config)
  assert (
    f"dataset.data_dir is '{root}{inside}': inside dataset.folder" in message
  )
  beside = config_of(root, data_dir=f'{root}_prepared')
  assert datasets.info(beside).num_classes == 2


def test_a_folder_without_a_test_part_says_how_to_have_one(tmp_path):
  root = photos(tmp_path / 'pets', cat=4, dog=4)
  config = config_of(root, test_fraction=0, validation_fraction=0)
  assert 'dataset.test_fraction=0.1' in error_line(datasets.info, config)


def test_a_smaller_share_is_checked_of_what_is_prepared_too(tmp_path):
  root = photos(tmp_path / 'pets', cat=9, dog=9)
  put(root / 'dog' / 'bad.jpg', b'')
  datasets.info(config_of(root, max_unreadable=0.1))
  message = error_line(datasets.info, config_of(root))
  assert '1 of 19 pictures cannot be read (dog/bad.jpg: it is empty)' in message
