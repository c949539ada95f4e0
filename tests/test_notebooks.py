"""The notebooks: what is committed is whole, and they run to their end."""

import ast
import base64
import importlib
import os
import re
import struct
import subprocess
import sys

import nbformat
import pytest

import spnas_jax
from spnas_jax.config import rules
from spnas_jax.config.defaults import default_config
from spnas_jax.stage_runs import STAGES
from tests.execute_notebooks import PATHS, address, execute, stamp

# Pictures that each shows at least.
PICTURES = {
  'latency': 5,
  'quickstart': 5,
  'search_dynamics': 6,
  'superkernels': 6,
  'tpu': 1,
}
# Appended to the settings, so that a notebook takes a minute. A folder of its
# own: what `make notebooks` left is finished.
SHORT = """
import tempfile
work = tempfile.mkdtemp()
"""
SEARCH_SHORT = """
config.search.update(epochs=2.0, warmup_epochs=1.0, batch_norm_batches=2)
"""
FAST = {
  'quickstart': SHORT
  + SEARCH_SHORT
  + """
photos, new_photos = f'{work}/photos', f'{work}/new'
config.dataset.update(folder=photos, data_dir=work)
config.train.epochs = 1.0
config.space.update(channels=(8, 16), layers=(1, 2), strides=(2, 2))
config.build_table.update(rounds=2, calibration_networks=2)
config.profile.rounds = 2
config.export.calibration_images = 16
""",
  'superkernels': """
config.space.update(channels=(16, 24, 32), layers=(2, 1, 1), strides=(2, 2, 1))
networks = 2
""",
  'latency': SHORT
  + """
config.space.update(channels=(8, 16), layers=(1, 2), strides=(2, 2))
config.build_table.update(rounds=2, calibration_networks=2)
config.validate_table.rounds = 2
unseen, fitted_to = 24, 20
""",
  'search_dynamics': SHORT
  + SEARCH_SHORT
  + """
config.space.layers = (2, 1, 1)
config.search.worth.update(networks=14, images=64)
""",
  'tpu': SHORT
  + """
topologies = ()
""",
}
MACHINE = re.compile(r'/(tmp|work|home|root|usr|opt|mnt)\b|site-packages')

NOTEBOOKS = pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)


def read(path):
  return nbformat.read(path, as_version=4)


def code_of(notebook):
  return [c for c in notebook.cells if c.cell_type == 'code']


def settings_of(notebook):
  (cell,) = (
    c for c in notebook.cells if 'settings' in c.metadata.get('tags', [])
  )
  return cell


def pictures_of(notebook):
  """PNG files that the outputs hold, as bytes."""
  return [
    base64.b64decode(output.data['image/png'])
    for cell in code_of(notebook)
    for output in cell.outputs
    if 'image/png' in output.get('data', {})
  ]


def test_every_notebook_is_known():
  assert {path.stem for path in PATHS} == PICTURES.keys() == FAST.keys()


@NOTEBOOKS
def test_committed_outputs_are_whole(path):
  """A reader who runs nothing sees everything, and nothing of the machine."""
  notebook = read(path)
  assert path.stat().st_size <= 500_000
  cells = code_of(notebook)
  assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
  for cell in cells:
    shows = re.search(r'^ *(print\(|display\(|plt\.show)', cell.source, re.M)
    assert cell.outputs or not shows, f'no output of {cell.source!r}'
    for output in cell.outputs:
      assert output.output_type != 'error'
      assert output.get('name') != 'stderr'
      text = str(output.get('text', output.get('data', {}).get('text/plain')))
      assert not MACHINE.search(text), text
  pictures = pictures_of(notebook)
  assert len(pictures) >= PICTURES[path.stem]
  for picture in pictures:
    width, height = struct.unpack('>II', picture[16:24])
    assert picture[:8] == b'\x89PNG\r\n\x1a\n'
    assert width >= 300 and height >= 100


@NOTEBOOKS
def test_metadata_does_not_change_between_runs(path):
  notebook = read(path)
  assert notebook.metadata.kernelspec.name == 'python3'
  assert notebook.metadata.keys() == {'kernelspec', 'language_info'}
  for cell in notebook.cells:
    assert cell.metadata.keys() <= {'tags'}


