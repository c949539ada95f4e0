"""Executes the notebooks and keeps what they show: `make notebooks`.

  python -m tests.execute_notebooks             # all of them
  python -m tests.execute_notebooks quickstart

Those that time models run alone, the others two at a time. What differs between
two runs without being a result is taken out: times of execution, what goes to
stderr (progress, warnings of libraries), where this checkout lies.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import pathlib
import shutil
import subprocess
import sys
import time
import tomllib

import nbformat
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / 'notebooks'
PATHS = sorted(FOLDER.glob('*.ipynb'))
# Other work would be in the times that they show.
ALONE = ('latency', 'quickstart')
_COLAB = 'https://colab.research.google.com'


def address() -> str:
  """The project's public address, '' while pyproject.toml names none."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  return project.get('urls', {}).get('Repository', '')


def badge(name: str, repository: str) -> str:
  """The badge of a notebook: opens it in Colab, or Colab to upload it to."""
  place = _COLAB
  if repository:
    branch = repository.removeprefix('https://github.com/') + '/blob/main'
    place += f'/github/{branch}/notebooks/{name}.ipynb'
  return f'[![Open in Colab]({_COLAB}/assets/colab-badge.svg)]({place})'


def install_line(repository: str) -> str:
  """The line of the first cell that says where the project is."""
  return f"REPOSITORY = '{repository}'  # As in pyproject.toml."


def stamp(notebook, name: str, repository: str) -> None:
  """Puts the address into the badge and the first cell of code."""
  title, install = notebook.cells[:2]
  for cell, start, line in (
    (title, '[![', badge(name, repository)),
    (install, 'REPOSITORY = ', install_line(repository)),
  ):
    lines = cell.source.split('\n')
    (i,) = (i for i, old in enumerate(lines) if old.startswith(start))
    lines[i] = line
    cell.source = '\n'.join(lines)


def execute(notebook, seconds: int = 900) -> None:
  """Runs all cells, in the folder of the notebooks; outputs are in place.

  Args:
    notebook: from `nbformat.read`.
    seconds: longest time of a cell.

  Raises:
    nbclient.exceptions.CellExecutionError: a cell failed.
  """
  NotebookClient(
    notebook,
    timeout=seconds,
    kernel_name='python3',
    record_timing=False,
    resources={'metadata': {'path': str(FOLDER)}},
  ).execute()


def tidy(notebook) -> None:
  """Keeps results only, so that two runs differ in little else."""
  notebook.metadata = nbformat.from_dict(
    {
      'kernelspec': {
        'display_name': 'Python 3',
        'language': 'python',
        'name': 'python3',
      },
      'language_info': {'name': 'python'},
    }
  )
  for number, cell in enumerate(notebook.cells):
    cell.id = f'cell-{number:02d}'
    tags = cell.metadata.get('tags')
    cell.metadata = nbformat.from_dict({'tags': tags} if tags else {})
    if cell.cell_type == 'code':
      cell.outputs = _results(cell.outputs)


def _results(outputs):
  """Outputs without warnings and progress; what was printed in a row as one."""
  kept: list = []
  for output in outputs:
    if output.output_type == 'stream':
      if output.name == 'stderr':
        continue
      text = output.text.replace(f'{FOLDER}/', '').replace(f'{ROOT}/', '')
      if kept and kept[-1].output_type == 'stream':
        kept[-1].text += text
        continue
      output.text = text
    elif 'image/png' in output.get('data', {}):
      output.data.pop('text/plain', None)  # Names an address in memory.
    kept.append(output)
  return kept


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  names = [path.stem for path in PATHS]
  parser.add_argument('names', nargs='*', default=names, help=', '.join(names))
  chosen = parser.parse_args().names
  if len(chosen) == 1:
    renew(*chosen)
    return
  for name in chosen:
    if name in ALONE:
      start_process(name)
  others = [name for name in chosen if name not in ALONE]
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    list(pool.map(start_process, others))


def start_process(name: str) -> None:
  """A process of its own for one notebook, waited for."""
  command = [sys.executable, '-m', 'tests.execute_notebooks', name]
  subprocess.run(command, cwd=ROOT, check=True)


def renew(name: str) -> None:
  """Executes a notebook and writes it with what it showed."""
  path, start = FOLDER / f'{name}.ipynb', time.monotonic()
  notebook = nbformat.read(path, as_version=4)
  stamp(notebook, name, address())
  # Stages that an earlier call finished would print nothing.
  shutil.rmtree(FOLDER / 'runs' / name, ignore_errors=True)
  execute(notebook)
  tidy(notebook)
  nbformat.write(notebook, path)
  kilobytes = path.stat().st_size / 1000
  seconds = time.monotonic() - start
  print(f'{name}: {seconds:.0f} s, {kilobytes:.0f} kB', flush=True)


if __name__ == '__main__':
  main()
