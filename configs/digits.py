"""Handwritten digits (scikit-learn, 1,797 images): the demo.

  make demo
  python main.py --config=configs/digits.py --workdir=runs/digits

A nine-layer space at 32 px; 1,437 training and 360 test images.
"""

from spnas_jax.config.defaults import default_config


def get_config():
  config = default_config()
  config.latency_table = 'latency/digits_host.json'
  return config
