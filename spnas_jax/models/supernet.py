"""The one-shot supernet: one path, every candidate a subset of its weights.

`SuperNet` is a pure function of weights and *gates*; who sets the gates (a
search formulation, a forced decision, an evolution) is not its business.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from spnas_jax.models.convnet import block_name
from spnas_jax.models.layers import Frame, LayerGates, Style, mbconv
from spnas_jax.models.superkernel import channel_scale, superkernel
from spnas_jax.networks.space import Choice, Choices, SearchSpace

PLACEMENTS = ('after_norm', 'kernel')


class SuperNet(nn.Module):
  """All networks of a space in the weights of its largest one (Fig. 2).

  Parameters are those of `ConvNet` for the largest network (`layer00`, ... for
  the searchable blocks) and `thresholds` [num_thresholds] float32, which start
  at 0 and which only `gates.decide` reads.

  Attributes:
    space: the search space.
    placement: where expansion and skip gates act.
      'after_norm': after norm and activation of the depthwise stage, and on
      the branch output. A closed channel contributes exactly nothing and a
      skipped layer is the identity: the supernet under hard gates computes what
      the decoded network computes with the same weights.
      'kernel': on the depthwise kernel, as printed (Eq. 3) and as the authors
      coded it. Zeroed channels still pass a batch norm whose bias survives the
      activation, so it does *not* equal the decoded network: the projection
      receives act(bias - mean * scale / sqrt(var + eps)) from every closed
      channel, and a skipped layer adds its branch of such constants.
    num_thresholds: length of `thresholds`; None = one for every gate.
    dtype, axis_name, implementation, remat: see `layers.Style`.
    momentum: of the running batch-norm statistics; None = the space's.
  """

  space: SearchSpace
  placement: str = 'after_norm'
  num_thresholds: int | None = None
  dtype: str = 'float32'
  axis_name: str | None = None
  implementation: str = 'auto'
  momentum: float | None = None
  remat: bool = False

  @nn.compact
  def __call__(
    self,
    x: Array,
    gates: Array,
    *,
    train: bool = False,
    dropout_mask: Array | None = None,
  ) -> Array:
    """Normalised images [B, H, W, C] -> logits float32 [B, num_classes].

    Args:
      x: images.
      gates: [num_gates] float32, in the order of `space.gates`.
      train: use and update the statistics of the batch.
      dropout_mask: [B, features], see `layers.Frame.head`.
    """
    if self.placement not in PLACEMENTS:
      raise ValueError(
        f'placement is {self.placement!r}, allowed: {", ".join(PLACEMENTS)}'
      )
    largest = self.space.largest
    style = Style.of(
      largest,
      dtype=self.dtype,
      axis_name=self.axis_name,
      implementation=self.implementation,
      remat=self.remat,
      momentum=self.momentum,
    )
    count = self.num_thresholds
    if count is None:
      count = len(self.space.gates)
    self.param('thresholds', nn.initializers.zeros, (count,), jnp.float32)
    gates = gates.astype(jnp.float32)
    frame = Frame(largest, style, name='frame')
    x = frame.stem(x, train)
    make_block = mbconv(style)
    for i, block in enumerate(self.space.first):
      x = make_block(block, style, name=f'first{i}')(x, train)
    for i, layer in enumerate(self.space.layers):
      block = layer.block(layer.choices[-1])
      x = make_block(block, style, name=layer_name(i))(
        x, train, layer_gates(self.space, i, gates, self.placement)
      )
    for i, block in enumerate(self.space.last):
      x = make_block(block, style, name=f'last{i}')(x, train)
    return frame.head(x, train, dropout_mask)


def layer_name(i: int) -> str:
  """Parameter group of searchable layer i."""
  return f'layer{i:02d}'


def layer_gates(
  space: SearchSpace, i: int, gates: Array, placement: str
) -> LayerGates:
  """What the gate vector [num_gates] does in searchable layer i."""
  layer = space.layers[i]

  def of(kind):
    return gates[np.array(space.gate_index[i, kind], np.int32)]

  keep = of('keep')[0] if layer.skippable else None
  channels = None
  if len(layer.expansions) > 1:
    channels = channel_scale(
      of('expansion'), layer.expansions, layer.in_channels
    )
  squeeze = of('squeeze')[0] if len(layer.squeeze_ratios) > 1 else None
  # A tree whose leaves are the gates: a block may be rematerialised.
  build = functools.partial(superkernel, kernels=layer.kernels)
  if placement == 'after_norm':
    transform = Partial(build, kernel_gates=of('kernel'))
    return LayerGates(transform, channels, squeeze, keep)
  if keep is not None:
    ones = jnp.ones(layer.expansions[-1] * layer.in_channels, jnp.float32)
    channels = keep * (ones if channels is None else channels)
  transform = Partial(build, kernel_gates=of('kernel'), channel_scale=channels)
  return LayerGates(transform=transform, squeeze=squeeze)


def inherit(
  space: SearchSpace,
  choices: Choices,
  variables: dict[str, Any],
) -> dict[str, Any]:
  """Weights of the decoded network, cut out of the supernet's.

  Args:
    space: the search space.
    choices: one for each layer, None = skipped.
    variables: the supernet's {'params', 'batch_stats'}.

  Returns:
    {'params', 'batch_stats'} for `ConvNet(space.architecture_of(choices))`.
    Under 'after_norm' it computes what the supernet computes under the gates.
  """
  result: dict[str, Any] = {}
  for collection, tree in variables.items():
    out = {'frame': tree['frame']}
    names: list[tuple[str, Any, Any]] = [
      (f'first{i}', None, None) for i in range(len(space.first))
    ]
    names += [
      (layer_name(i), layer, choice)
      for i, (layer, choice) in enumerate(
        zip(space.layers, choices, strict=True)
      )
      if choice is not None
    ]
    names += [(f'last{i}', None, None) for i in range(len(space.last))]
    for position, (name, layer, choice) in enumerate(names):
      group = tree[name]
      if layer is not None:
        group = _cut(group, layer, choice)
      out[block_name(position)] = group
    result[collection] = out
  return result


def _cut(group: dict[str, Any], layer, choice: Choice) -> dict[str, Any]:
  """One layer's parameters or statistics, reduced to a choice."""
  mid = layer.in_channels * choice.expansion
  margin = (layer.kernels[-1] - choice.kernel) // 2
  inside = slice(margin, layer.kernels[-1] - margin)
  cut = {}
  for name, leaves in group.items():
    if name == 'expand_conv':
      cut[name] = {'kernel': leaves['kernel'][..., :mid]}
    elif name in ('expand_bn', 'depthwise_bn'):
      cut[name] = {k: v[:mid] for k, v in leaves.items()}
    elif name == 'depthwise':
      cut[name] = {'kernel': leaves['kernel'][inside, inside, :, :mid]}
    elif name == 'project_conv':
      cut[name] = {'kernel': leaves['kernel'][:, :, :mid]}
    elif name == 'squeeze':
      if choice.squeeze_ratio:
        cut[name] = {
          'squeeze_kernel': leaves['squeeze_kernel'][:, :, :mid],
          'squeeze_bias': leaves['squeeze_bias'],
          'excite_kernel': leaves['excite_kernel'][..., :mid],
          'excite_bias': leaves['excite_bias'][:mid],
        }
    else:
      cut[name] = leaves
  return cut
