"""Exported MobileNetV2: ours by way of JAX against Keras' own, on this machine.

  python -m tests.benchmarks.bench_export [--image_size=224] [--rounds=12]

Both have random weights. Models are timed by `HostDevice`, interleaved. Prints
one JSON object: seconds to convert, bytes, operations, and for each model the
fastest run, the median over rounds and the interquartile range, in ms.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from typing import Any

import numpy as np

from spnas_jax.core.tensorflow_setup import load_tensorflow
from spnas_jax.export import tflite
from spnas_jax.export.network import to_tflite
from spnas_jax.latency.entries import random_variables
from spnas_jax.latency.host import HostDevice
from spnas_jax.models.convnet import ConvNet
from spnas_jax.networks import zoo


def keras_model(image_size: int) -> bytes:
  """tf.keras.applications' MobileNetV2, random weights, logits."""
  with tflite.quiet():
    tf = load_tensorflow()
    model = tf.keras.applications.MobileNetV2(
      (image_size, image_size, 3), weights=None, classifier_activation=None
    )
    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


def our_models(image_size: int) -> dict[str, bytes]:
  """The zoo's MobileNetV2 in the three precisions of the stage `export`."""
  arch = zoo.get('mobilenet_v2')
  shape = (1, image_size, image_size, 3)
  rng = np.random.default_rng(0)
  variables = random_variables(ConvNet(arch), shape, rng)
  images = rng.normal(size=(4, *shape[1:])).astype(np.float32)
  return {
    precision: to_tflite(
      arch,
      variables,
      image_size,
      precision=precision,
      calibration=images if precision == 'int8' else None,
    )
    for precision in tflite.PRECISIONS
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--image_size', type=int, default=224)
  parser.add_argument('--rounds', type=int, default=12)
  parser.add_argument('--threads', type=int, default=1)
  arguments = parser.parse_args()

  load_tensorflow()
  start = time.monotonic()
  models = our_models(arguments.image_size)
  converted = time.monotonic()
  models['keras'] = keras_model(arguments.image_size)
  device = HostDevice(arguments.threads)
  timings = device.measure(
    models, warmup_runs=2, rounds=arguments.rounds, runs_per_round=5
  )
  result: dict[str, Any] = {
    **device.describe(),
    'conditions': device.conditions(),
    'statistic': device.statistic,
    'convert_seconds': round(converted - start, 1),
    'models': {
      name: {
        'bytes': len(model),
        'operations': dict(Counter(tflite.operations(model))),
        'ms': timings[name].ms,
        'median_ms': timings[name].median_ms,
        'spread_ms': timings[name].spread_ms,
      }
      for name, model in models.items()
    },
    'ours_over_keras': timings['float32'].ms / timings['keras'].ms,
  }
  print(json.dumps(result, indent=1))


if __name__ == '__main__':
  main()
