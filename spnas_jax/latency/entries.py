"""The operations of a search space as small networks that can be timed.

Every entry of a latency table is one of these, exported by itself with random
weights: neither convolutions nor activations take longer for other values. For
the same reason the ranges of int8 models come from a stand-in: standard normal
inputs, which is what batch norm makes of real ones.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax import Array

from spnas_jax.export import int8_ranges, tflite
from spnas_jax.latency.table import block_key, head_key, stem_key
from spnas_jax.models.convnet import ConvNet
from spnas_jax.models.layers import Frame, MBConv, Style
from spnas_jax.networks.architecture import (
  Architecture,
  Block,
  block_input_sizes,
)
from spnas_jax.networks.space import SearchSpace

# Inputs from which an int8 model's ranges are taken.
_CALIBRATION = 4


@dataclasses.dataclass(frozen=True)
class Entry:
  """One operation at one input shape.

  Attributes:
    key: its name in a latency table.
    part: 'stem', 'block' or 'head'.
    arch: a network it is part of: style, and the frame for stem and head.
    size: side of the input map, px.
    channels: of the input map.
    block: the block, None for stem and head.
  """

  key: str
  part: str
  arch: Architecture
  size: int
  channels: int
  block: Block | None = None

  @property
  def input_shape(self) -> tuple[int, int, int, int]:
    return (1, self.size, self.size, self.channels)

  def to_tflite(
    self, rng: np.random.Generator, precision: str = 'float32'
  ) -> bytes:
    """The operation as a TFLite model with random weights."""
    return random_tflite(_Part(self), self.input_shape, rng, precision)


def network_entries(arch: Architecture, image_size: int) -> list[Entry]:
  """Everything a network runs, in order: stem, blocks, head."""
  sizes = block_input_sizes(arch, image_size)
  entries = [
    Entry(
      stem_key(arch, image_size),
      'stem',
      arch,
      image_size,
      arch.input_channels,
    )
  ]
  for block, size in zip(arch.blocks, sizes, strict=False):
    key = block_key(block, size, arch)
    entries.append(Entry(key, 'block', arch, size, block.in_channels, block))
  last = arch.blocks[-1].out_channels
  key = head_key(arch, sizes[-1])
  return [*entries, Entry(key, 'head', arch, sizes[-1], last)]


def space_entries(space: SearchSpace, image_size: int) -> dict[str, Entry]:
  """Key -> entry for everything the networks of a space run, each key once."""
  largest = space.largest
  entries = {e.key: e for e in network_entries(largest, image_size)}
  sizes = block_input_sizes(largest, image_size)[len(space.first) :]
  for layer, size in zip(space.layers, sizes, strict=False):
    for choice in layer.choices:
      block = layer.block(choice)
      key = block_key(block, size, largest)
      entries[key] = Entry(
        key, 'block', largest, size, layer.in_channels, block
      )
  return entries


def network_tflite(
  arch: Architecture,
  image_size: int,
  rng: np.random.Generator,
  num_blocks: int | None = None,
  precision: str = 'float32',
) -> bytes:
  """A bare network with random weights.

  With `num_blocks`, only the stem and that number of blocks.
  """
  network: nn.Module = ConvNet(arch, implementation='primitive')
  if num_blocks is not None:
    network = _Beginning(arch, num_blocks)
  shape = (1, image_size, image_size, arch.input_channels)
  return random_tflite(network, shape, rng, precision)


def random_tflite(
  module: nn.Module,
  input_shape: tuple[int, ...],
  rng: np.random.Generator,
  precision: str = 'float32',
) -> bytes:
  """A module as a TFLite model with random weights.

  Args:
    module: what to export.
    input_shape: of its input.
    rng: of the weights and, for int8, of the inputs that give the ranges.
    precision: see `tflite.convert`; int8 models take and give int8, so that
      one operation is followed by the next without a conversion in between.
  """
  variables = random_variables(module, input_shape, rng)
  calibration = None
  if precision == 'int8':
    calibration = rng.standard_normal((_CALIBRATION, *input_shape), np.float32)
  model = tflite.convert(
    lambda x: module.apply(variables, x),
    input_shape,
    precision=precision,
    calibration=calibration,
    integers='int8',
  )
  return int8_ranges.widen(model) if precision == 'int8' else model


def random_variables(
  module: nn.Module, input_shape: tuple[int, ...], rng: np.random.Generator
) -> Any:
  """Weights and statistics of a module without running its initialisation.

  Weights keep the size of the signal, so that no layer of a deep network meets
  denormal numbers, which processors compute slowly.
  """
  shapes = jax.eval_shape(
    module.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct(input_shape, np.float32),
  )

  def draw(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if name.endswith(('scale', 'var')):
      return np.ones(leaf.shape, np.float32)
    fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 200.0
    spread = np.sqrt(2 / fan_in)
    return (spread * rng.standard_normal(leaf.shape)).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


class _Part(nn.Module):
  """Stem, one block, or head of a network, for inference."""

  entry: Entry

  @nn.compact
  def __call__(self, x: Array) -> Array:
    entry = self.entry
    style = Style.of(entry.arch, implementation='primitive')
    if entry.block is not None:
      return MBConv(entry.block, style)(x, False)
    frame = Frame(entry.arch, style)
    return (
      frame.stem(x, False) if entry.part == 'stem' else frame.head(x, False)
    )


class _Beginning(nn.Module):
  """Stem and first blocks of a network, for inference."""

  arch: Architecture
  num_blocks: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    style = Style.of(self.arch, implementation='primitive')
    x = Frame(self.arch, style).stem(x, False)
    for block in self.arch.blocks[: self.num_blocks]:
      x = MBConv(block, style)(x, False)
    return x
