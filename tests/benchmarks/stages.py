"""Stages of main.py as benchmarks run them: a process each, once."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def run_stage(
  name: str, config: str, workdir: pathlib.Path, *options: str
) -> dict[str, Any]:
  """Runs a stage under a config file of the project; returns its result."""
  command = [sys.executable, 'main.py', f'--stage={name}']
  command += [f'--config={config}', f'--workdir={workdir}', *options]
  # Results go to stdout, what stages say does not belong there.
  subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
  results = json.loads((workdir / 'results.json').read_text())
  return results.get(name, {})
