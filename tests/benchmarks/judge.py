"""Does a search beat luck, and which judge of networks tells the truth?

  python -m tests.benchmarks.judge --folder=data/cifar10_jpeg   everything
  python -m tests.benchmarks.judge --list      rows and what is missing
  python -m tests.benchmarks.judge --summary   tables from the results

`judge_rows` has the protocol and the rows, `judge_tables` the tables, results
are in `results/judge.json`. About five hours on two idle cores; it may be
stopped and started at any time.
"""

from __future__ import annotations

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

from tests.benchmarks import judge_rows, judge_tables
from tests.benchmarks.row_runner import Experiment
from tests.benchmarks.stages import ROOT

EXPERIMENT = Experiment(
  module='tests.benchmarks.judge',
  results=ROOT / 'tests/benchmarks/results/judge.json',
  rows=judge_rows.rows(),
  needs=judge_rows.needs,
  identity=judge_rows.identity,
  do=judge_rows.do,
  summary=judge_tables.summary,
  folder=str(ROOT / 'data/cifar10_jpeg'),
)

if __name__ == '__main__':
  EXPERIMENT.main(__doc__)
