"""Which files a folder of pictures has, by name: layouts, tables, refusals."""

from __future__ import annotations

import os

import pytest
from fake_folder import error_line, make_config, table

from spnas_jax.data import datasets, folder_listing, folder_names
from spnas_jax.data.folder_words import natural_order, printable, some


@pytest.fixture(autouse=True)
def looked_at_anew():
  folder_names.forget()


def fill(root, *paths):
  """Writes a file of some bytes at each path."""
  for path in paths:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(path.encode())
  return root


def found(folder):
  """path -> (class, split)."""
  listing = folder_listing.list_folder(str(folder))
  return {f.path: (f.label, f.split) for f in listing.files}


# --- layouts ------------------------------------------------------------------


def test_class_folders_may_hold_folders(tmp_path):
  root = fill(tmp_path, 'cat/1.jpg', 'cat/deep/er/2.JPG', 'dog/noname')
  assert found(root) == {
    'cat/1.jpg': ('cat', ''),
    'cat/deep/er/2.JPG': ('cat', ''),
    'dog/noname': ('dog', ''),
  }
  listing = folder_listing.list_folder(str(root))
  assert listing.layout == 'classes'
  assert [f.meant for f in listing.files] == [True, True, False]


@pytest.mark.parametrize('validation', ['val', 'valid', 'validation', 'Val'])
def test_split_folders_of_the_usual_names(tmp_path, validation):
  root = fill(
    tmp_path, 'Train/cat/a/1.jpg', f'{validation}/cat/2.jpg', 'test/dog/3.jpg'
  )
  assert found(root) == {
    'Train/cat/a/1.jpg': ('cat', 'train'),
    f'{validation}/cat/2.jpg': ('cat', 'validation'),
    'test/dog/3.jpg': ('dog', 'test'),
  }


def test_a_class_may_be_called_train(tmp_path):
  root = fill(tmp_path, 'train/1.jpg', 'bus/2.jpg', 'car/3.jpg')
  assert {label for label, _ in found(root).values()} == {'train', 'bus', 'car'}


def test_notes_beside_splits_do_not_matter(tmp_path):
  root = fill(tmp_path, 'train/a/1.jpg', 'docs/read/me.txt', 'x.txt')
  assert found(root) == {'train/a/1.jpg': ('a', 'train')}
  assert folder_listing.list_folder(str(root)).outside == 2


@pytest.mark.parametrize(
  ('paths', 'words'),
  [
    (['train/a/1.jpg', 'bus/2.jpg'], ['splits (train) beside others (bus)']),
    (['val/a/1.jpg', 'test/a/2.jpg'], ['test, val, but no train']),
    (['train/1.jpg', 'test/2.jpg'], ['test, train itself', 'each class']),
    (
      ['train/a/1.jpg', 'val/a/2.jpg', 'valid/a/3.jpg'],
      ['train, val, valid name a split twice'],
    ),
  ],
)
def test_mixtures_are_refused(tmp_path, paths, words):
  message = error_line(found, fill(tmp_path, *paths))
  for word in (*words, repr(str(tmp_path)), 'DIR/SPLIT/CLASS/FILE'):
    assert word in message


def test_hidden_files_and_folders_are_counted_and_passed_over(tmp_path):
  root = fill(
    tmp_path,
    *('a/1.jpg', 'a/.DS_Store', 'a/Thumbs.db', '.ipynb_checkpoints/2.jpg'),
    *('__MACOSX/a/1.jpg', 'b/2.jpg', 'stray.jpg'),
  )
  listing = folder_listing.list_folder(str(root))
  assert list(found(root)) == ['a/1.jpg', 'b/2.jpg']
  assert (listing.hidden, listing.outside) == (4, 1)


def test_classes_are_in_the_order_people_count_in(tmp_path):
  names = ['class 10', 'class 2', 'Apple', 'banana', '3', '20']
  root = fill(tmp_path, *(f'{name}/1.jpg' for name in names))
  (root / 'empty').mkdir()
  assert folder_listing.list_folder(str(root)).label_names == (
    *('3', '20', 'Apple', 'banana', 'class 2', 'class 10', 'empty'),
  )
  assert sorted(['a1b', 'A1', 'a1'], key=natural_order) == ['A1', 'a1', 'a1b']


