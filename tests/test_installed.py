"""What an installed package is: its surface, its files, its requirements."""

import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
import tiny_run

import spnas_jax
from spnas_jax.config.files import config_path, load_config, shipped_names
from spnas_jax.core.errors import UserError
from spnas_jax.latency.table import LatencyTable

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())


def test_importing_is_light():
  """No JAX and no TensorFlow until something is used."""
  code = (
    'import sys, spnas_jax; dir(spnas_jax); '
    "assert not {'jax', 'tensorflow', 'numpy'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


def test_every_public_name_is_there():
  for name in spnas_jax.__all__:
    assert getattr(spnas_jax, name) is not None
    assert name in dir(spnas_jax)
  with pytest.raises(AttributeError, match='no attribute'):
    spnas_jax.nothing  # noqa: B018


def test_every_room_is_packed():
  """A package that pyproject.toml forgets would be missing from the wheel."""
  rooms = {
    '.'.join(path.parent.relative_to(ROOT).parts)
    for path in (ROOT / 'spnas_jax').rglob('*.py')
  }
  shipped = {'spnas_jax.shipped.configs', 'spnas_jax.shipped.latency'}
  assert set(PROJECT['tool']['setuptools']['packages']) == rooms | shipped


def test_requirements_are_stated_once():
  """pyproject.toml reads them from the files that make uses."""
  dynamic = PROJECT['tool']['setuptools']['dynamic']
  assert dynamic['dependencies'] == {'file': ['requirements.txt']}
  assert 'dependencies' not in PROJECT['project']
  for file in (
    'requirements.txt',
    'requirements-dev.txt',
    'requirements-cuda.txt',
  ):
    for line in (ROOT / file).read_text().splitlines():
      if line and not line.startswith('#'):
        assert re.fullmatch(r'[\w.\[\]-]+[=<>][^#]+#.+', line), line


@pytest.mark.parametrize('name', ['digits', 'imagenet_search:official'])
def test_a_shipped_name_stands_for_its_path(name):
  path, _, variant = config_path(name).partition(':')
  assert pathlib.Path(path).is_file()
  assert variant == name.partition(':')[2]


def test_other_paths_are_left_alone():
  assert config_path('configs/digits.py') == 'configs/digits.py'
  assert set(shipped_names()) >= {'digits', 'imagenet_train', 'cifar10'}


def test_a_configuration_is_loaded_with_changes():
  config = load_config('digits', search__epochs=3.0, **{'train.epochs': 2.0})
  assert (config.search.epochs, config.train.epochs) == (3.0, 2.0)
  with pytest.raises(UserError, match=r'search\.epohcs is 3'):
    load_config('digits', search__epohcs=3.0)
  with pytest.raises(UserError, match='digits, fashion_mnist'):
    load_config('digts')


@pytest.mark.parametrize(
  'name', ['pixel1', 'latency/pixel1.json', 'pixel1.json']
)
def test_a_shipped_table_is_found_from_any_folder(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert LatencyTable.load(name).image_size == 224
  # A file of that name comes first.
  (tmp_path / 'pixel1').write_text('mine')
  if name == 'pixel1':
    with pytest.raises(UserError, match='not valid JSON'):
      LatencyTable.load(name)


def test_run_is_what_the_command_line_does(workdir, tmp_path):
  """It returns what results.json has, and leaves the folder free."""
  config = tiny_run.config()
  for _ in range(2):
    found = spnas_jax.run('search', config, str(workdir))
    assert tiny_run.results(workdir)['search'] == found
  rows = spnas_jax.run('zoo', config, str(tmp_path / 'new'))
  assert tiny_run.results(tmp_path / 'new')['zoo'] == rows
  with pytest.raises(UserError, match="--stage is 'serch'"):
    spnas_jax.run('serch', config, str(tmp_path))
