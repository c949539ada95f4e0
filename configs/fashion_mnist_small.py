"""Fashion-MNIST in a space of smaller networks with one choice more a layer.

  python main.py --config=configs/fashion_mnist_small.py --workdir=runs/small

Fewer channels than in `configs/fashion_mnist.py`, and expansion ratios of 1, 3
and 6. docs/search.md has what searches in it were measured to do.
"""

from configs import fashion_mnist


def get_config():
  config = fashion_mnist.get_config()
  config.latency_table = 'latency/fashion_mnist_small_host.json'
  config.space.channels = (8, 16, 24)
  config.space.expansions = (1, 3, 6)
  config.space.head_channels = 64
  return config
