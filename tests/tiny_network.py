"""A small trained network, as far as its export is concerned."""

import functools

import jax
import numpy as np
import tiny

from spnas_jax.latency.entries import random_variables
from spnas_jax.models.convnet import ConvNet
from spnas_jax.networks.architecture import Architecture

SIZE = 12


# Stride 2 and 1, with and without shortcut, no expansion, both activations of
# the head's neighbours.
TEXT = (
  'stem_k3_s2_i3_c8 ds_r1_k3_s1_c8 ir_r2_k5_s2_e3_c12 ir_r1_k3_s1_e2_c8 '
  'head_c16 fc_c6'
)


def network(text: str = TEXT, **style):
  arch = Architecture.from_string(text, **style)
  shape = (1, SIZE, SIZE, arch.input_channels)
  rng = np.random.default_rng(0)
  variables = random_variables(ConvNet(arch), shape, rng)
  return arch, tiny.randomise(variables)


def images(count: int, channels: int = 3) -> np.ndarray:
  rng = np.random.default_rng(1)
  return rng.uniform(0, 1, (count, SIZE, SIZE, channels)).astype(np.float32)


def jax_logits(arch, variables, x):
  """Of up to 16 images; always as many, so that a network compiles once."""
  whole = np.resize(x, (16, *x.shape[1:]))
  return np.asarray(_apply(arch)(variables, whole))[: len(x)]


@functools.cache
def _apply(arch):
  return jax.jit(ConvNet(arch).apply)
