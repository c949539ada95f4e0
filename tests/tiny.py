"""Small spaces, a made-up latency table and a configuration for the tests.

Two stages of two layers, 8 to 12 channels, 12 px: everything here compiles in a
second or two.
"""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import settings
from ml_collections import ConfigDict

from spnas_jax.config.defaults import default_config
from spnas_jax.latency.table import LatencyTable, network_keys
from spnas_jax.models.supernet import SuperNet
from spnas_jax.networks.architecture import Block
from spnas_jax.networks.space import SearchSpace, Stage

IMAGE_SIZE = 12
NUM_CLASSES = 6

# The same examples in every run; compiling may make one of them slow.
steady = settings(derandomize=True, deadline=None)


def jit(f):
  """`jax.jit` for what runs once: compiles in half the time, runs slower."""
  return jax.jit(f, compiler_options={'xla_backend_optimization_level': 0})


def space(
  kernels: tuple[int, ...] = (3, 5),
  expansions: tuple[int, ...] = (2, 4),
  squeeze_ratios: tuple[float, ...] = (0.0,),
  fixed_blocks: bool = False,
  **changes,
) -> SearchSpace:
  """Two stages of two layers; the second of each may be skipped.

  The first layer of stage 0 has stride 2, that of stage 1 has stride 1 and more
  channels than its input. `fixed_blocks` puts one in front and one behind.
  """
  fields: dict[str, Any] = {
    'stages': (
      Stage(8, 2, 2, kernels, expansions, squeeze_ratios),
      Stage(12, 2, 1, kernels, expansions, squeeze_ratios),
    ),
    'stem_channels': 8,
    'first': (Block('ds', 3, 1, 8, 8),) if fixed_blocks else (),
    'last': (Block('ir', 3, 1, 12, 8, expansion=2),) if fixed_blocks else (),
    'head_channels': 16,
    'num_classes': NUM_CLASSES,
    'input_channels': 1,
  }
  return SearchSpace(**{**fields, **changes})


def table(
  of: SearchSpace, image_size: int = IMAGE_SIZE, factor: float = 1.0
) -> LatencyTable:
  """Made-up milliseconds for everything in a space, keyed by shape.

  Larger operations are slower; a few percent of noise, a function of the key,
  keep two keys from having the same time.
  """
  entries = {}
  largest = of.largest
  most = max(len(layer.choices) for layer in of.layers)
  variants = [
    of.architecture_of(
      tuple(x.choices[min(i, len(x.choices) - 1)] for x in of.layers)
    )
    for i in range(most)
  ]
  for arch in (largest, *variants):
    for key in network_keys(arch, image_size):
      entries[key] = {'ms': _made_up_ms(key), 'spread_ms': 0.001, 'count': 10}
  return LatencyTable(
    name='made-up',
    device={'name': 'none'},
    software={'made_by': 'tests'},
    threads=1,
    protocol={'statistic': 'none'},
    date='2000-01-01',
    image_size=image_size,
    entries=entries,
    calibration={'factor': factor},
  )


def _made_up_ms(key: str) -> float:
  """0.1 to a few ms, growing with kernel size, expansion and squeeze."""
  numbers = {}
  for word in key.split('_'):
    letters = word.rstrip('0123456789.')
    if letters != word:
      numbers[letters] = float(word[len(letters) :])
  noise = zlib.crc32(key.encode()) / 2**32
  work = numbers.get('e', 1) * (1 + numbers.get('k', 1) ** 2 / 25)
  return 0.1 * work * (1 + numbers.get('se', 0)) * (1 + 0.05 * noise)


def config(**search) -> ConfigDict:
  """The digits configuration with a space like `space()`, some steps long."""
  c = default_config()
  c.space.update(
    channels=(8, 12), layers=(2, 2), strides=(2, 1), expansions=(2, 4)
  )
  c.space.head_channels = 16
  for recipe in (c.search, c.train):
    recipe.update(epochs=1.0, batch_size=16, lr_warmup_epochs=0.0)
  c.search.update(warmup_epochs=0.5, **search)
  return c


def variables(net: SuperNet, seed: int = 0) -> dict[str, Any]:
  """Parameters and statistics of a supernet in which nothing is trivial.

  Norms' scales, biases and statistics, the classifier's and the squeezes'
  biases are random: at their initial values (1, 0) many mistakes do not show.
  """
  of = net.space
  x = jnp.zeros((1, IMAGE_SIZE, IMAGE_SIZE, of.input_channels))
  gates = jnp.ones(len(of.gates))
  initial = jit(net.init)(jax.random.key(seed), x, gates)
  return randomise(initial, seed)


def randomise(tree: dict[str, Any], seed: int = 0) -> dict[str, Any]:
  """Replaces every scale, bias, mean and variance by random numbers."""
  rng = np.random.default_rng(seed)

  def replace(path, leaf):
    name = path[-1].key
    if name in ('scale', 'var'):
      return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
    if name == 'mean' or name.endswith('bias'):
      return jnp.asarray(rng.normal(0.0, 0.5, leaf.shape), jnp.float32)
    return leaf

  return jax.tree_util.tree_map_with_path(replace, tree)


def images(batch: int, of: SearchSpace, seed: int = 0) -> jax.Array:
  """Random images [batch, 12, 12, C], unit variance."""
  rng = np.random.default_rng(seed)
  shape = (batch, IMAGE_SIZE, IMAGE_SIZE, of.input_channels)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def labels(batch: int, seed: int = 0) -> jax.Array:
  """Random labels int32 [batch]."""
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.integers(NUM_CLASSES, size=batch), jnp.int32)


def all_gates(of: SearchSpace) -> np.ndarray:
  """Every 0/1 gate vector of a space, float32 [2^gates, gates]."""
  count = len(of.gates)
  codes = np.arange(2**count)[:, None] >> np.arange(count)
  return (codes & 1).astype(np.float32)
