"""Does a long run stay as small and as fast as it was?

  python -m tests.benchmarks.soak [--steps=20000] [--runs=FOLDER]

The search of `interruptions` with checkpoints, in a process of its own. Its
resident memory and CPU time are read at every logged step. Prints one JSON
object: memory, steps/s and CPU time of a step in tenths of the run (the machine
may have other work; CPU time hardly depends on it), and the slope of memory
over steps in the second half by least squares with its standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np

from tests.benchmarks.interruptions import OPTIONS, make_table
from tests.benchmarks.stages import ROOT

BATCH, IMAGES, CHECKPOINTS = 32, 1437, 100
STEPS_PER_EPOCH = IMAGES // BATCH


def memory_mib(pid: int) -> float:
  """Resident memory of a process."""
  status = pathlib.Path(f'/proc/{pid}/status').read_text()
  found = re.search(r'VmRSS:\s+(\d+) kB', status)
  assert found
  return int(found[1]) / 1024


def cpu_seconds(pid: int) -> float:
  """User and system time that a process has taken, all its threads."""
  fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1]
  # The 14th and the 15th field; those behind the name begin with the third.
  own = fields.split()
  return (int(own[11]) + int(own[12])) / os.sysconf('SC_CLK_TCK')


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--steps', type=int, default=20_000)
  parser.add_argument('--runs')
  arguments = parser.parse_args()
  epochs = arguments.steps / STEPS_PER_EPOCH
  runs = pathlib.Path(arguments.runs or tempfile.mkdtemp())
  table = make_table(runs / 'table')
  process = subprocess.Popen(
    [
      *(sys.executable, 'main.py', '--stage=search'),
      *('--config=configs/digits.py', f'--workdir={runs / "search"}'),
      *(option.replace('TABLE', str(table)) for option in OPTIONS),
      f'--config.search.epochs={epochs}',
      f'--config.search.warmup_epochs={epochs / 4}',
      '--config.search.log_every_steps=50',
      f'--config.search.checkpoint_epochs={epochs / CHECKPOINTS}',
    ],
    cwd=ROOT,
    stderr=subprocess.PIPE,
    stdout=sys.stderr,
    text=True,
  )
  assert process.stderr is not None
  rows = []
  for line in process.stderr:
    print(line, end='', file=sys.stderr)
    if found := re.search(r'step (\d+)/', line):
      rows.append(
        (
          int(found[1]),
          memory_mib(process.pid),
          time.monotonic(),
          cpu_seconds(process.pid),
        )
      )
  if code := process.wait():
    sys.exit(code)
  step, mib, clock, cpu = np.array(rows).T
  late = step > step[-1] / 2
  slope, error = line_fit(step[late] / 1000, mib[late])
  tenths = np.array_split(np.arange(len(step)), 10)
  print(
    json.dumps(
      {
        'steps': int(step[-1]),
        'checkpoints': CHECKPOINTS,
        'mib_of_tenths': [round(float(mib[own].mean()), 1) for own in tenths],
        'steps_per_s_of_tenths': [
          round(float(np.ptp(step[own]) / np.ptp(clock[own])), 1)
          for own in tenths
        ],
        'cpu_ms_per_step_of_tenths': [
          round(1e3 * float(np.ptp(cpu[own]) / np.ptp(step[own])), 2)
          for own in tenths
        ],
        'mib_per_1000_steps': slope,
        'standard_error': error,
      },
      indent=1,
    )
  )


def line_fit(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
  """Slope of y over x, and its standard error as if rows were independent."""
  centred = x - x.mean()
  slope = float(centred @ y / (centred @ centred))
  rest = y - y.mean() - slope * centred
  variance = float(rest @ rest) / (len(x) - 2)
  return slope, float(np.sqrt(variance / (centred @ centred)))


if __name__ == '__main__':
  main()
