"""The notebooks run from top to bottom, with settings that take seconds."""

import ast
import pathlib
import tempfile

import nbformat
import pytest
from nbclient import NotebookClient

import spnas_jax
from spnas_jax.stage_runs import STAGES

ROOT = pathlib.Path(__file__).resolve().parent.parent

FAST = """
config.search.epochs = 2.0
config.search.warmup_epochs = 1.0
config.train.epochs = 1.0
config.build_table.rounds = 2
config.build_table.calibration_networks = 2
config.profile.rounds = 2
config.space.channels = (8, 16)
config.space.layers = (1, 2)
config.space.strides = (2, 2)
config.export.calibration_images = 16
"""


NOTEBOOKS = pytest.mark.parametrize(
  'path', sorted((ROOT / 'notebooks').glob('*.ipynb')), ids=lambda p: p.stem
)


@NOTEBOOKS
def test_what_a_notebook_names_is_there(path):
  """Names of the package, stages and keys of the configuration."""
  cells = nbformat.read(path, as_version=4).cells
  code = [c.source for c in cells if c.cell_type == 'code']
  nodes = [n for text in code for n in ast.walk(ast.parse(text))]
  names = [
    n.attr
    for n in nodes
    if isinstance(n, ast.Attribute) and ast.unparse(n.value) == 'spnas_jax'
  ]
  assert {'load_config', 'run'} <= {*names} <= {*spnas_jax.__all__}
  stages = [
    n.args[0].value
    for n in nodes
    if isinstance(n, ast.Call) and ast.unparse(n.func) == 'spnas_jax.run'
  ]
  assert stages and {*stages} <= {*STAGES}
  (settings,) = (text for text in code if 'load_config(' in text)
  # A configuration refuses keys that it does not have.
  exec(settings + FAST, {'spnas_jax': spnas_jax, 'tempfile': tempfile})


@pytest.mark.slow
@NOTEBOOKS
def test_notebook_runs(path):
  """A reader who presses "run all" gets to the end, pictures included."""
  notebook = nbformat.read(path, as_version=4)
  settings = [
    cell
    for cell in notebook.cells
    if 'settings' in cell.metadata.get('tags', [])
  ]
  assert len(settings) == 1
  settings[0].source += FAST
  client = NotebookClient(
    notebook,
    timeout=600,
    kernel_name='python3',
    resources={'metadata': {'path': str(ROOT / 'notebooks')}},
  )
  client.execute()
  shown = [
    output
    for cell in notebook.cells
    for output in cell.get('outputs', [])
    if 'image/png' in output.get('data', {})
  ]
  assert len(shown) >= 3
