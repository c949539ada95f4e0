"""The commands of the documentation, run as they are written, page by page.

In a copy of the repository with what the text speaks of: folders of pictures, a
phone. `python main.py` gets settings that make it short in front of those that
a page gives, so a page's own hold.
"""

import ast
import pathlib
import shutil
import subprocess
import sys

import doc_commands
import doc_pages
import fake_phone
import fake_photos
import numpy as np
import pytest
import tiny_run

from spnas_jax.config.files import load_config
from spnas_jax.config.spaces import make_space

SMALL = (
  'dataset.train_examples=192',
  'dataset.test_examples=48',
  'search.epochs=2',
  'search.warmup_epochs=1',
  'search.batch_norm_batches=2',
  'search.worth.networks=30',
  'search.worth.images=48',
  'train.epochs=6',  # More than a page freezes.
  'train.batch_norm_batches=2',
  'export.calibration_images=16',
  'export.check_images=16',
  'profile.rounds=2',
  'profile.runs_per_round=2',
  'profile.cooldown_seconds=0',
  'build_table.rounds=2',
  'build_table.runs_per_round=2',
  'build_table.calibration_networks=2',
  'validate_table.num_networks=2',
  'validate_table.rounds=2',
)
LEFT_OUT = {'.git', '.venv', '.cache', 'runs', 'data', 'build', 'tests'}
PAGES = sorted(
  {
    block.page
    for block in doc_commands.shell_blocks()
    if not doc_commands.not_run(block.text)
  }
)


@pytest.mark.slow
@pytest.mark.parametrize('page', PAGES)
def test_the_commands_of_a_page_run(page, tmp_path):
  blocks = [
    b
    for b in doc_pages.blocks(page)
    if b.language == 'sh' and not doc_commands.not_run(b.text)
  ]
  start = clone = make_clone(tmp_path / 'clone')
  if any('git clone' in b.text for b in blocks):
    start = tmp_path / 'start'
    start.mkdir()
  script = '\n'.join(
    f'echo "== {page}:{b.line}" | tee /dev/stderr\n{b.text}' for b in blocks
  )
  done = subprocess.run(
    [doc_commands.BASH, '-e', '-c', script],
    cwd=start,
    env=tiny_run.environment(
      devices=1,
      HOME=str(clone),
      PATH=f'{make_programs(tmp_path, clone)}:/usr/bin:/bin',
    ),
    capture_output=True,
    text=True,
    timeout=3600,
    check=False,
  )
  said = done.stdout + done.stderr
  assert done.returncode == 0, said[-6000:]
  # What runs in a loop or in the background does not end the script.
  assert 'error: ' not in said and 'Traceback' not in said, said[-6000:]


@pytest.mark.slow
@pytest.mark.parametrize('page', ['README.md', 'docs/python.md'])
def test_python_of_a_page_runs(page, tmp_path):
  """What it prints is not looked at; that its names and keys exist is."""
  (block,) = (b for b in doc_pages.blocks(page) if b.language == 'python')
  small = {
    key: ast.literal_eval(value)
    for key, _, value in (setting.partition('=') for setting in SMALL)
  }
  first = (
    'import functools, spnas_jax\n'
    'spnas_jax.load_config = functools.partial(\n'
    f'  spnas_jax.load_config, **{small})\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', first + block.text],
    cwd=make_clone(tmp_path / 'clone'),
    env=tiny_run.environment(devices=1),
    capture_output=True,
    text=True,
    timeout=3600,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-6000:]


def make_clone(folder: pathlib.Path) -> pathlib.Path:
  """The repository as the reader has it, with the things that pages name."""
  shutil.copytree(
    doc_pages.ROOT,
    folder,
    ignore=lambda where, names: (
      LEFT_OUT & {*names} if where == str(doc_pages.ROOT) else {'__pycache__'}
    ),
  )
  for name, classes in (
    ('photos', ('cat', 'dog', '3')),
    ('animals', ('cat', 'dog')),
    ('birds', ('owl', 'emu', 'tit')),
  ):
    for number, label in enumerate(classes):
      (folder / name / label).mkdir(parents=True)
      for i, pixels in enumerate(fake_photos.coloured(40, seed=number)):
        picture = fake_photos.encode(pixels)
        (folder / name / label / f'{i}.png').write_bytes(picture)
  shutil.copy(folder / 'photos' / 'cat' / '1.png', folder / 'new.jpg')
  (folder / 'rows.csv').write_text(timed_networks())
  # Where the tutorial says that benchmark_model is.
  (folder / 'android_aarch64_benchmark_model').write_text('a program')
  # As `make` leaves it, later than the requirements.
  programs = folder / '.venv' / 'bin'
  programs.mkdir(parents=True)
  for name in ('.run', '.dev', '.docs', 'bin/activate'):
    (folder / '.venv' / name).touch()
  write_program(programs / 'python', python())
  return folder


def timed_networks() -> str:
  """Rows for a fit: random networks of CIFAR-10's space, times made up."""
  space, rng = make_space(load_config('cifar10')), np.random.default_rng(0)
  rows = ['network,ms']
  for _ in range(30):
    text = space.sample(rng).to_string()
    rows.append(f'{text},{0.1 + 0.01 * text.count("k5")}')
  return '\n'.join(rows)


def make_programs(folder: pathlib.Path, clone: pathlib.Path) -> pathlib.Path:
  """Folder of programs that come before those of the system."""
  programs, phone = folder / 'bin', folder / 'phone'
  for new in (programs, phone):
    new.mkdir()
  write_program(programs / 'python', python())
  adb = fake_phone.STAND_IN.format(python=sys.executable, phone=str(phone))
  # As fast as a phone: a table that takes seconds is refused.
  adb = adb.replace('{size}.5', '{size / 20}')
  assert '{size / 20}' in adb
  write_program(programs / 'adb', adb)
  # `git clone REPOSITORY FOLDER`.
  write_program(programs / 'git', f'#!/bin/sh\ncp -a {clone} "$3"\n')
  return programs


def python() -> str:
  """The interpreter of this test; after --config=… come the small settings."""
  small = ' '.join(f'--config.{setting}' for setting in SMALL)
  return (
    '#!/bin/bash\n'
    'words=()\n'
    'for word in "$@"; do\n'
    '  words+=("$word")\n'
    f'  [[ $word == --config=* ]] && words+=({small})\n'
    'done\n'
    f'exec {sys.executable} "${{words[@]}}"\n'
  )


def write_program(path: pathlib.Path, text: str) -> None:
  path.write_text(text)
  path.chmod(0o755)