def test_an_accent_is_the_same_class_however_it_is_stored(tmp_path):
  root = fill(tmp_path, 'train/caf\u00e9/1.jpg', 'test/cafe\u0301/2.jpg')
  assert {label for label, _ in found(root).values()} == {'caf\u00e9'}


def test_links_are_followed_but_never_in_a_circle(tmp_path):
  root = fill(tmp_path / 'root', 'a/1.jpg', 'b/2.jpg')
  fill(tmp_path / 'other', '3.jpg')
  (root / 'c').symlink_to(tmp_path / 'other')
  (root / 'a' / 'up').symlink_to(root)
  (root / 'b' / 'gone.jpg').symlink_to(tmp_path / 'nothing')
  assert sorted(found(root)) == ['a/1.jpg', 'b/2.jpg', 'b/gone.jpg', 'c/3.jpg']


@pytest.mark.parametrize('name', ['', 'photos.csv'])
def test_what_is_not_there_is_said(tmp_path, name):
  place = tmp_path / 'nowhere' / name
  assert f'{str(place)!r}: not there' in error_line(found, place)


def test_a_file_is_no_folder(tmp_path):
  fill(tmp_path, 'a.zip')
  assert 'not a folder' in error_line(found, tmp_path / 'a.zip')


def test_a_folder_that_may_not_be_read_is_said(tmp_path, monkeypatch):
  def refuse(path):
    raise PermissionError(13, 'Permission denied', path)

  monkeypatch.setattr(os, 'scandir', refuse)
  message = error_line(found, tmp_path)
  assert 'cannot be read' in message
  assert 'Permission denied' in message


