"""CIFAR-10, 50,000 + 10,000 images at 32 px: search, train, export, report.

  python main.py --config=configs/cifar10.py --workdir=runs/cifar10
  python main.py --config=configs/cifar10.py:small --workdir=runs/cifar10 \
    --config.dataset.folder=cifar10_jpeg

First this machine is timed, unless --config.latency_table names a table; the
target is half-way between the fastest and the slowest network unless you set
--config.search.target_ms. Twelve layers, 140,000 to 740,000 parameters, 14 to
89 M multiply-adds.

  :small  What two idle CPU cores do in an hour: nine layers, 4 to 24 M
          multiply-adds, 4 epochs of search, 8 of training.

Needs: cifar10 prepared by tfds (`tfds build cifar10 --data_dir=data`), which
downloads 163 MB once; or the images as files in class folders
(--config.dataset.folder=DIR with train and test in it).
Hardware: one GPU or TPU; for `:small` two CPU cores.
Expected: 5,850 search steps, 78,000 training steps; `:small` 1,528 and 3,056 on
a folder, where the network found for half-way (0.44 ms) reached 82.3% top-1 on
10,000 test images (docs/search_results.md). The full one has not been run to
its end here, so no accuracy can be promised.
"""

from ml_collections import ConfigDict

from spnas_jax.config.defaults import default_config
from spnas_jax.core.errors import UserError

VARIANTS = ('', 'small')


def get_config(variant: str = '') -> ConfigDict:
  if variant not in VARIANTS:
    raise UserError(
      f'--config=configs/cifar10.py:{variant}: the variant is {variant!r}, '
      'allowed: small, or none and no colon'
    )
  config = default_config()
  config.latency_table = 'measure'

  config.dataset.name = 'cifar10'
  config.dataset.image_size = 32
  config.dataset.augment = 'crop_flip'
  config.dataset.crop_padding = 4
  # As tfds has them, so that images in folders are normalised alike.
  config.dataset.mean = (0.491, 0.482, 0.447)
  config.dataset.std = (0.247, 0.243, 0.262)
  # Of a folder: a hundred images of each class for what chooses.
  config.dataset.validation_fraction = 0.02

  config.space.stem_stride = 1
  config.evaluate.batch_size = 500
  (_small if variant else _large)(config)
  return config


def _large(config: ConfigDict) -> None:
  """For an accelerator."""
  config.space.stem_channels = 16
  config.space.channels = (24, 40, 80, 96)
  config.space.layers = (3, 3, 3, 3)
  config.space.strides = (1, 2, 2, 1)
  config.space.head_channels = 640
  # The reference's value: over thousands of steps the averages settle.
  config.space.batch_norm_momentum = 0.99

  config.search.epochs = 30.0
  config.search.warmup_epochs = 12.0
  config.search.batch_size = 256

  config.train.epochs = 200.0
  config.train.batch_size = 128
  config.train.lr_warmup_epochs = 5.0
  config.train.dropout = 0.2
  config.train.checkpoint_epochs = 10.0


def _small(config: ConfigDict) -> None:
  """For two CPU cores."""
  config.space.stem_channels = 16
  config.space.channels = (24, 40, 64)
  config.space.layers = (3, 3, 3)
  config.space.strides = (2, 2, 1)
  config.space.head_channels = 256

  config.search.epochs = 4.0
  config.search.warmup_epochs = 1.5
  config.search.batch_size = 128
  config.search.lr_warmup_epochs = 0.2
  config.search.checkpoint_epochs = 0.5

  config.train.epochs = 8.0
  config.train.batch_size = 128
  config.train.lr_warmup_epochs = 0.5
  config.train.checkpoint_epochs = 1.0

  # About as many multiply-adds as the space's networks.
  config.compare_zoo.networks = ('mobilenet_v2',)
  config.compare_zoo.widths = (0.25,)
