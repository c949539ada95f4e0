"""A folder of 60,000 pictures, end to end on two cores, beside mobilenet_v2.

  python -m tests.benchmarks.cifar10_jpeg --folder=data/cifar10_jpeg \
    [--runs=FOLDER] [--seed=0]

CIFAR-10 as JPEG files (lossy: not CIFAR-10 proper) under
`configs/cifar10.py:small`, target and recipe as they are. The network that the
search finds, and mobilenet_v2 at the width that comes nearest to its measured
milliseconds, are trained alike on the training images and scored on all test
images. Both are timed once more, interleaved, when they are trained. What is
finished is not run again; each seed adds a row to `results/cifar10_jpeg.json`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import numpy as np

from spnas_jax.config.files import load_config
from spnas_jax.config.routes import zoo_network
from spnas_jax.config.workdir import Workdir
from spnas_jax.latency import measuring
from spnas_jax.latency.entries import network_tflite
from spnas_jax.latency.open_device import open_device
from spnas_jax.networks import zoo
from spnas_jax.networks.architecture import Architecture
from tests.benchmarks.stages import ROOT, run_stage

CONFIG = 'configs/cifar10.py:small'
RESULT = ROOT / 'tests/benchmarks/results/cifar10_jpeg.json'
RIVAL = 'mobilenet_v2'
WIDTHS = np.arange(0.15, 0.66, 0.05)


def nearest_width(
  config: Any, found: Architecture, workdir: Workdir
) -> dict[str, float]:
  """The width of `RIVAL` whose time is nearest to the found network's.

  Nothing is trained for it: time does not depend on weights.

  Returns:
    {'width', 'ms', 'found_ms'}.
  """
  networks = {'found': found}
  for width in WIDTHS:
    arch = zoo_network(config, zoo.get(RIVAL), float(width))
    # Channels are multiples of 8: several widths may be one network.
    if arch not in networks.values():
      networks[f'{width:.2f}'] = arch
  rng, size = np.random.default_rng(0), config.dataset.image_size
  timings = measuring.measure(
    'widths',
    workdir,
    open_device(config),
    {name: network_tflite(arch, size, rng) for name, arch in networks.items()},
    config.profile,
  )
  times = {name: timings[name].ms for name in networks}
  found_ms = times.pop('found')
  width = min(times, key=lambda name: abs(times[name] - found_ms))
  return {'width': float(width), 'ms': times[width], 'found_ms': found_ms}


def main() -> None:
  """Runs what is missing and writes the row."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--folder', required=True)
  parser.add_argument(
    '--runs', type=pathlib.Path, default=ROOT / 'runs/cifar10_jpeg'
  )
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  workdir = args.runs.resolve() / str(args.seed)
  options = [
    f'--config.dataset.folder={args.folder}',
    f'--config.seed={args.seed}',
  ]
  search = run_stage('search', CONFIG, workdir, *options)
  found = Architecture.from_string(search['architecture'])

  chosen = workdir / 'width.json'
  if not chosen.exists():
    config, own = load_config(CONFIG), Workdir(workdir)
    config.dataset.folder = args.folder
    own.write('width.json', json.dumps(nearest_width(config, found, own)))
  width = json.loads(chosen.read_text())

  compared = run_stage(
    'compare_zoo',
    CONFIG,
    workdir,
    *options,
    f'--config.compare_zoo.networks=("{RIVAL}",)',
    f'--config.compare_zoo.widths=({width["width"]},)',
  )
  keys = ('name', 'width', 'top1', 'ms', 'params', 'macs', 'architecture')
  row = {
    'seed': args.seed,
    **{
      key: search[key]
      for key in ('target_ms', 'predicted_ms', 'supernet_top1', 'seconds')
    },
    'train_epochs': compared['epochs'],
    'chosen_by': width,
    'networks': [
      {key: each[key] for key in keys}
      for each in compared['rows']
      if each['status'] == 'done'
    ],
    'platform': compared['platform'],
  }
  rows = json.loads(RESULT.read_text())['rows'] if RESULT.exists() else []
  rows = [each for each in rows if each['seed'] != args.seed] + [row]
  result = {'config': CONFIG, 'rows': sorted(rows, key=lambda r: r['seed'])}
  RESULT.write_text(json.dumps(result, indent=1) + '\n')
  print(json.dumps(row, indent=1))


if __name__ == '__main__':
  main()
