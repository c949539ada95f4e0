"""A harness that knows nothing of the project: times the files of a manifest.

  python tests/other_harness.py WORKDIR/measure/STAGE

Fills times.csv, each model twice, as a farm of phones or a script would.
"""

import json
import pathlib
import sys
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def best_ms(path: pathlib.Path, row: dict) -> float:
  """Fastest of some runs."""
  runner = Interpreter(model_path=str(path), num_threads=row['threads'])
  runner.allocate_tensors()
  image = np.zeros(row['input_shape'], row['input_type'])
  runner.set_tensor(runner.get_input_details()[0]['index'], image)
  times = []
  for _ in range(5):
    start = time.perf_counter()
    runner.invoke()
    times.append(time.perf_counter() - start)
  return 1000 * min(times)


def main() -> None:
  folder = pathlib.Path(sys.argv[1])
  manifest = json.loads((folder / 'manifest.json').read_text())
  lines = ['model,ms']
  for _ in range(2):
    for row in manifest['models']:
      ms = best_ms(folder / row['file'], row)
      lines.append(f'{row["model"]},{ms:.6f}')
  (folder / 'times.csv').write_text('\n'.join(lines) + '\n')


if __name__ == '__main__':
  main()
