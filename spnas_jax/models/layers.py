"""Linen building blocks shared by `ConvNet` and `SuperNet`.

Parameters, batch-norm statistics and every reduction over them are float32;
`Style.dtype` is what convolutions compute in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from spnas_jax.models.depthwise import depthwise_conv
from spnas_jax.models.pointwise import pointwise_conv
from spnas_jax.networks.architecture import Architecture, Block


@dataclasses.dataclass(frozen=True)
class Style:
  """What all layers of one network share.

  Attributes:
    activation, momentum, epsilon, padding: as in `Architecture`.
    dtype: compute type of convolutions, 'float32' or 'bfloat16'.
    axis_name: mapped axis over which batch-norm statistics are averaged
      (synchronised); None keeps them per device, the reference's way.
    implementation: 'auto' computes convolutions the fastest way of the platform
      it is lowered for; 'primitive' by XLA's convolution only, which is what
      the TFLite converter recognises.
    remat: see `mbconv`.
  """

  activation: str = 'relu'
  momentum: float = 0.99
  epsilon: float = 1e-3
  padding: str = 'same'
  dtype: str = 'float32'
  axis_name: str | None = None
  implementation: str = 'auto'
  remat: bool = False

  @classmethod
  def of(
    cls, arch: Architecture, momentum: float | None = None, **kwargs
  ) -> Style:
    """The style an architecture asks for; `momentum` replaces its own."""
    return cls(
      activation=arch.activation,
      momentum=arch.batch_norm_momentum if momentum is None else momentum,
      epsilon=arch.batch_norm_epsilon,
      padding=arch.padding,
      **kwargs,
    )


def fan_out_normal(key, shape, dtype=jnp.float32):
  """N(0, sqrt(2 / fan_out)), fan_out = kh kw out / groups (MnasNet code).

  For a depthwise kernel [k, k, 1, C] "out" is the multiplier 1, so 5x5
  superkernels start with standard deviation sqrt(2 / 25).
  """
  height, width, inputs, outputs = shape
  multiplier = 1 if inputs == 1 and height > 1 else outputs
  std = (2.0 / (height * width * multiplier)) ** 0.5
  return std * jax.random.normal(key, shape, dtype)


def stem_normal(key, shape, dtype=jnp.float32, groups=1):
  """The same rule where one input channel does not mean depthwise."""
  height, width, _, outputs = shape
  std = (2.0 / (height * width * outputs / groups)) ** 0.5
  return std * jax.random.normal(key, shape, dtype)


def dense_uniform(key, shape, dtype=jnp.float32):
  """U(-1/sqrt(n), 1/sqrt(n)) with n = output features (MnasNet code)."""
  bound = shape[-1] ** -0.5
  return jax.random.uniform(key, shape, dtype, -bound, bound)


def activate(x: Array, name: str) -> Array:
  """'relu' or 'relu6', which the TFLite converter fuses.

  By `jax.nn`, whose gradient selects; that of a bare maximum divides.
  """
  return jax.nn.relu6(x) if name == 'relu6' else jax.nn.relu(x)


class BatchNorm(nn.Module):
  """Batch norm over batch, height and width, in float32 whatever `x` is.

  Only the result is rounded to `x`'s type: a bfloat16 factor and offset cancel
  badly where a channel's mean is many times its standard deviation (RMS error
  0.028 at ten times, 0.0017 so). `gate` [] multiplies the output; inside the
  affine it costs nothing.
  """

  style: Style

  @nn.compact
  def __call__(self, x: Array, train: bool, gate: Array | None = None) -> Array:
    shape = (x.shape[-1],)
    scale = self.param('scale', nn.initializers.ones, shape, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, shape, jnp.float32)
    mean_ = self.variable('batch_stats', 'mean', jnp.zeros, shape, jnp.float32)
    var_ = self.variable('batch_stats', 'var', jnp.ones, shape, jnp.float32)
    if train:
      wide = x.astype(jnp.float32)
      mean, square = wide.mean((0, 1, 2)), (wide * wide).mean((0, 1, 2))
      if self.style.axis_name is not None and not self.is_initializing():
        moments = jnp.stack([mean, square])  # One reduction over devices.
        mean, square = lax.pmean(moments, self.style.axis_name)
      var = jnp.maximum(square - mean * mean, 0.0)
      if not self.is_initializing():
        keep = self.style.momentum
        mean_.value = keep * mean_.value + (1 - keep) * mean
        var_.value = keep * var_.value + (1 - keep) * var
    else:
      mean, var = mean_.value, var_.value
    factor = scale * lax.rsqrt(var + self.style.epsilon)
    offset = bias - mean * factor
    if gate is not None:
      factor, offset = gate * factor, gate * offset
    return (x.astype(jnp.float32) * factor + offset).astype(x.dtype)


class Conv(nn.Module):
  """k x k convolution without bias, SAME or symmetric padding.

  `input_scale` [C] multiplies the input's channels, by way of the kernel: the
  activations, and the gradient's sums over them, are left alone.
  """

  features: int
  kernel: int
  stride: int
  style: Style
  groups: int = 1

  @nn.compact
  def __call__(self, x: Array, input_scale: Array | None = None) -> Array:
    k, inputs = self.kernel, x.shape[-1]
    shape = (k, k, inputs // self.groups, self.features)
    kernel = self.param('kernel', stem_normal, shape, jnp.float32, self.groups)
    if input_scale is not None:
      kernel = kernel * input_scale[:, None]
    kernel = kernel.astype(x.dtype)
    plain = k == self.stride == self.groups == 1
    if plain and self.style.implementation == 'auto':
      return pointwise_conv(x, kernel[0, 0])
    pads: Any = 'SAME'
    if self.style.padding == 'symmetric':
      pads = [(k // 2, k // 2)] * 2
    return lax.conv_general_dilated(
      x,
      kernel,
      (self.stride, self.stride),
      pads,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=self.groups,
    )


class Depthwise(nn.Module):
  """k x k depthwise convolution whose kernel may be a superkernel.

  `transform` maps the raw kernel [k, k, 1, C] to the effective one.
  """

  kernel: int
  stride: int
  style: Style

  @nn.compact
  def __call__(
    self, x: Array, transform: Callable[[Array], Array] | None = None
  ) -> Array:
    k = self.kernel
    kernel = self.param('kernel', fan_out_normal, (k, k, 1, x.shape[-1]))
    if transform is not None:
      kernel = transform(kernel)
    return depthwise_conv(
      x,
      kernel.astype(x.dtype),
      stride=self.stride,
      padding=self.style.padding,
      implementation=self.style.implementation,
    )


class SqueezeExcite(nn.Module):
  """sigmoid(W2 relu(W1 mean(x))), [B, 1, 1, C]: a scale for every channel."""

  width: int
  style: Style

  @nn.compact
  def __call__(self, x: Array) -> Array:
    def dense(name, inputs, outputs):
      return (
        self.param(f'{name}_kernel', fan_out_normal, (1, 1, inputs, outputs)),
        self.param(f'{name}_bias', nn.initializers.zeros, (outputs,)),
      )

    def apply(y, kernel, bias):
      y = lax.conv_general_dilated(
        y,
        kernel.astype(y.dtype),
        (1, 1),
        'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )
      return y + bias.astype(y.dtype)

    channels = x.shape[-1]
    y = x.mean((1, 2), keepdims=True)
    y = jnp.maximum(apply(y, *dense('squeeze', channels, self.width)), 0)
    return jax.nn.sigmoid(apply(y, *dense('excite', self.width, channels)))


class LayerGates(NamedTuple):
  """What a supernet's decisions do inside one block; None = nothing.

  Attributes:
    transform: raw superkernel -> effective kernel.
    channels: [C], multiplies the depthwise stage after norm and activation.
    squeeze: [], 1 = the squeeze-and-excitation scale applies, 0 = it does not.
    keep: [], multiplies the branch output; 0 = the layer is the identity.
  """

  transform: Callable[[Array], Array] | None = None
  channels: Array | None = None
  squeeze: Array | None = None
  keep: Array | None = None


class MBConv(nn.Module):
  """One block (paper Fig. 2, middle), plain or under a supernet's gates."""

  block: Block
  style: Style

  @nn.compact
  def __call__(
    self, x: Array, train: bool, gates: LayerGates = LayerGates()
  ) -> Array:
    block, style = self.block, self.style

    def norm(name, y, act=True, gate=None):
      y = BatchNorm(style, name=name)(y, train, gate)
      return activate(y, style.activation) if act else y

    y = x
    if block.op == 'ir':
      y = Conv(
        block.mid_channels, 1, 1, style, block.groups, name='expand_conv'
      )(y)
      y = norm('expand_bn', y)
      if block.groups > 1:
        y = _shuffle(y, block.groups)
    y = Depthwise(block.kernel, block.stride, style, name='depthwise')(
      y, gates.transform
    )
    y = norm('depthwise_bn', y)
    channels = gates.channels
    if block.squeeze_channels:
      if channels is not None:
        # Squeezing also sees closed channels as zeros.
        y, channels = y * channels.astype(y.dtype), None
      factor = SqueezeExcite(block.squeeze_channels, style, name='squeeze')(y)
      if gates.squeeze is not None:
        gate = gates.squeeze.astype(y.dtype)
        factor = gate * factor + (1 - gate)
      y = y * factor
    y = Conv(
      block.out_channels, 1, 1, style, block.groups, name='project_conv'
    )(y, channels)
    # The gate commutes with the activation: it is 0 or positive.
    y = norm('project_bn', y, act=block.op == 'dsa', gate=gates.keep)
    return x + y if block.residual else y


