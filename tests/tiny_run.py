"""Whole runs in seconds: a configuration file, and how to start main.py on it.

  python main.py --config=tests/tiny_run.py --config.latency_table=...

Real digits at 12 px, a space of four layers, 16 steps of search and training.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from ml_collections import ConfigDict

from spnas_jax.config import default_config

ROOT = pathlib.Path(__file__).resolve().parent.parent


def get_config() -> ConfigDict:
  c = default_config()
  c.dataset.update(image_size=12, train_examples=128, test_examples=50)
  c.space.update(
    channels=(8, 12), layers=(2, 2), strides=(2, 1), expansions=(2, 4)
  )
  c.space.head_channels = 16
  for recipe in (c.search, c.train):
    recipe.update(epochs=4.0, batch_size=32, lr_warmup_epochs=0.0)
    recipe.update(log_every_steps=4, checkpoint_epochs=1.0)
  c.search.update(warmup_epochs=1.0, batch_norm_batches=4)
  c.evaluate.batch_size = 24
  return c


def command(stage: str, workdir, table, *arguments: str) -> list[str]:
  """The command line of a tiny run."""
  return [
    sys.executable,
    'main.py',
    f'--stage={stage}',
    '--config=tests/tiny_run.py',
    f'--config.latency_table={table}',
    f'--workdir={workdir}',
    *arguments,
  ]


def environment(devices: int = 1, **more: str) -> dict[str, str]:
  """Of a process of its own: CPU, and the compilation cache of the tests."""
  return {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': str(devices),
    'JAX_COMPILATION_CACHE_DIR': str(ROOT / '.cache' / 'jax'),
    **more,
  }


def run(command: list[str], devices: int = 1) -> subprocess.CompletedProcess:
  """Runs a command to its end in a process of its own."""
  return subprocess.run(
    command,
    cwd=ROOT,
    env=environment(devices),
    capture_output=True,
    text=True,
    timeout=300,
  )


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
