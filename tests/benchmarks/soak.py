"""Does a long run stay as small and as fast as it was?

  python -m tests.benchmarks.soak [--steps=20000] [--runs=FOLDER]

The search of `interruptions` with checkpoints, in a process of its own. Its
resident memory is read at every logged step. Prints one JSON object: memory and
steps/s in tenths of the run, the slope of memory over steps by least squares
(the first tenth left out: caches fill) with its standard error, and the pace of
a fixed loop of Python meanwhile, since the machine may be slower than before.
"""

from __future__ import annotations

import argparse
import json
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


def pace() -> float:
  """Seconds of a loop that does nothing."""
  begin = time.perf_counter()
  for _ in range(100_000):
    pass
  return time.perf_counter() - begin


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
        (int(found[1]), memory_mib(process.pid), time.monotonic(), pace())
      )
  if code := process.wait():
    sys.exit(code)
  step, mib, clock, paces = np.array(rows).T
  late = step > step[-1] / 10
  slope, error = line_fit(step[late] / 1000, mib[late])
  tenths = np.array_split(np.arange(len(step)), 10)
  print(
    json.dumps(
      {
        'steps': int(step[-1]),
        'checkpoints': CHECKPOINTS,
        'mib_of_tenths': [round(float(mib[own].mean()), 1) for own in tenths],
        'steps_per_s_of_tenths': [
          round(
            float((step[own[-1]] - step[own[0]]) / np.ptp(clock[own])),
            1,
          )
          for own in tenths
        ],
        'pace_of_tenths': [
          round(float(np.median(paces[own]) / np.median(paces)), 3)
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
