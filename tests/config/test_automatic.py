"""Settings that the pictures choose, and those that a user keeps."""

import numpy as np
import pytest
import tiny_run
from PIL import Image
from refusals import refused

import spnas_jax
from configs import image_folder
from spnas_jax import startup
from spnas_jax.config import automatic
from spnas_jax.config.defaults import default_config
from spnas_jax.data import datasets
from spnas_jax.data.folder_settings import settings


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Two classes of 20 grey pictures of 70 x 50 pixels."""
  root = tmp_path_factory.mktemp('pictures')
  rng = np.random.default_rng(0)
  for name in ('left', 'right'):
    (root / name).mkdir()
    for i in range(20):
      pixels = rng.integers(256, size=(50, 70), dtype=np.uint8)
      Image.fromarray(pixels).save(root / name / f'{i}.png')
  return root


def own(folder, tmp_path, **changes):
  config = image_folder.get_config()
  config.dataset.update(folder=str(folder), data_dir=str(tmp_path / 'data'))
  config.train.update(changes)
  return config


def test_unset_keys_are_chosen_and_said(folder, tmp_path, capsys):
  config, _ = startup.start(own(folder, tmp_path), str(tmp_path / 'run'))
  count = datasets.info(config.dataset).num_train
  chosen = settings(count, 2, 50.0, 70.0)
  for key, value in chosen.items():
    section, _, name = key.rpartition('.')
    assert config[section][name] == value, key
  said = capsys.readouterr().out
  assert f'settings for {count} training images of 70 x 50 pixels' in said
  assert f'train.epochs={chosen["train.epochs"]}' in said


def test_what_is_set_stays_and_is_not_said(folder, tmp_path, capsys):
  config = own(folder, tmp_path, epochs=3.0)
  config, _ = startup.start(config, str(tmp_path / 'run'))
  assert config.train.epochs == 3.0
  assert 'train.epochs' not in capsys.readouterr().out


def test_a_wrong_value_is_refused_before_the_pictures_are_read(
  tmp_path, capsys
):
  config = own(tmp_path / 'nowhere', tmp_path, epochs=-1.0)
  line = refused(lambda: startup.start(config, str(tmp_path / 'run')), capsys)
  assert 'train.epochs is -1.0' in line


def test_only_folders_choose(tmp_path, capsys):
  config = own('', tmp_path)
  config.dataset.name = 'digits'
  line = refused(lambda: startup.start(config, str(tmp_path / 'run')), capsys)
  assert 'dataset.image_size is None' in line and 'train.epochs' in line


def test_without_data_there_are_defaults_for_stages_that_read_none():
  config = automatic.fill(image_folder.get_config(), default_config())
  assert not automatic.unset(config)
  assert config.dataset.image_size == default_config().dataset.image_size


def test_a_run_leaves_the_callers_configuration_as_it_is(tmp_path):
  """It fills in what the data and the workdir say: the next run's differ."""
  config = tiny_run.config(latency_table='measure')
  before = config.to_json()
  spnas_jax.run('zoo', config, str(tmp_path))
  used, _ = startup.start(config, str(tmp_path))
  used.latency_table = 'own.json'
  assert config.to_json() == before
