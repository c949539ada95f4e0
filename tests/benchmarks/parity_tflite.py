"""Exported float32 models against JAX: the whole zoo and random networks.

  python -m tests.benchmarks.parity_tflite [--random=20]

Weights, biases and batch-norm parameters are random, so that no layer is
invisible; batch-norm statistics are those of a batch of images, as in a trained
network (with statistics that do not fit, signals grow to tens of thousands, and
squeeze-and-excitation amplifies the last bits of float32). Random networks come
from the ImageNet space with kernels of 3, 5 and 7, expansion 3 and 6, with and
without squeeze-and-excitation, at several widths, image sizes and both padding
styles. Prints one JSON object and exits with 1 if a logit differs by more than
1e-4 of the logits' range, or if a model has an operation that is not built in.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

import jax
import numpy as np

from configs import imagenet_search
from spnas_jax.config.spaces import make_space
from spnas_jax.core.tensorflow_setup import load_tensorflow
from spnas_jax.export import tflite
from spnas_jax.export.network import to_tflite
from spnas_jax.latency.entries import random_variables
from spnas_jax.models.convnet import ConvNet
from spnas_jax.networks import zoo
from spnas_jax.networks.architecture import Architecture

BATCH_SIZE = 2
IMAGE_SIZES = (224, 160, 97)
WIDTHS = (1.0, 0.5, 0.75, 1.4)
PADDINGS = ('same', 'symmetric')
TOLERANCE = 1e-4


def random_networks(count: int) -> dict[str, tuple[Architecture, int]]:
  """Name -> (network, image size)."""
  config = imagenet_search.get_config()
  config.space.kernels = (3, 5, 7)
  space = make_space(config)
  space = dataclasses.replace(
    space,
    stages=tuple(
      dataclasses.replace(stage, squeeze_ratios=(0.0, 0.25))
      for stage in space.stages
    ),
  )
  rng = np.random.default_rng(0)
  networks = {}
  for i in range(count):
    width = WIDTHS[i % len(WIDTHS)]
    size = IMAGE_SIZES[i % len(IMAGE_SIZES)]
    padding = PADDINGS[i % len(PADDINGS)]
    arch = dataclasses.replace(space.sample(rng), padding=padding)
    name = f'random {i}, width {width}, {size} px, padding {padding}'
    networks[name] = zoo.scale_width(arch, width), size
  return networks


def with_statistics(
  arch: Architecture, variables: Any, rng: np.random.Generator
) -> Any:
  """The variables with batch statistics of `BATCH_SIZE` x 4 random images."""
  shape = (4 * BATCH_SIZE, IMAGE_SIZES[1], IMAGE_SIZES[1], arch.input_channels)
  images = rng.standard_normal(shape).astype(np.float32)
  network = ConvNet(arch.replace(batch_norm_momentum=0.0))
  step = jax.jit(
    lambda v, x: network.apply(v, x, train=True, mutable=['batch_stats'])[1]
  )
  return {**variables, **step(variables, images)}


def compare(
  arch: Architecture, size: int, rng: np.random.Generator
) -> dict[str, Any]:
  """Largest difference of a logit, the logits' range, and the operations."""
  shape = (BATCH_SIZE, size, size, arch.input_channels)
  variables = jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      leaf * rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
      if jax.tree_util.keystr(path).endswith(("['scale']", "['var']"))
      else leaf
    ),
    random_variables(ConvNet(arch), shape, rng),
  )
  images = rng.standard_normal(shape).astype(np.float32)
  variables = with_statistics(arch, variables, rng)
  reference = np.asarray(jax.jit(ConvNet(arch).apply)(variables, images))
  model = to_tflite(arch, variables, size)
  difference = np.abs(tflite.run(model, images) - reference).max()
  return {
    'max_abs_diff': float(difference),
    'range': float(np.ptp(reference)),
    'max_rel_diff': float(difference / np.ptp(reference)),
    'operations': sorted(set(tflite.operations(model))),
  }


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--random', type=int, default=20)
  arguments = parser.parse_args()

  load_tensorflow()
  networks = {
    f'{name}, {style}': (zoo.get(name, style), 224)
    for name in zoo.names()
    for style in zoo.STYLES
  } | random_networks(arguments.random)
  rng = np.random.default_rng(0)
  rows = {}
  for name, (arch, size) in networks.items():
    rows[name] = compare(arch, size, rng)
    jax.clear_caches()  # A compiled network is not met again.
    print(f'{name}: {rows[name]["max_rel_diff"]:.1e}', file=sys.stderr)
  used = sorted({o for row in rows.values() for o in row['operations']})
  worst = max(rows, key=lambda name: rows[name]['max_rel_diff'])
  result = {
    'networks': len(rows),
    'max_rel_diff': rows[worst]['max_rel_diff'],
    'worst': worst,
    'tolerance': TOLERANCE,
    'operations': used,
    'rows': rows,
  }
  print(json.dumps(result, indent=1))
  wrong = [o for o in used if o.startswith('CUSTOM')]
  sys.exit(int(bool(wrong) or result['max_rel_diff'] > TOLERANCE))


if __name__ == '__main__':
  main()
