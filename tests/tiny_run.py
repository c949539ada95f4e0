"""Whole runs in seconds: a configuration file, and how to start main.py on it.

  python main.py --config=tests/tiny_run.py --config.latency_table=...

Real digits at 12 px, a space of four layers, 16 steps of search and training.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Any

from ml_collections import ConfigDict

from spnas_jax.config.defaults import default_config

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS = 16


def get_config() -> ConfigDict:
  c = default_config()
  c.dataset.update(image_size=12, train_examples=128, test_examples=50)
  # As a command fills them in: stages called by hand record the same.
  c.dataset.update(mean=(0.305,), std=(0.376,))
  c.space.update(
    channels=(8, 12), layers=(2, 2), strides=(2, 1), expansions=(2, 4)
  )
  c.space.head_channels = 16
  for recipe in (c.search, c.train):
    recipe.update(epochs=4.0, batch_size=32, lr_warmup_epochs=0.0)
    recipe.update(log_every_steps=4, checkpoint_epochs=0.5)
  c.search.update(warmup_epochs=1.0, batch_norm_batches=4)
  c.evaluate.batch_size = 24
  return c


# --- in this process ----------------------------------------------------------


@functools.cache
def scratch() -> pathlib.Path:
  """A folder for what several tests share, removed at the end."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix='tiny_run'))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  return folder


@functools.cache
def table_path() -> pathlib.Path:
  """A made-up latency table for the space of `get_config`."""
  import tiny

  from spnas_jax.config.spaces import make_space

  config = get_config()
  table = tiny.table(make_space(config), config.dataset.image_size)
  path = scratch() / 'table.json'
  path.write_text(table.to_json())
  return path


def config(**changes: Any) -> ConfigDict:
  """`get_config` with the table; 'search__epochs' is search.epochs."""
  c = get_config()
  c.latency_table = str(table_path())
  for name, value in changes.items():
    *sections, key = name.split('__')
    section = c
    for part in sections:
      section = section[part]
    section[key] = value
  return c


@functools.cache
def finished() -> pathlib.Path:
  """A workdir with a finished search, training and evaluation: copy, then use.

  Its runs had the devices of the tests and were never interrupted. One for all
  processes of a test run: who comes second waits, and finds it complete.
  """
  from spnas_jax.config.workdir import Workdir
  from spnas_jax.stages import evaluate, search, train

  shared = pathlib.Path(os.environ.get('TINY_RUN_SHARED') or scratch())
  workdir = Workdir(shared / 'finished')
  with (shared / 'lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    for stage in (search, train, evaluate):
      stage.run(config(), workdir)
  return pathlib.Path(workdir.path)


def results(workdir) -> dict[str, Any]:
  return json.loads((pathlib.Path(workdir) / 'results.json').read_text())


def snapshot(folder) -> dict[str, str]:
  """Every path below a folder with the hash of its content."""
  folder = pathlib.Path(folder)
  return {
    str(path.relative_to(folder)): (
      hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ''
    )
    for path in sorted(folder.rglob('*'))
  }


# --- in a process of its own --------------------------------------------------

# Seconds after which a process of a test is stuck. Two that compile took more
# than five minutes on a busy machine: no measure of how fast they should be.
PATIENCE = 1200


def command(stage: str, workdir, *arguments: str) -> list[str]:
  """The command line of a tiny run."""
  return [
    sys.executable,
    'main.py',
    f'--stage={stage}',
    '--config=tests/tiny_run.py',
    f'--config.latency_table={table_path()}',
    f'--workdir={workdir}',
    *arguments,
  ]


def environment(devices: int = 4, **more: str) -> dict[str, str]:
  """CPU, as many devices as the tests have, and their compilation cache."""
  return {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': str(devices),
    'JAX_COMPILATION_CACHE_DIR': str(ROOT / '.cache' / 'jax'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    **more,
  }


def start(command: list[str], **env: Any) -> subprocess.Popen:
  return subprocess.Popen(
    command,
    cwd=ROOT,
    env=environment(**env),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(command: list[str], **env: Any) -> subprocess.CompletedProcess:
  """Runs a command to its end."""
  process = start(command, **env)
  out, err = process.communicate(timeout=PATIENCE)
  return subprocess.CompletedProcess(command, process.returncode, out, err)
