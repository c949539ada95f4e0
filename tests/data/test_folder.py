"""Folders of pictures as a data set: prepared once, read like any other."""

from __future__ import annotations

import itertools
import pathlib
import shutil
import subprocess
import sys

import fake_photos
import numpy as np
import pytest
import tiny_run
from fake_folder import (
  config_of,
  error_line,
  members,
  photo,
  photos,
  put,
  table,
)

from spnas_jax.core.errors import UserError
from spnas_jax.data import (
  class_counts,
  datasets,
  folder_builder,
  folder_listing,
  folder_names,
  folder_report,
  input_pipeline,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def looked_at_anew(monkeypatch):
  folder_names.forget()
  monkeypatch.setattr(folder_report, '_told', set())


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """40 cats and 20 dogs, prepared; not to be changed."""
  root = photos(tmp_path_factory.mktemp('own') / 'pets', cat=40, dog=20)
  datasets.open_builder(config_of(root))
  return root


# --- layouts ------------------------------------------------------------------


def test_a_folder_for_each_class_is_split(prepared):
  config = config_of(prepared)
  found = members(config)
  assert list(found) == ['train', 'validation', 'test']
  everything = [name for names in found.values() for name in names]
  assert len(everything) == len(set(everything)) == 60
  info = datasets.info(config)
  assert info.label_names == ('cat', 'dog')
  for split, names in found.items():
    assert info.num_examples(split) == len(names)
    assert {name.partition('/')[0] for name in names} == {'cat', 'dog'}
  assert info.channels == 3
  assert info.name == f'pets_{folder_names.fingerprint(config)}'


@pytest.mark.parametrize('layout', ['splits', 'table'])
def test_splits_that_are_given_are_kept(tmp_path, layout):
  root = tmp_path / 'pets'
  lines = ['filename,label,split']
  for i, split in enumerate(['train'] * 12 + ['val'] * 3 + ['test'] * 3):
    label = ['cat', 'dog', 'emu'][i % 3]
    name = f'{split}/{label}/{i}.jpg'
    put(root / name, photo(label, i))
    lines.append(f'{name},{label},{split}')
  place = table(root, *lines) if layout == 'table' else root
  config = config_of(root)
  config.folder = str(place)
  for split, names in members(config).items():
    folder = 'val' if split == 'validation' else split
    assert {name.partition('/')[0] for name in names} == {folder}
  info = datasets.info(config)
  assert (info.num_train, info.num_validation, info.num_test) == (12, 3, 3)
  assert datasets.folder_report(config)['layout'] == layout


def test_what_is_missing_is_taken_from_train(tmp_path):
  root = photos(tmp_path / 'pets' / 'train', cat=20, dog=20).parent
  photos(root / 'val', dog=3)
  found = members(config_of(root, test_fraction=0.5))
  assert found['validation'] == {f'val/dog/{i}.jpg' for i in range(3)}
  assert 8 <= len(found['test']) <= 32
  assert all(n.startswith('train/') for n in found['train'] | found['test'])
  folder_names.forget()
  # Without a test part validation is what is scored, as of any data set.
  config = config_of(root, test_fraction=0.0)
  info = datasets.info(config)
  assert (info.num_train, info.num_validation, info.num_test) == (40, 0, 3)


# --- preparing ----------------------------------------------------------------


def test_what_is_prepared_is_not_read_again(prepared, monkeypatch):
  monkeypatch.setattr(
    folder_builder, 'examine', lambda config: pytest.fail('it is read again')
  )
  monkeypatch.setattr(
    folder_builder, '_read', lambda *args: pytest.fail('it is read again')
  )
  assert datasets.info(config_of(prepared)).num_classes == 2


def test_added_pictures_make_another_data_set_and_move_no_other(tmp_path):
  root = photos(tmp_path / 'pets', cat=30, dog=30)
  config = config_of(root)
  before, old = members(config), datasets.info(config)
  images, _ = input_pipeline.test_images(config, 999)
  photos(root, cat=45, emu=5)
  # A run goes on with what it began with.
  assert datasets.info(config) == old
  folder_names.forget()
  after, new = members(config), datasets.info(config)
  assert new.name != old.name
  assert new.label_names == ('cat', 'dog', 'emu')
  for split in before:
    assert before[split] <= after[split]
  assert sum(map(len, after.values())) == 80
  # Nor does what is kept in memory of the one stand in for the other.
  assert len(input_pipeline.test_images(config, 999)[0]) > len(images)


def test_an_interrupted_preparation_leaves_nothing(tmp_path, monkeypatch):
  root = photos(tmp_path / 'pets', cat=6, dog=6)
  config = config_of(root)
  stored = folder_builder.folder_images.stored
  done = []

  def interrupt(*args):
    done.append(1)
    if len(done) == 5:
      raise KeyboardInterrupt
    return stored(*args)

  monkeypatch.setattr(folder_builder.folder_images, 'stored', interrupt)
  with pytest.raises(KeyboardInterrupt):
    datasets.open_builder(config)
  # Nor would what a killed process leaves be taken for a data set.
  name = folder_names.set_name(config)
  left = tmp_path / 'data' / name / '1.0.0.incomplete.X'
  left.mkdir(parents=True, exist_ok=True)
  put(left / 'metadata.json', b'{}')
  monkeypatch.setattr(folder_builder.folder_images, 'stored', stored)
  assert sum(map(len, members(config).values())) == 12


def test_a_picture_that_changes_meanwhile_is_named(tmp_path, monkeypatch):
  root = photos(tmp_path / 'pets', cat=6, dog=6)
  examine = folder_builder.examine

  def slowly(config):
    examined = examine(config)
    put(root / 'dog' / '3.jpg', photo('dog', 99))
    return examined

  monkeypatch.setattr(folder_builder, 'examine', slowly)
  message = error_line(datasets.open_builder, config_of(root))
  assert 'dog/3.jpg was changed while the folder was being read' in message


def test_two_processes_prepare_one_data_set(tmp_path):
  root = photos(tmp_path / 'pets', cat=6, dog=6)
  code = f"""
from spnas_jax.data import datasets
config = datasets.default_config()
config.update(folder={str(root)!r}, data_dir={str(tmp_path / 'data')!r})
print(datasets.info(config).name)
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
  results = [p.communicate(timeout=tiny_run.PATIENCE) for p in processes]
  assert [err for _, err in results] == ['', '']
  (name,) = {out.split()[-1] for out, _ in results}
  assert sum('this is done once' in out for out, _ in results) == 1
  assert [p.name for p in (tmp_path / 'data').glob('pets*')] == [name]
  assert [p.name for p in (tmp_path / 'data' / name).iterdir()] == ['1.0.0']


def test_without_its_pictures_it_is_used_by_name(prepared, tmp_path):
  shutil.copytree(prepared.parent / 'data', tmp_path / 'data')
  here = datasets.info(config_of(prepared))
  config = config_of(tmp_path / 'pets')
  message = error_line(datasets.info, config)
  assert f'{str(tmp_path / "pets")!r}: not there' in message
  assert f'dataset.folder= and dataset.name={here.name}' in message
  config.update(folder='', name=here.name)
  assert datasets.info(config) == here
  assert len(members(config)['validation']) == here.num_validation
  assert datasets.folder_report(config)['label_names'] == ('cat', 'dog')
  config.holdout = 0.1
  assert 'of its own' in error_line(datasets.info, config)


def test_a_bucket_is_prepared_as_a_folder_is(prepared, tmp_path, monkeypatch):
  for module in (folder_listing, folder_builder):
    monkeypatch.setattr(module, 'is_remote', lambda path: True)
  config = config_of(prepared, data_dir=str(tmp_path / 'data'))
  there = members(config)
  monkeypatch.undo()
  folder_names.forget()
  assert there == members(config_of(prepared))


def test_a_grey_set_has_one_channel(tmp_path):
  root = tmp_path / 'pets'
  for i in range(12):
    pixels = np.full((8, 8), 20 * i, np.uint8)
    kind = ['JPEG', 'PNG', 'TIFF'][i % 3]
    put(root / 'ab'[i % 2] / f'{i}.x', fake_photos.encode(pixels, kind))
  config = config_of(root, mean=(0.0,), std=(1.0,))
  assert datasets.info(config).channels == 1
  for split in ('train', 'validation', 'test'):
    for batch in input_pipeline.eval_batches(
      config, batch_size=2, split=split, dtype='uint8'
    ):
      assert batch['image'].shape == (2, 8, 8, 1)
      for image, label in zip(batch['image'], batch['label'], strict=True):
        assert round(int(image[0, 0, 0]) / 20) % 2 == label or not image.any()


# --- reading ------------------------------------------------------------------


def test_statistics_are_the_folders_own(prepared):
  """Not those of digits, which `dataset.name` says by default."""
  config = config_of(prepared, mean=(), std=())
  assert config.name == 'digits'
  with pytest.raises(UserError, match='is unset and not known'):
    datasets.pixel_statistics.statistics(config)
  input_pipeline.fill_statistics(config)
  assert len(config.mean) == 3
  assert config.mean[0] > config.mean[1] > config.mean[2]


@pytest.mark.parametrize('cache', [True, False])
@pytest.mark.parametrize('split', ['train', 'validation'])
def test_a_resumed_run_sees_the_same(prepared, cache, split):
  config = config_of(prepared, cache=cache)
  size = 4 if split == 'train' else 2

  def batches(start, count):
    stream = input_pipeline.train_batches(
      config, batch_size=size, seed=3, start_step=start, split=split
    )
    return list(itertools.islice(stream, count))

  whole = batches(0, 14)
  # Into the second epoch.
  for start in (5, 12):
    for one, other in zip(batches(start, 2), whole[start:], strict=False):
      np.testing.assert_array_equal(one['image'], other['image'])
      np.testing.assert_array_equal(one['label'], other['label'])


def test_two_processes_share_the_batches_of_one(prepared):
  config = config_of(prepared)

  def stream(**process):
    return input_pipeline.train_batches(
      config, batch_size=8, seed=0, split='train', **process
    )

  parts = [stream(process_index=i, process_count=2) for i in range(2)]
  for whole, *halves in itertools.islice(zip(stream(), *parts, strict=True), 9):
    np.testing.assert_array_equal(
      whole['image'], np.concatenate([half['image'] for half in halves])
    )


def test_every_validation_image_is_scored_once(prepared):
  config = config_of(prepared)
  batches = input_pipeline.eval_batches(
    config, batch_size=4, split='validation'
  )
  scored = sum(batch['mask'].sum() for batch in batches)
  assert scored == datasets.info(config).num_validation > 0


def test_images_of_each_class_are_counted(prepared):
  config = config_of(prepared)
  counts = class_counts.class_counts(config)
  names = members(config)['train']
  assert counts.tolist() == [
    sum(name.startswith(label) for name in names) for label in ('cat', 'dog')
  ]
  config.train_examples = 9
  few = class_counts.class_counts(config)
  images = input_pipeline.train_batches(config, batch_size=9, seed=0)
  labels = next(images)['label']
  assert few.tolist() == np.bincount(labels, minlength=2).tolist()
