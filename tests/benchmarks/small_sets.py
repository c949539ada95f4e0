"""What helps where there are few pictures: others' weights, or augmentation?

  python -m tests.benchmarks.small_sets --folder=data/cifar10_jpeg

CIFAR-10 as JPEG files in class folders (lossy: not CIFAR-10 proper). One
network is trained on all images of five classes. Then it is trained for the
five others with 50 and with 500 images a class: from scratch, from those
weights, from those weights with the classifier alone first and a slower
backbone after; and from scratch with mixup on top of the crops and mirror
images that all rows have. Every row has the same number of steps and three
seeds; all of the five classes' test images are scored. Rows are workdirs of
main.py, so an interrupted run goes on. Writes `results/small_sets.json`, whose
rows of arms that are not here any more were made by earlier versions.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import pathlib
import random
import statistics
from typing import Any

from spnas_jax import stage_runs
from spnas_jax.config.files import load_config
from tests.benchmarks.stages import ROOT

CONFIG = 'configs/cifar10.py:small'
RESULT = ROOT / 'tests/benchmarks/results/small_sets.json'
# Both halves have animals and vehicles.
FIRST = ('airplane', 'bird', 'cat', 'ship', 'dog')
OTHERS = ('automobile', 'deer', 'frog', 'horse', 'truck')
# The middle of the space: a 5x5 and two expansions among its layers.
NETWORK = (
  'stem_k3_s1_i3_c16 ir_r1_k5_s2_e6_c24 ir_r1_k3_s1_e3_c24 '
  'ir_r1_k5_s2_e6_c40 ir_r1_k3_s1_e3_c40 ir_r1_k5_s1_e6_c64 head_c256 fc_c5'
)
BASE_EPOCHS = 6
STEPS = 300
BATCH = 50
# 'BASE' is the workdir of the first five classes.
BASE = 'BASE'
ARMS: dict[str, dict[str, Any]] = {
  'scratch': {},
  'weights': {'train.init': BASE},
  'frozen first': {
    'train.init': BASE,
    'train.freeze_epochs': 1 / 3,  # Of the epochs of the row.
    'train.backbone_rate': 0.3,
  },
  'mixup': {'train.mixup': 0.2},
}
SEEDS = (0, 1, 2)


def write_table(
  path: pathlib.Path, folder: pathlib.Path, classes: tuple[str, ...], count: int
) -> None:
  """A table of `count` training images a class (0 = all) and all test images.

  Which ones is the same for every class and every call.
  """
  rows = []
  for label in classes:
    names = sorted(p.name for p in (folder / 'train' / label).iterdir())
    random.Random(0).shuffle(names)
    rows += [
      (f'train/{label}/{n}', label, 'train') for n in names[: count or None]
    ]
    tests = sorted(p.name for p in (folder / 'test' / label).iterdir())
    rows += [(f'test/{label}/{name}', label, 'test') for name in tests]
  with path.open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(('filename', 'label', 'split'))
    writer.writerows((str(folder / name), *rest) for name, *rest in rows)


def train(
  workdir: pathlib.Path, table: pathlib.Path, **changes: Any
) -> dict[str, Any]:
  """The scores of a row, trained if it is not there.

  In this process: forty rows share what they import and compile.
  """
  config = load_config(
    CONFIG,
    architecture=NETWORK,
    **{
      'dataset.folder': str(table),
      'dataset.validation_fraction': 0.0,
      **changes,
    },
  )
  stage_runs.run('train', config, str(workdir))
  return stage_runs.run('evaluate', config, str(workdir))


def main() -> None:
  """Runs what is missing and writes the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--folder', type=pathlib.Path, required=True)
  parser.add_argument(
    '--runs', type=pathlib.Path, default=ROOT / 'runs/small_sets'
  )
  args = parser.parse_args()
  folder, runs = args.folder.resolve(), args.runs.resolve()
  runs.mkdir(parents=True, exist_ok=True)
  tables = {}
  for name, classes, count in (
    ('first', FIRST, 0),
    ('others_50', OTHERS, 50),
    ('others_500', OTHERS, 500),
  ):
    tables[name] = runs / f'{name}.csv'
    if not tables[name].exists():
      write_table(tables[name], folder, classes, count)
  base = train(
    runs / 'base', tables['first'], **{'train.epochs': float(BASE_EPOCHS)}
  )
  known = json.loads(RESULT.read_text())['rows'] if RESULT.exists() else []
  result = {
    'base': {'top1': base['top1'], 'classes': FIRST, 'epochs': BASE_EPOCHS},
    'network': NETWORK,
    'steps': STEPS,
    'rows': [row for row in known if row['arm'] not in ARMS],
  }
  for (name, options), count in itertools.product(ARMS.items(), (50, 500)):
    epochs = STEPS * BATCH / (count * len(OTHERS))
    own = {**options}
    if 'train.init' in own:
      own['train.init'] = str(runs / 'base')
    if 'train.freeze_epochs' in own:
      own['train.freeze_epochs'] *= epochs
    top1 = [
      train(
        runs / f'{name.replace(" ", "_")}_{count}_{seed}',
        tables[f'others_{count}'],
        **{
          'train.epochs': epochs,
          'train.batch_size': BATCH,
          'train.checkpoint_epochs': epochs,
          'train.lr_warmup_epochs': epochs / 20,
          'seed': seed,
          **own,
        },
      )['top1']
      for seed in SEEDS
    ]
    row = {
      'images_per_class': count,
      'arm': name,
      'top1': top1,
      'mean_top1': statistics.mean(top1),
      'std_top1': statistics.stdev(top1),
    }
    result['rows'].append(row)
    RESULT.write_text(json.dumps(result, indent=1) + '\n')
    print(json.dumps(row), flush=True)


if __name__ == '__main__':
  main()
