"""CIFAR-10, 50,000 + 10,000 images at 32 px: search, train, export, report.

  python main.py --stage=build_table --config=configs/cifar10.py \
    --workdir=runs/cifar10
  python main.py --config=configs/cifar10.py --workdir=runs/cifar10 \
    --config.latency_table=runs/cifar10/latency_table.json

The first command times the space's operations on this machine; the target is
half-way between the fastest and the slowest network unless you set
--config.search.target_ms. Twelve layers, 140,000 to 740,000
parameters, 14 to 89 M multiply-adds.

Needs: cifar10 prepared by tfds (`tfds build cifar10 --data_dir=data`), which
downloads 163 MB once.
Hardware: one GPU or TPU; two CPU cores only to try it out, with fewer
`search.epochs` and `train.epochs`.
Expected: 5,850 search steps, 78,000 training steps. Not run here on CIFAR-10,
so there is no accuracy to expect yet.
"""

from ml_collections import ConfigDict

from spnas_jax.config.defaults import default_config


def get_config() -> ConfigDict:
  config = default_config()

  config.dataset.name = 'cifar10'
  config.dataset.image_size = 32
  config.dataset.augment = 'crop_flip'
  config.dataset.crop_padding = 4

  config.space.stem_stride = 1
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

  config.evaluate.batch_size = 500
  return config
