"""`ConvNet`: renders any `Architecture` as a Flax module."""

from __future__ import annotations

import flax.linen as nn
from jax import Array

from spnas_jax.models.layers import Frame, Style, mbconv
from spnas_jax.networks.architecture import Architecture


class ConvNet(nn.Module):
  """A fixed network.

  Parameters: `frame/{stem_conv,stem_bn,head_conv,head_bn,classifier}` and
  `block00/{expand_conv,expand_bn,depthwise,depthwise_bn,squeeze,project_conv,
  project_bn}`, ...; batch statistics in the collection `batch_stats`.

  Attributes:
    arch: the network.
    dtype, axis_name, implementation, remat: see `layers.Style`.
    momentum: of the running batch-norm statistics; None = the architecture's.
  """

  arch: Architecture
  dtype: str = 'float32'
  axis_name: str | None = None
  implementation: str = 'auto'
  remat: bool = False
  momentum: float | None = None

  @nn.compact
  def __call__(
    self, x: Array, *, train: bool = False, dropout_mask: Array | None = None
  ) -> Array:
    """Normalised images [B, H, W, C] -> logits float32 [B, num_classes].

    In training, batch statistics are those of the batch (of all devices where
    `axis_name` is set) and `batch_stats` must be mutable. `dropout_mask` is
    [B, features], see `layers.Frame.head`.
    """
    style = Style.of(
      self.arch,
      dtype=self.dtype,
      axis_name=self.axis_name,
      implementation=self.implementation,
      remat=self.remat,
      momentum=self.momentum,
    )
    frame = Frame(self.arch, style, name='frame')
    x = frame.stem(x, train)
    for i, block in enumerate(self.arch.blocks):
      x = mbconv(style)(block, style, name=block_name(i))(x, train)
    return frame.head(x, train, dropout_mask)


def block_name(i: int) -> str:
  """Parameter group of block i."""
  return f'block{i:02d}'
