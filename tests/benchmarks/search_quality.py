"""Does the search land, does a gate know, and does it beat luck?

  python -m tests.benchmarks.search_quality             everything, resumable
  python -m tests.benchmarks.search_quality --list      rows and what is missing
  python -m tests.benchmarks.search_quality --summary   tables from the results

`search_rows` has the rows and what each does, `search_tables` their tables.
Every row is a process of its own, pinned to one core, two at a time; what is
finished stands in `results/search_quality.json` and is not done again unless
its configuration changed. Long rows resume inside `--runs` too.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

from spnas_jax.config.workdir import Workdir
from tests.benchmarks.search_rows import (
  Row,
  configuration,
  do,
  identity,
  needs,
  rows,
)
from tests.benchmarks.search_tables import summary

RESULTS = (
  pathlib.Path(__file__).resolve().parent / 'results' / 'search_quality.json'
)


def load() -> dict[str, Any]:
  """Finished rows by key."""
  return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def save(results: dict[str, Any]) -> None:
  """Writes the finished rows, atomically."""
  RESULTS.parent.mkdir(exist_ok=True)
  partial = RESULTS.with_suffix('.partial')
  partial.write_text(json.dumps(dict(sorted(results.items())), indent=1) + '\n')
  partial.replace(RESULTS)


def is_done(row: Row, runs: pathlib.Path, results: dict[str, Any]) -> bool:
  """Whether a result stands there, for today's configuration."""
  kept = results.get(row.key)
  wanted = identity(row, configuration(row, runs))
  return kept is not None and kept['identity'] == wanted


def run_all(runs: pathlib.Path, cores: list[int], only: str) -> None:
  """Keeps one process on every core until nothing is left to do."""
  results = load()
  wanted = [row for row in rows() if row.key.startswith(only)]
  left = [row for row in wanted if not is_done(row, runs, results)]
  failed: list[Row] = []
  running: dict[int, tuple[Row, subprocess.Popen, float]] = {}
  while left or running:
    for core in cores:
      if core in running:
        row, process, start = running[core]
        if process.poll() is None:
          continue
        del running[core]
        path = runs / row.key / 'row.json'
        if process.returncode or not path.exists():
          failed.append(row)
          print(f'{row.key}: failed, see {runs / row.key}.log', flush=True)
          continue
        results = {**load(), row.key: json.loads(path.read_text())}
        save(results)
        took = time.monotonic() - start
        print(f'{row.key}: {took:.0f} s, {len(left)} to start', flush=True)
      for row in left:
        first = needs(row)
        if first is None or is_done(first, runs, results):
          left.remove(row)
          running[core] = (row, _process(row, runs, core), time.monotonic())
          break
      else:
        if left and not running:
          raise SystemExit(f'cannot do: {[r.key for r in left + failed]}')
    time.sleep(1)
  if failed:
    raise SystemExit(f'failed: {[r.key for r in failed]}')


def _process(row: Row, runs: pathlib.Path, core: int) -> subprocess.Popen:
  (runs / row.key).mkdir(parents=True, exist_ok=True)
  with (runs / f'{row.key}.log').open('a') as log:
    return subprocess.Popen(
      [
        *(sys.executable, '-m', 'tests.benchmarks.search_quality'),
        *(f'--runs={runs}', f'--row={row.key}', f'--cores={core}'),
      ],
      stdout=log,
      stderr=log,
      # As main.py does for itself.
      env={'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1', **os.environ},
    )


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--runs', default='runs/search_quality', help='working folder'
  )
  parser.add_argument(
    '--cores', default='0,1', help='one process on each of these'
  )
  parser.add_argument('--only', default='', help='rows whose key starts so')
  parser.add_argument('--row', help='this row alone, in this process')
  parser.add_argument('--list', action='store_true')
  parser.add_argument('--summary', action='store_true')
  args = parser.parse_args()
  runs = pathlib.Path(args.runs).resolve()
  cores = [int(core) for core in args.cores.split(',')]
  if args.list:
    results = load()
    for row in rows():
      print('done   ' if is_done(row, runs, results) else 'missing', row.key)
  elif args.summary:
    print(summary(load()))
  elif args.row:
    if hasattr(os, 'sched_setaffinity'):
      os.sched_setaffinity(0, cores)
    (row,) = [row for row in rows() if row.key == args.row]
    result = do(row, runs, load())
    kept = {**result, 'identity': identity(row, configuration(row, runs))}
    Workdir(runs / row.key).write('row.json', json.dumps(kept))
  else:
    run_all(runs, cores, args.only)


if __name__ == '__main__':
  main()