def mbconv(style: Style) -> type[MBConv]:
  """`MBConv`, or with `style.remat` one that keeps its input only.

  What is in between is computed again in the backward pass.
  """
  # 2: `train`, a Python value; 0 is the module itself.
  return nn.remat(MBConv, static_argnums=(2,)) if style.remat else MBConv


def _shuffle(x: Array, groups: int) -> Array:
  """Channel shuffle: [groups, C / groups] transposed."""
  shape = x.shape
  x = x.reshape(*shape[:-1], groups, shape[-1] // groups)
  return jnp.swapaxes(x, -1, -2).reshape(shape)


class Frame(nn.Module):
  """What surrounds the trunk: stem before it, head and classifier after it.

  Attributes:
    arch: only its stem, head and classifier are read.
  """

  arch: Architecture
  style: Style

  def setup(self):
    arch, style = self.arch, self.style
    self.stem_conv = Conv(
      arch.stem_channels, arch.stem_kernel, arch.stem_stride, style
    )
    self.stem_bn = BatchNorm(style)
    if arch.head_channels:
      self.head_conv = Conv(arch.head_channels, 1, 1, style)
      self.head_bn = BatchNorm(style)
    self.classifier = nn.Dense(
      arch.num_classes, kernel_init=dense_uniform, dtype=jnp.float32
    )

  def stem(self, x: Array, train: bool) -> Array:
    """[B, H, W, C] -> the trunk's input, in the compute dtype."""
    x = self.stem_conv(x.astype(self.style.dtype))
    return activate(self.stem_bn(x, train), self.style.activation)

  def head(
    self, x: Array, train: bool, dropout_mask: Array | None = None
  ) -> Array:
    """Trunk output -> logits, float32 [B, num_classes].

    `dropout_mask` [B, features] multiplies the pooled features: 0 or
    1 / keep probability, drawn outside so that it need not depend on how many
    devices share the batch.
    """
    if self.arch.head_channels:
      x = activate(
        self.head_bn(self.head_conv(x), train), self.style.activation
      )
    x = x.astype(jnp.float32).mean((1, 2))
    if dropout_mask is not None:
      x = x * dropout_mask
    return self.classifier(x)
