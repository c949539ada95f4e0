"""Same weights, same images: our networks against timm's and torchvision's.

  python -m tests.benchmarks.parity_torch --torch_python=peers/bin/python

runs the PyTorch half of this file in the environment of requirements-peers.txt
and the JAX half in this one; arrays travel in .npz files. Networks are randomly
initialised, with random batch-norm statistics and affine parameters besides, so
that no layer is invisible. Prints one JSON object and exits with 1 if the
logits of a network differ by more than 1e-4.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

# Their name -> ours.
NETWORKS = {
  'timm/mobilenetv1_100': 'mobilenet_v1',
  'timm/mobilenetv2_100': 'mobilenet_v2',
  'timm/mnasnet_100': 'mnasnet_b1',
  'timm/semnasnet_100': 'mnasnet_a1',
  'timm/fbnetc_100': 'fbnet_c',
  'timm/spnasnet_100': 'single_path_nas',
  'torchvision/mobilenet_v2': 'mobilenet_v2',
  'torchvision/mnasnet1_0': 'mnasnet_b1',
}
IMAGE_SIZES = (224, 97)  # Even and odd: symmetric padding differs.
BATCH_SIZE = 2
TOLERANCE = 1e-4


def torch_half(folder: pathlib.Path) -> None:
  """Writes a file of weights, images and logits for every network."""
  import timm
  import torch
  import torchvision

  torch.manual_seed(0)
  for theirs in NETWORKS:
    library, name = theirs.split('/')
    if library == 'timm':
      model = timm.create_model(name, pretrained=False)
    else:
      model = torchvision.models.get_model(name, weights=None)
    arrays = {}
    with torch.no_grad():
      _randomise(model, torch)
      for size in IMAGE_SIZES:
        images = torch.randn(BATCH_SIZE, 3, size, size)
        arrays[f'images_{size}'] = images.permute(0, 2, 3, 1).numpy()
        arrays[f'logits_{size}'] = model(images).numpy()
    for key, tensor in model.state_dict().items():
      arrays[f'tensor/{key}'] = tensor.numpy()
    np.savez(folder / f'{library}_{name}.npz', **arrays)


def _randomise(model, torch) -> None:
  """Random affine parameters, and the statistics of random images under them.

  Statistics drawn from nowhere would let the logits grow to 1e5, where no
  absolute tolerance means anything.
  """
  norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
  for norm in norms:
    norm.weight.uniform_(0.5, 1.5)
    norm.bias.normal_(0.0, 0.3)
    norm.momentum = 1.0  # In PyTorch: take the batch's statistics as they are.
  model.train()
  model(torch.randn(8, 3, 128, 128))
  model.eval()


def jax_half(folder: pathlib.Path) -> dict[str, dict[str, float]]:
  """Largest differences of the logits, by network."""
  import jax

  from spnas_jax.models.convnet import ConvNet
  from spnas_jax.models.torch_weights import from_torch
  from spnas_jax.networks import zoo

  rows = {}
  for theirs, ours in NETWORKS.items():
    arch = zoo.get(ours, style='torch')
    with np.load(folder / f'{theirs.replace("/", "_")}.npz') as arrays:
      prefix = 'tensor/'
      variables = from_torch(
        arch,
        {
          key.removeprefix(prefix): arrays[key]
          for key in arrays.files
          if key.startswith(prefix)
        },
      )
      forward = jax.jit(ConvNet(arch).apply)
      row = {}
      for size in IMAGE_SIZES:
        expected = arrays[f'logits_{size}']
        logits = np.asarray(forward(variables, arrays[f'images_{size}']))
        row[f'max_abs_diff_{size}'] = float(np.abs(logits - expected).max())
        row[f'logits_range_{size}'] = float(np.ptp(expected))
    rows[theirs] = row
  return rows


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--torch_python', default=sys.executable)
  parser.add_argument('--torch_half', type=pathlib.Path, help='internal')
  args = parser.parse_args()
  if args.torch_half:
    torch_half(args.torch_half)
    return 0
  with tempfile.TemporaryDirectory() as folder:
    subprocess.run(
      [args.torch_python, __file__, f'--torch_half={folder}'], check=True
    )
    networks = jax_half(pathlib.Path(folder))
  # NumPy's maximum of a NaN is NaN, which fails.
  worst = np.max(
    [
      value
      for row in networks.values()
      for key, value in row.items()
      if key.startswith('max_abs_diff')
    ]
  )
  report = {
    'tolerance': TOLERANCE,
    'batch_size': BATCH_SIZE,
    'networks': networks,
    'max_abs_diff': float(worst),
  }
  print(json.dumps(report, indent=1))
  return 0 if worst <= TOLERANCE else 1


if __name__ == '__main__':
  sys.exit(main())
