"""Fashion-MNIST, all 60,000 + 10,000 images at 28 px.

  python main.py --config=configs/fashion_mnist.py --workdir=runs/fashion

The images come from Debian's package dataset-fashion-mnist, or from the four
IDX files in `dataset.raw_dir`.
"""

from spnas_jax.config.defaults import default_config


def get_config():
  config = default_config()
  config.latency_table = 'latency/fashion_mnist_host.json'

  config.dataset.name = 'fashion_mnist'
  config.dataset.image_size = 28
  config.dataset.augment = 'crop_flip'
  config.dataset.crop_padding = 2

  config.space.stem_channels = 8
  config.space.stem_stride = 1
  config.space.channels = (16, 24, 32)
  config.space.layers = (3, 3, 3)
  config.space.strides = (2, 2, 1)
  config.space.head_channels = 128

  config.search.epochs = 4.0
  config.search.warmup_epochs = 1.5
  config.search.batch_size = 128
  config.search.lr_warmup_epochs = 0.2
  config.search.checkpoint_epochs = 1.0

  config.train.epochs = 10.0
  config.train.batch_size = 128
  config.train.lr_warmup_epochs = 0.2
  config.train.checkpoint_epochs = 2.0

  config.evaluate.batch_size = 500

  # About as many multiply-adds as the space's largest network: some 20 minutes
  # for each network on two idle cores. Width 1.0 has ten times as many.
  config.compare_zoo.widths = (0.25,)
  return config
