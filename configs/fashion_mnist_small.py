"""Fashion-MNIST in a space of small networks that differ more.

  python main.py --config=configs/fashion_mnist_small.py --workdir=runs/small

About half the channels of `configs/fashion_mnist.py` and expansion ratios from
1 to 6: networks of one latency differ by points instead of tenths, so that a
search can be told from luck (docs/search.md).
"""

from configs import fashion_mnist


def get_config():
  config = fashion_mnist.get_config()
  config.latency_table = 'latency/fashion_mnist_small_host.json'
  config.space.channels = (8, 16, 24)
  config.space.expansions = (1, 3, 6)
  config.space.head_channels = 64
  return config
