"""The 22-layer space of FBNet at 32 px, with tables of a Raspberry Pi 4 and a
Pixel 3 that others have measured: search for a device without having one.

  python main.py --config=configs/fbnet_cifar.py --workdir=runs/pi4
  python main.py --config=configs/fbnet_cifar.py:pixel3 --workdir=runs/pixel3

The space is that of HW-NAS-Bench at CIFAR's size (FBNet's stages, strides made
for 32 px) without its grouped candidates. The tables come from whole-network
times of HELP (Lee et al., NeurIPS 2021; MIT licence, see NOTICE):
`python -m tests.benchmarks.fit_networks --ship` makes them. They were measured
with 100 classes; the few microseconds of the classifier's other 90 columns are
part of their constant.

Needs: cifar10 prepared by tfds (`tfds build cifar10 --data_dir=data`), or the
images as files in class folders (--config.dataset.folder=DIR).
Hardware: one GPU or TPU.
"""

from ml_collections import ConfigDict

from configs import cifar10
from spnas_jax.core.errors import UserError

TABLES = {'': 'raspi4_fbnet', 'pixel3': 'pixel3_fbnet'}


def get_config(variant: str = '') -> ConfigDict:
  if variant not in TABLES:
    raise UserError(
      f'--config=configs/fbnet_cifar.py:{variant}: the variant is {variant!r}, '
      'allowed: pixel3, or none and no colon'
    )
  config = cifar10.get_config()
  config.latency_table = f'latency/{TABLES[variant]}.json'
  c = config.space
  c.stem_channels = 16
  c.channels = (16, 24, 32, 64, 112, 184, 352)
  c.layers = (1, 4, 4, 4, 4, 4, 1)
  c.strides = (1, 1, 2, 2, 1, 2, 1)
  c.expansions = (1, 3, 6)
  c.head_channels = 1504
  return config
