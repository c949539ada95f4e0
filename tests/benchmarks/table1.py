"""Known networks, what the search finds, and luck, on Fashion-MNIST.

  python -m tests.benchmarks.table1 [--runs=FOLDER]

The paper's Table 1 and Fig. 8 in form: builds a latency table of this machine,
searches, trains, exports, times, draws random networks of the same latency, and
trains zoo networks and the found one at several widths; one recipe for all. All
of it are stages of main.py, so an interrupted run goes on. Leaves
`results/table1.json` and `docs/images/compare_zoo.png`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil

from tests.benchmarks.stages import ROOT, run_stage

CONFIG = 'configs/fashion_mnist.py'
RESULT = ROOT / 'tests/benchmarks/results/table1.json'
PICTURE = 'compare_zoo.png'
TABLE_OPTIONS = (
  '--config.build_table.name=host, Fashion-MNIST space',
  '--config.build_table.calibration_networks=12',
)
OPTIONS = (
  '--config.search.target_ms=0.05',
  '--config.train.epochs=3',
  '--config.export.check_images=10000',
  '--config.random_search.num_networks=5',
  '--config.compare_zoo.widths=(0.15,0.25)',
  '--config.compare_zoo.found_widths=(1.0,1.5,2.0)',
)
STAGES = (
  'search',
  'train',
  'evaluate',
  'export',
  'profile',
  'random_search',
  'compare_zoo',
  'report',
)
# Of the stages' results.
KEPT = {
  'search': (
    'target_ms',
    'predicted_ms',
    'raw_decode_ms',
    'cost_epochs',
    'wall_seconds',
    'architecture',
  ),
  'evaluate': ('top1', 'top5', 'num_examples'),
  'export': (
    'max_abs_diff',
    'max_rel_diff',
    'agreement_fp16',
    'agreement_int8',
    'top1',
    'top1_fp16',
    'top1_int8',
    'num_images',
  ),
  'profile': (
    'bare_ms',
    'bare_median_ms',
    'median_ms',
    'predicted_ms',
    'conditions',
  ),
  'random_search': ('networks', 'cost_epochs', 'wall_seconds'),
  'compare_zoo': ('rows', 'epochs', 'image_size', 'wall_seconds'),
}


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--runs', default='runs/table1')
  runs = pathlib.Path(parser.parse_args().runs).resolve()
  run_stage('build_table', CONFIG, runs / 'host', *TABLE_OPTIONS)
  table = f'--config.latency_table={runs / "host" / "latency_table.json"}'
  done = {
    name: run_stage(name, CONFIG, runs / 'networks', table, *OPTIONS)
    for name in STAGES
  }
  kept = {
    name: {key: done[name][key] for key in keys if key in done[name]}
    for name, keys in KEPT.items()
  }
  RESULT.write_text(json.dumps(kept, indent=1) + '\n')
  picture = runs / 'networks/report' / PICTURE
  shutil.copy(picture, ROOT / 'docs/images' / PICTURE)


if __name__ == '__main__':
  main()