@NOTEBOOKS
def test_one_address(path):
  """Badge and first cell name the address that pyproject.toml names."""
  notebook, stamped = read(path), read(path)
  stamp(stamped, path.stem, address())
  assert [c.source for c in stamped.cells] == [c.source for c in notebook.cells]
  assert code_of(notebook)[0].source == code_of(read(PATHS[0]))[0].source


def test_badge_leads_to_the_notebook():
  notebook = read(PATHS[0])
  stamp(notebook, 'some', 'https://github.com/OWNER/NAME')
  title, install = (cell.source for cell in notebook.cells[:2])
  page = '/github/OWNER/NAME/blob/main/notebooks/some.ipynb)'
  assert page in title
  assert "REPOSITORY = 'https://github.com/OWNER/NAME'" in install


def test_first_cell_outside_a_checkout(tmp_path):
  """Without a wheel and an address it says what is needed; a wheel beside it is
  installed before anything else."""
  (tmp_path / 'cell.py').write_text(code_of(read(PATHS[0]))[0].source)
  start = (
    'import importlib.util, runpy, subprocess, sys\n'
    'importlib.util.find_spec = lambda name: None\n'
    'subprocess.run = lambda command, check: print(*command[1:])\n'
    "runpy.run_path('cell.py')"
  )

  def run_cell(**environment):
    return subprocess.run(
      [sys.executable, '-c', start],
      cwd=tmp_path,
      env={**os.environ, **environment},
      capture_output=True,
      text=True,
      check=False,
    )

  if not address():
    refused = run_cell()
    assert refused.returncode and 'SPNAS_JAX_REPOSITORY' in refused.stderr
  cloned = run_cell(SPNAS_JAX_REPOSITORY='https://example.org/x.git')
  assert cloned.stdout.split()[-1] == 'git+https://example.org/x.git'
  (tmp_path / 'spnas_jax-1-py3-none-any.whl').touch()
  wheel = run_cell(SPNAS_JAX_REPOSITORY='https://example.org/x.git')
  assert wheel.stdout.split()[-1] == 'spnas_jax-1-py3-none-any.whl'


@NOTEBOOKS
def test_what_a_notebook_names_is_there(path):
  """Names of the package, stages and keys of the configuration."""
  notebook, known = read(path), default_config()
  for cell in code_of(notebook):
    for node in ast.walk(ast.parse(cell.source)):
      if isinstance(node, ast.ImportFrom) and 'spnas_jax.' in node.module:
        module = importlib.import_module(node.module)
        assert all(hasattr(module, alias.name) for alias in node.names)
      elif isinstance(node, ast.Attribute):
        words = ast.unparse(node).split('.')
        if words[0] == 'spnas_jax' and len(words) == 2:
          assert words[1] in spnas_jax.__all__
      elif isinstance(node, ast.Call):
        _check_call(node, known)
  keys = _keys_that_are_set(notebook)
  for key in keys:
    rules.get(known, key)  # KeyError: there is no such key.
  assert keys or path.stem == 'superkernels'


def _check_call(node, known):
  name = ast.unparse(node.func)
  if name == 'spnas_jax.run':
    assert node.args[0].value in STAGES
  elif name == 'spnas_jax.load_config':
    spnas_jax.load_config(node.args[0].value)
    for keyword in node.keywords:
      rules.get(known, keyword.arg.replace('__', '.'))


def _keys_that_are_set(notebook):
  """'search.epochs' of `config.search.epochs = …`, of `config.search.update(
  epochs=…)` and of '--config.search.epochs=…'; copies of `config` too."""
  copies, keys = {'config'}, set()
  for cell in code_of(notebook):
    text = cell.source
    copies |= set(re.findall(r'(\w+) = config\.copy_and', text))
    keys |= set(re.findall(r'--config\.([\w.]+)=', text))
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.Assign):
        for target in node.targets:
          root, _, key = ast.unparse(target).partition('.')
          keys |= {key} if root in copies and key else set()
      elif isinstance(node, ast.Call):
        root, _, rest = ast.unparse(node.func).partition('.')
        if root in copies and rest.endswith('.update'):
          section = rest.removesuffix('.update')
          keys |= {f'{section}.{k.arg}' for k in node.keywords if k.arg}
  return keys


@pytest.mark.slow
@NOTEBOOKS
def test_notebook_runs(path):
  """A reader who presses "run all" gets to the end, pictures included."""
  notebook = read(path)
  settings_of(notebook).source += FAST[path.stem]
  execute(notebook)
  assert len(pictures_of(notebook)) >= PICTURES[path.stem]