def test_a_bucket_is_read_like_a_folder(tmp_path, monkeypatch):
  """Without one: through the functions that read one, and to the second."""
  root = fill(tmp_path, 'train/a/1.jpg', 'train/b/.x', 'test/a/2.jpg', 'x.txt')
  (root / 'train' / 'b' / '3.jpg').write_bytes(b'')
  here = folder_listing.list_folder(str(root))
  folder_names.forget()
  monkeypatch.setattr(folder_listing, 'is_remote', lambda path: True)
  there = folder_listing.list_folder(f'{root}/')
  assert there.hidden == here.hidden == 1
  assert there.outside == here.outside == 1
  assert [(f.path, f.size, f.time) for f in there.files] == [
    (f.path, f.size, f.time // 10**9 * 10**9) for f in here.files
  ]
  listed = table(root, 'filename,label', 'x.txt,a', 'gone.jpg,a')
  assert 'gone.jpg' in error_line(folder_listing.list_folder, str(listed))


# --- tables -------------------------------------------------------------------


@pytest.mark.parametrize(
  'lines',
  [
    ['filename,label', 'in/1.jpg,cat', '2.jpg,"dog, wild"'],
    ['Label;FileName;note', ' cat ; in/1.jpg ;', 'dog, wild;2.jpg;x', ';;'],
    ['filename\tlabel', 'in\\1.jpg\tcat', '', '2.jpg\tdog, wild'],
    # A line twice is the same picture.
    ['filename,label', 'in/1.jpg,cat', 'in/1.jpg,cat', '2.jpg,"dog, wild"'],
  ],
)
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
def test_tables_as_programs_write_them(tmp_path, lines, encoding):
  root = fill(tmp_path, 'in/1.jpg', '2.jpg', '3.jpg')
  path = table(root, *lines, encoding=encoding)
  assert found(path) == {'in/1.jpg': ('cat', ''), '2.jpg': ('dog, wild', '')}


def test_a_table_may_name_splits(tmp_path):
  root = fill(tmp_path, '1.jpg', '2.jpg', '3.jpg')
  lines = ['1.jpg,a,train', '2.jpg,a,Val', '3.jpg,b,test']
  path = table(root, 'filename,label,split', *lines, name='T.CSV')
  assert [s for _, s in found(path).values()] == ['train', 'validation', 'test']


@pytest.mark.parametrize(
  ('lines', 'words'),
  [
    ([], 'no column filename and no label'),
    (['file,label', '1.jpg,a'], 'no column filename;'),
    (['filename,class', '1.jpg,a'], 'no column label;'),
    (['filename,label', '1.jpg,'], 'line 2 has no filename or no label'),
    (['label,filename', 'a'], 'line 2 has no filename or no label'),
    (['filename,label,split', '1.jpg,a,dev'], "split 'dev', allowed: train"),
    (['filename,label,split', '1.jpg,a'], "split '', allowed: train"),
    (
      ['filename,label', '1.jpg,a', '1.jpg,b'],
      "line 3 gives '1.jpg' another label",
    ),
    (
      ['filename,label', *(f'no{i}.jpg,a' for i in range(5)), '1.jpg,a'],
      '5 of 6 files that it names are not there: no0.jpg, no1.jpg, no2.jpg and '
      '2 more',
    ),
  ],
)
def test_a_wrong_table_is_refused_with_its_line(tmp_path, lines, words):
  path = table(fill(tmp_path, '1.jpg'), *lines)
  message = error_line(found, path)
  assert words in message
  assert str(path) in message
  assert 'filename,label,split' in message


def test_a_table_in_another_encoding_is_refused(tmp_path):
  path = table(tmp_path, 'filename,label', '1.jpg,é', encoding='latin-1')
  assert 'not in UTF-8' in error_line(found, path)


# --- names --------------------------------------------------------------------


@pytest.mark.parametrize(
  ('folder', 'slug'),
  [
    ('My photos (2)/', 'my_photos_2'),
    ('2024', 'folder_2024'),
    ('ÄÖ', 'folder'),
    ('x' * 99, 'x' * 40),
    ('flowers/labels.csv', 'flowers_labels'),
  ],
)
def test_a_data_set_is_called_like_its_folder(tmp_path, folder, slug):
  place = tmp_path / folder
  if folder.endswith('.csv'):
    fill(place.parent, '1.jpg')
    table(place.parent, 'filename,label', '1.jpg,a')
  else:
    fill(place, 'a/1.jpg')
  config = make_config(f'{tmp_path}/{folder}')
  name = folder_names.set_name(config)
  assert name == f'{slug}_{folder_names.fingerprint(config)}'
  assert folder_names.names_of(config.folder, ['x', name, f'{name}0']) == [name]


def test_without_a_folder_the_name_is_the_name():
  config = datasets.default_config()
  assert folder_names.set_name(config) == 'digits'
  assert folder_names.fingerprint(config) == ''


def test_every_change_of_a_folder_is_another_fingerprint(tmp_path):
  root = fill(tmp_path, 'a/1.jpg', 'a/2.jpg', 'b/3.jpg')
  seen = {folder_names.fingerprint(make_config(root))}

  def is_new(config):
    folder_names.forget()
    count = len(seen)
    seen.add(folder_names.fingerprint(config))
    return len(seen) == count + 1

  assert not is_new(make_config(root))
  assert not is_new(make_config(root, image_size=64, max_unreadable=0.5))
  # What is passed over changes nothing.
  fill(root, '.hidden', 'a/.DS_Store', 'notes.txt')
  assert not is_new(make_config(root))
  for key, value in (
    ('test_fraction', 0.3),
    ('validation_fraction', 0.2),
    ('split_seed', 1),
    ('shrink_to', 64),
  ):
    assert is_new(make_config(root, **{key: value}))
  os.utime(root / 'a' / '1.jpg', ns=(5, 5))
  assert is_new(make_config(root))
  (root / 'a' / '2.jpg').rename(root / 'b' / '2.jpg')
  assert is_new(make_config(root))
  fill(root, 'b/4.jpg')
  assert is_new(make_config(root))
  (root / 'b' / '4.jpg').write_bytes(b'longer than before')
  assert is_new(make_config(root))


def test_one_process_sees_one_state_until_it_looks_again(tmp_path):
  config = make_config(fill(tmp_path, 'a/1.jpg'))
  before = folder_names.fingerprint(config)
  fill(tmp_path, 'a/2.jpg')
  assert folder_names.fingerprint(config) == before
  folder_names.forget()
  assert folder_names.fingerprint(config) != before


def test_names_on_one_line_and_not_too_many():
  assert printable('a\nb\udce9') == 'a?b?'
  assert some(['a', 'b', 'c']) == 'a, b, c'
  assert some(map(str, range(9))) == '0, 1, 2 and 6 more'
