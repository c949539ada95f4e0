"""The notebooks run from top to bottom, with settings that take seconds."""

import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

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


@pytest.mark.parametrize(
  'path', sorted((ROOT / 'notebooks').glob('*.ipynb')), ids=lambda p: p.stem
)
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
