"""The exporter's future: which routes to a .tflite file need no TensorFlow?

  python -m tests.benchmarks.bench_converters --litert=ENV/bin/python

Every network of the zoo, with random weights, by jax2tf and TensorFlow's
converter (what the library does) and by `jax.export`'s StableHLO and
litert-converter, which runs under the Python of an environment that has it
(`python -m venv ENV && ENV/bin/pip install litert-converter`). For both: do the
files have the same operations, do their logits equal JAX's, seconds, bytes.

Writes `results/bench_converters.json`.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import subprocess
import tempfile
import time
from typing import Any

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import jax
import numpy as np

from spnas_jax.export import tflite
from spnas_jax.latency.entries import random_variables
from spnas_jax.models.convnet import ConvNet
from spnas_jax.networks import zoo
from tests.benchmarks.stages import ROOT

RESULT = ROOT / 'tests/benchmarks/results/bench_converters.json'

# Runs in the other environment: a StableHLO artifact in, a .tflite file out.
CONVERT = """
import sys
from litert_converter import __version__, converter_api_ext as api
from litert_converter.mlir import ir, passmanager
from litert_converter.mlir.dialects import stablehlo

context = ir.Context()
api.prepare_mlir_context(context)
with context:
  module = stablehlo.deserialize_portable_artifact(
    context, open(sys.argv[1], 'rb').read()
  )
  api.set_signature(module.operation, 'serving_default', ['image'], ['logits'])
  api.run_convert_to_tfl_passes(
    module, passmanager.PassManager(), api.ConvertToTFLConfig()
  )
  with open(sys.argv[2], 'wb') as file:
    file.write(api.export_flatbuffer_to_bytes(module.operation))
print(__version__)
"""
# The same computation under two names.
_SAME = {'SUM': 'MEAN'}


def row(name: str, size: int, litert: str) -> dict[str, Any]:
  """One network by both routes."""
  arch = zoo.get(name)
  network = ConvNet(arch, implementation='primitive')
  shape = (1, size, size, arch.input_channels)
  rng = np.random.default_rng(0)
  variables = random_variables(network, shape, rng)

  def logits(image):
    return network.apply(variables, image)

  image = rng.standard_normal(shape).astype(np.float32)
  wanted = np.asarray(jax.jit(logits)(image))
  start = time.monotonic()
  own = tflite.convert(logits, shape)
  middle = time.monotonic()
  error = ''
  try:
    other = without_tensorflow(logits, shape, litert)
  except subprocess.CalledProcessError as e:
    error = e.stderr.decode(errors='replace').strip().splitlines()[-1][:200]
  end = time.monotonic()
  found = {
    'network': name,
    'jax2tf_seconds': round(middle - start, 2),
    'jax2tf_bytes': len(own),
    'jax2tf_difference': difference(own, image, wanted),
    'litert_error': error,
  }
  if not error:
    found |= {
      'litert_seconds': round(end - middle, 2),
      'litert_bytes': len(other),
      'litert_difference': difference(other, image, wanted),
      'same_operations': operations(own) == operations(other),
      'operations': dict(operations(other)),
    }
  return found


def without_tensorflow(function, shape, litert: str) -> bytes:
  """A model by StableHLO and litert-converter."""
  exported = jax.export.export(jax.jit(function), platforms=['cpu'])(
    jax.ShapeDtypeStruct(shape, np.float32)
  )
  with tempfile.TemporaryDirectory() as folder:
    source = pathlib.Path(folder) / 'model.mlirbc'
    target = pathlib.Path(folder) / 'model.tflite'
    source.write_bytes(exported.mlir_module_serialized)
    subprocess.run(
      [litert, '-c', CONVERT, str(source), str(target)],
      check=True,
      capture_output=True,
    )
    return target.read_bytes()


def difference(model: bytes, image: np.ndarray, wanted: np.ndarray) -> float:
  """Largest difference of a logit over the range of all."""
  off = np.abs(tflite.run(model, image) - wanted).max()
  return float(off / np.ptp(wanted))


def operations(model: bytes) -> collections.Counter[str]:
  """How many of each kind."""
  names = (_SAME.get(name, name) for name in tflite.operations(model))
  return collections.Counter(names)


def main() -> None:
  """Prints and writes a row for each network."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--litert', required=True)
  parser.add_argument('--size', type=int, default=96)
  args = parser.parse_args()
  rows = []
  for name in zoo.names():
    rows.append(row(name, args.size, args.litert))
    print(json.dumps(rows[-1]), flush=True)
  result = {
    'image_size': args.size,
    'jax': jax.__version__,
    'litert_converter': subprocess.run(
      [args.litert, '-c', 'import litert_converter as c; print(c.__version__)'],
      check=True,
      capture_output=True,
      text=True,
    ).stdout.strip(),
    'rows': rows,
  }
  RESULT.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
  main()
