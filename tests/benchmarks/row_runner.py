"""Experiments of many resumable rows, one process on each core.

A row is one result under one key. What is finished stands in a JSON file under
`results/` and is not done again unless its settings changed; what was begun
resumes in its working folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from spnas_jax.config.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Row:
  """One result: what is done, and under which key it is kept.

  Attributes:
    kind: what is done.
    data: on which images.
    share: where the target lies, in the sense of its experiment.
    group: of the networks, or how.
    index: of the network or of the search in its group.
    seed: of the training or the search.
  """

  kind: str
  data: str
  share: float = 0.0
  group: str = ''
  index: int = 0
  seed: int = 0

  @property
  def key(self) -> str:
    words = [self.kind, self.data, f'{100 * self.share:.0f}', self.group]
    words += [str(self.index), str(self.seed)]
    return '-'.join(word for word in words if word)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Rows and how they are done.

  Attributes:
    module: run as `python -m MODULE`.
    results: JSON file of finished rows by key.
    rows: all rows, in the order in which they are done.
    needs: row -> rows that must be finished first.
    identity: row -> hash of the settings that its result depends on.
    do: (row, its working folder, finished rows, folder of images) -> what is
      kept.
    summary: finished rows -> tables in Markdown.
    folder: where the images are unless --folder says so.
  """

  module: str
  results: pathlib.Path
  rows: Sequence[Row]
  needs: Callable[[Row], Sequence[Row]]
  identity: Callable[[Row], str]
  do: Callable[[Row, Workdir, dict[str, Any], str], dict[str, Any]]
  summary: Callable[[dict[str, Any]], str]
  folder: str = ''

  def load(self) -> dict[str, Any]:
    """Finished rows by key, those of other settings left out."""
    if not self.results.exists():
      return {}
    kept = json.loads(self.results.read_text())
    return {
      row.key: kept[row.key]
      for row in self.rows
      if row.key in kept and kept[row.key]['identity'] == self.identity(row)
    }

  def save(self, results: dict[str, Any]) -> None:
    """Writes the finished rows, atomically."""
    self.results.parent.mkdir(exist_ok=True)
    partial = self.results.with_suffix('.partial')
    text = json.dumps(dict(sorted(results.items())), indent=1)
    partial.write_text(text + '\n')
    partial.replace(self.results)

  def run(self, runs: pathlib.Path, cores: list[int], args) -> None:
    """Keeps one process on every core until nothing is left to do."""
    results = self.load()
    left = [
      row
      for prefix in args.only.split(',')
      for row in self.rows
      if row.key.startswith(prefix) and row.key not in results
    ]
    left = list(dict.fromkeys(left))
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
          results = {**self.load(), row.key: json.loads(path.read_text())}
          self.save(results)
          took = time.monotonic() - start
          print(f'{row.key}: {took:.0f} s, {len(left)} to start', flush=True)
        ready = [
          row
          for row in left
          if all(first.key in results for first in self.needs(row))
        ]
        if ready:
          left.remove(ready[0])
          process = self._process(ready[0], runs, core, args.folder)
          running[core] = (ready[0], process, time.monotonic())
        elif left and not running:
          raise SystemExit(f'cannot do: {[r.key for r in left + failed]}')
      time.sleep(0.5)
    if failed:
      raise SystemExit(f'failed: {[r.key for r in failed]}')

  def _process(
    self, row: Row, runs: pathlib.Path, core: int, folder: str
  ) -> subprocess.Popen:
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / f'{row.key}.log').open('a') as log:
      return subprocess.Popen(
        [
          *(sys.executable, '-m', self.module, f'--row={row.key}'),
          *(f'--runs={runs}', f'--cores={core}', f'--folder={folder}'),
        ],
        stdout=log,
        stderr=log,
        # As main.py does for itself.
        env={'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1', **os.environ},
      )

  def main(self, doc: str | None) -> None:
    """The experiment's command line."""
    name = self.results.stem
    parser = argparse.ArgumentParser(
      description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--runs', default=f'runs/{name}', help='working folder')
    parser.add_argument(
      '--cores', default='0,1', help='one process on each of these'
    )
    parser.add_argument('--folder', default=self.folder, help='of the images')
    parser.add_argument(
      '--only',
      default='',
      help='rows whose key starts so; several with commas, in that order',
    )
    parser.add_argument('--row', help='this row alone, in this process')
    parser.add_argument('--list', action='store_true')
    parser.add_argument('--summary', action='store_true')
    args = parser.parse_args()
    runs = pathlib.Path(args.runs).resolve()
    cores = [int(core) for core in args.cores.split(',')]
    if args.list:
      results = self.load()
      for row in self.rows:
        print('done   ' if row.key in results else 'missing', row.key)
    elif args.summary:
      print(self.summary(self.load()))
    elif args.row:
      if hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, cores)
      (row,) = [row for row in self.rows if row.key == args.row]
      workdir = Workdir(runs / row.key)
      result = self.do(row, workdir, self.load(), args.folder)
      kept = {**result, 'identity': self.identity(row)}
      workdir.write('row.json', json.dumps(kept))
    else:
      self.run(runs, cores, args)
