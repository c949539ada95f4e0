"""What chooses sees no test image: with wrong test labels it chooses alike."""

import numpy as np
import pytest
import tiny
import tiny_run
from PIL import Image
from sklearn.datasets import load_digits

from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir
from spnas_jax.data import input_pipeline
from spnas_jax.stages import search

CLASSES = 4
# Images of each class in every split; the digits begin with 178 zeros or so.
SPLITS = {'train': range(0, 16), 'val': range(16, 24), 'test': range(24, 32)}


def write(folder, shift):
  """Folders of digits; classes of test are off by `shift`."""
  digits = load_digits()
  for label in range(CLASSES):
    images = digits.images[digits.target == label]
    for split, numbers in SPLITS.items():
      said = (label + shift * (split == 'test')) % CLASSES
      place = folder / split / str(said)
      place.mkdir(parents=True, exist_ok=True)
      for i in numbers:
        pixels = (images[i] * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).save(place / f'{label}_{i}.png')
  return folder


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """(right labels, wrong test labels)."""
  root = tmp_path_factory.mktemp('pictures')
  return write(root / 'right', 0), write(root / 'wrong', 1)


def configured(folder, data_dir, method):
  config = tiny_run.config(search__method=method, search__epochs=2.0)
  config.dataset.update(folder=str(folder), data_dir=str(data_dir))
  config.dataset.update(train_examples=0, test_examples=0)
  config.search.evolution.update(population=4, generations=1, images=16)
  path = data_dir / 'table.json'
  path.write_text(tiny.table(make_space(config), 12).to_json())
  config.latency_table = str(path)
  return config


@pytest.mark.parametrize(
  'method', ['gradient', pytest.param('evolution', marks=pytest.mark.slow)]
)
def test_wrong_test_labels_change_no_choice(folders, tmp_path, method):
  results = []
  for name, folder in zip(('right', 'wrong'), folders, strict=True):
    config = configured(folder, tmp_path, method)
    results.append(search.run(config, Workdir(tmp_path / name)))
  right, wrong = results
  for key in ('architecture', 'raw_architecture', 'params_sha256'):
    assert right[key] == wrong[key], key
  # They are wrong indeed.
  assert right['supernet_cross_entropy'] != wrong['supernet_cross_entropy']
  if method == 'evolution':
    bred = right['evolution']
    assert bred['networks'] == wrong['evolution']['networks']
    assert bred['scored_on'].endswith('validation images')


def test_ranges_of_int8_come_from_training_images(folders, tmp_path):
  right, wrong = (configured(f, tmp_path, 'gradient') for f in folders)
  images = input_pipeline.calibration_images(right.dataset, 20, 0)
  others = input_pipeline.calibration_images(wrong.dataset, 20, 0)
  np.testing.assert_array_equal(images, others)
  train = {
    image.tobytes()
    for batch in input_pipeline.eval_batches(
      right.dataset, batch_size=16, split='train', dtype='uint8'
    )
    for image in batch['image']
  }
  assert all(image.tobytes() in train for image in images)
