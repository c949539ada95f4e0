"""Running batch-norm averages against statistics of the final weights.

  python -m tests.benchmarks.bench_statistics [--runs=FOLDER]

Trains every network of the committed Table 1 (`results/table1.json`) once more
with its recipe, and scores the same averaged weights both ways on all test
images: with the moving average of running statistics, which networks were
scored with before, and with statistics re-estimated over
`train.batch_norm_batches` training batches. Prints JSON and leaves
`results/bench_statistics.json`; networks that are in it are not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from tests.benchmarks.stages import ROOT

RESULT = ROOT / 'tests/benchmarks/results/bench_statistics.json'
TABLE = ROOT / 'tests/benchmarks/results/table1.json'


def networks() -> dict[str, str]:
  """Name -> block string of every network that Table 1 trained."""
  table = json.loads(TABLE.read_text())
  rows = {
    f'{row["name"]} {row["width"]:g}': row['architecture']
    for row in table['compare_zoo']['rows']
    if row['status'] == 'done' and row['architecture']
  }
  random = [
    r for r in table['random_search']['networks'] if r['kind'] != 'found'
  ]
  return {
    **rows,
    **{f'random {i}': r['architecture'] for i, r in enumerate(random)},
  }


def measure(name: str, text: str, folder: Any) -> dict[str, Any]:
  """Top-1 and cross-entropy of one training, scored both ways."""
  from configs import fashion_mnist
  from spnas_jax.config.routes import resolve_architecture
  from spnas_jax.config.workdir import Workdir
  from spnas_jax.core.parallel import mapped_step
  from spnas_jax.models.convnet import ConvNet
  from spnas_jax.networks import zoo
  from spnas_jax.training.batch_norm import estimate_batch_stats
  from spnas_jax.training.loop import run_steps, take
  from spnas_jax.training.run_setup import (
    device_batches,
    init_variables,
    length_of,
  )
  from spnas_jax.training.scoring import convnet_eval_step, score_split
  from spnas_jax.training.steps import make_train_step
  from spnas_jax.training.train_state import TrainState
  from spnas_jax.training.trained import training_parts

  config = fashion_mnist.get_config()
  config.architecture = text
  known = name.split()[0]
  if known in zoo.names():
    config.space.activation = zoo.get(known).activation
  recipe = config.train
  recipe.epochs = 3.0
  workdir = Workdir(folder)
  arch = resolve_architecture(config, workdir)
  assert arch.to_string() == text
  model, optimizer, schedule = training_parts(config, arch)
  variables = init_variables(
    model, config.dataset.image_size, arch.input_channels, config.seed
  )

  def batches(first):
    return device_batches(config, recipe, config.seed, first)

  state = run_steps(
    name.replace(' ', '_'),
    workdir,
    TrainState.create(variables, optimizer),
    mapped_step(
      make_train_step(model, optimizer, schedule, recipe, config.seed)
    ),
    batches,
    length=length_of(config, 'train'),
    recipe=recipe,
    describe=lambda m: f'CE {m["cross_entropy"]:.3f}',
  )
  fresh = estimate_batch_stats(
    model, state.ema_params, take(batches(0), recipe.batch_norm_batches)
  )
  result: dict[str, Any] = {'architecture': text, 'epochs': recipe.epochs}
  for kind, stats in (('running', state.ema_batch_stats), ('own', fresh)):
    scores = score_split(
      convnet_eval_step(ConvNet(arch)),
      {'params': state.ema_params, 'batch_stats': stats},
      config,
      'test',
    )
    for key in ('top1', 'top5', 'cross_entropy'):
      result[f'{key}_{kind}'] = scores[key]
  return result


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--runs', default='runs/statistics')
  folder = parser.parse_args().runs
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  rows = json.loads(RESULT.read_text()) if RESULT.exists() else {}
  for name, text in networks().items():
    if name not in rows:
      rows[name] = measure(name, text, folder)
      RESULT.write_text(json.dumps(rows, indent=1) + '\n')
  print(json.dumps(rows, indent=1))


if __name__ == '__main__':
  main()
