"""Weights trained in PyTorch, in the shape `ConvNet` wants them.

Knows the tensor names of timm's EfficientNet-family builder (mobilenetv1_100,
mobilenetv2_100, mnasnet_100, semnasnet_100, fbnetc_100, spnasnet_100) and of
torchvision's mobilenet_v2 and mnasnet1_0. PyTorch itself is not needed: any
mapping from names to what NumPy can read will do.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from spnas_jax.core.errors import UserError
from spnas_jax.core.remote import as_path, reaching
from spnas_jax.models.convnet import block_name
from spnas_jax.networks.architecture import Architecture, Block


class _Layout(NamedTuple):
  """Module names of one library: a convolution's, then its batch norm's.

  Attributes:
    stem, head: around the trunk.
    classifier: the fully connected layer.
    blocks: prefix of each block, in order.
    inverted: roles within an 'ir' block.
    separable: roles within a 'ds' or 'dsa' block.
  """

  stem: tuple[str, str]
  head: tuple[str, str]
  classifier: str
  blocks: list[str]
  inverted: dict[str, tuple[str, str]]
  separable: dict[str, tuple[str, str]]


# Squeeze-and-excitation exists in timm's layout only. Its convolutions have
# biases in place of batch norms.
_SQUEEZE = {'squeeze': 'se.conv_reduce', 'excite': 'se.conv_expand'}


class _Layer(NamedTuple):
  """One of our layers and the modules that hold its tensors.

  Attributes:
    group: our parameter group.
    conv: our name of the convolution; its norm's ends in `_bn`.
    modules: PyTorch's names of the convolution and the norm.
    shape: of the convolution's weight, [out, in / groups, k, k].
  """

  group: str
  conv: str
  modules: tuple[str, str]
  shape: tuple[int, int, int, int]

  @property
  def norm(self) -> str:
    return self.conv.removesuffix('_conv') + '_bn'


def load_torch(path: str, arch: Architecture) -> tuple[dict[str, Any], str]:
  """(variables, SHA-256 of the file) from a PyTorch state dict as .npz.

  Raises:
    UserError: the file cannot be read, or belongs to another network.
  """
  try:
    with reaching('train.init', path):
      content = as_path('train.init', path).read_bytes()
    with np.load(io.BytesIO(content)) as file:
      tensors = dict(file)
  except (OSError, ValueError, zipfile.BadZipFile) as e:
    raise UserError(
      f'train.init {path!r} cannot be read: {e}; see docs/networks.md'
    ) from e
  return from_torch(arch, tensors), hashlib.sha256(content).hexdigest()


def from_torch(
  arch: Architecture, state_dict: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
  """The variables of `ConvNet(arch)` from a PyTorch state dict.

  Kernel sizes and channels are checked against the architecture; strides,
  shortcuts, activation, padding and the batch norm's epsilon are not in the
  weights, so `arch` must be right in them (`zoo.get(name, style='torch')`).

  Args:
    arch: the network that the weights belong to.
    state_dict: tensor name -> array, e.g. `model.state_dict()`. Counters named
      `num_batches_tracked` are ignored.

  Returns:
    {'params': ..., 'batch_stats': ...}, NumPy arrays in float32.

  Raises:
    UserError: names of no known library; a tensor that is missing, left over
      or of another shape than the architecture's.
  """
  tensors = _Tensors(state_dict)
  layout = _layout(arch, tensors.names)
  params: dict[str, dict[str, Any]] = {}
  stats: dict[str, dict[str, Any]] = {}
  for layer in _layers(arch, layout):
    conv, norm = layer.modules
    kernel = tensors.take(f'{conv}.weight', layer.shape)
    group = params.setdefault(layer.group, {})
    group[layer.conv] = {'kernel': kernel.transpose(2, 3, 1, 0)}
    size = (layer.shape[0],)
    group[layer.norm] = {
      'scale': tensors.take(f'{norm}.weight', size),
      'bias': tensors.take(f'{norm}.bias', size),
    }
    stats.setdefault(layer.group, {})[layer.norm] = {
      'mean': tensors.take(f'{norm}.running_mean', size),
      'var': tensors.take(f'{norm}.running_var', size),
    }
  for i, block in enumerate(arch.blocks):
    if block.squeeze_channels:
      params[block_name(i)]['squeeze'] = _squeeze(
        tensors, layout.blocks[i], block
      )
  shape = (arch.num_classes, arch.feature_channels)
  params['frame']['classifier'] = {
    'kernel': tensors.take(f'{layout.classifier}.weight', shape).transpose(),
    'bias': tensors.take(f'{layout.classifier}.bias', shape[:1]),
  }
  tensors.finish()
  return {'params': params, 'batch_stats': stats}


def _layers(arch: Architecture, layout: _Layout) -> Iterator[_Layer]:
  """Every convolution that has a batch norm."""
  k = arch.stem_kernel
  shape = (arch.stem_channels, arch.input_channels, k, k)
  yield _Layer('frame', 'stem_conv', layout.stem, shape)
  for i, block in enumerate(arch.blocks):
    names = layout.inverted if block.op == 'ir' else layout.separable
    prefix = layout.blocks[i]
    mid, k, groups = block.mid_channels, block.kernel, block.groups
    shapes = {
      'expand_conv': (mid, block.in_channels // groups, 1, 1),
      'depthwise': (mid, 1, k, k),
      'project_conv': (block.out_channels, mid // groups, 1, 1),
    }
    for role, (conv, norm) in names.items():
      modules = (f'{prefix}.{conv}', f'{prefix}.{norm}')
      yield _Layer(block_name(i), role, modules, shapes[role])
  if arch.head_channels:
    shape = (arch.head_channels, arch.blocks[-1].out_channels, 1, 1)
    yield _Layer('frame', 'head_conv', layout.head, shape)


def _squeeze(tensors: _Tensors, prefix: str, block: Block) -> dict[str, Any]:
  """Parameters of one squeeze-and-excitation."""
  width, mid = block.squeeze_channels, block.mid_channels
  params = {}
  for role, shape in (('squeeze', (width, mid)), ('excite', (mid, width))):
    module = f'{prefix}.{_SQUEEZE[role]}'
    kernel = tensors.take(f'{module}.weight', (*shape, 1, 1))
    params[f'{role}_kernel'] = kernel.transpose(2, 3, 1, 0)
    params[f'{role}_bias'] = tensors.take(f'{module}.bias', shape[:1])
  return params


class _Tensors:
  """A state dict whose tensors are each to be taken once."""

  def __init__(self, state_dict: Mapping[str, Any]):
    self._tensors = {
      name: tensor
      for name, tensor in state_dict.items()
      if not name.endswith('num_batches_tracked')
    }
    self.names = tuple(self._tensors)

  def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor as float32; UserError where it is absent or misshapen."""
    if name not in self._tensors:
      raise UserError(f'torch weights: {name} is missing')
    try:
      # A copy: the PyTorch model may go on training.
      tensor = np.array(self._tensors.pop(name), np.float32)
    except (TypeError, ValueError) as e:
      raise UserError(f'torch weights: {name} is no array ({e})') from e
    if tensor.shape != shape:
      raise UserError(
        f'torch weights: {name} has shape {tensor.shape}, the architecture '
        f'needs {shape}'
      )
    return tensor

  def finish(self) -> None:
    """Raises UserError if something was not taken."""
    _refuse_left_over(list(self._tensors))


def _layout(arch: Architecture, names: Iterable[str]) -> _Layout:
  """Recognises the library by the name of its stem."""
  names = set(names)
  if 'conv_stem.weight' in names:
    return _timm(arch, names)
  if 'features.0.0.weight' in names:
    return _torchvision_mobilenet_v2(arch)
  if 'layers.0.weight' in names:
    return _torchvision_mnasnet(arch, names)
  raise UserError(
    'torch weights: no stem found, allowed: conv_stem.weight (timm), '
    'features.0.0.weight (torchvision mobilenet_v2), layers.0.weight '
    '(torchvision mnasnet)'
  )


def _timm(arch: Architecture, names: set[str]) -> _Layout:
  blocks = _prefixes(r'blocks\.(\d+)\.(\d+)(?=\.)', names)
  return _Layout(
    stem=('conv_stem', 'bn1'),
    head=('conv_head', 'bn2'),
    classifier='classifier',
    blocks=_as_many(arch, blocks),
    inverted={
      'expand_conv': ('conv_pw', 'bn1'),
      'depthwise': ('conv_dw', 'bn2'),
      'project_conv': ('conv_pwl', 'bn3'),
    },
    separable={
      'depthwise': ('conv_dw', 'bn1'),
      'project_conv': ('conv_pw', 'bn2'),
    },
  )


def _torchvision_mobilenet_v2(arch: Architecture) -> _Layout:
  head = len(arch.blocks) + 1
  return _Layout(
    stem=('features.0.0', 'features.0.1'),
    head=(f'features.{head}.0', f'features.{head}.1'),
    classifier='classifier.1',
    blocks=[f'features.{i}.conv' for i in range(1, head)],
    inverted={
      'expand_conv': ('0.0', '0.1'),
      'depthwise': ('1.0', '1.1'),
      'project_conv': ('2', '3'),
    },
    separable={'depthwise': ('0.0', '0.1'), 'project_conv': ('1', '2')},
  )


def _torchvision_mnasnet(arch: Architecture, names: set[str]) -> _Layout:
  # One flat list: stem, the separable block, the stages, the head.
  blocks = _prefixes(r'layers\.(\d+)\.(\d+)\.layers(?=\.)', names)
  flat = (re.match(r'layers\.(\d+)\.', name) for name in names)
  norm = max(int(match[1]) for match in flat if match)
  return _Layout(
    stem=('layers.0', 'layers.1'),
    head=(f'layers.{norm - 1}', f'layers.{norm}'),
    classifier='classifier.1',
    blocks=_as_many(arch, ['layers', *blocks]),
    inverted={
      'expand_conv': ('0', '1'),
      'depthwise': ('3', '4'),
      'project_conv': ('6', '7'),
    },
    separable={'depthwise': ('3', '4'), 'project_conv': ('6', '7')},
  )


def _prefixes(pattern: str, names: Iterable[str]) -> list[str]:
  """Distinct beginnings that match, ordered by their (stage, block) numbers."""
  found = {
    (int(match[1]), int(match[2])): match[0]
    for match in (re.match(pattern, name) for name in names)
    if match
  }
  return [found[key] for key in sorted(found)]


def _as_many(arch: Architecture, blocks: list[str]) -> list[str]:
  """The blocks, if there are as many as the architecture has."""
  wanted = len(arch.blocks)
  if len(blocks) < wanted:
    raise UserError(
      f'torch weights: tensors of {wanted - len(blocks)} blocks are missing, '
      f'the architecture has {wanted}, found: {", ".join(blocks) or "none"}'
    )
  _refuse_left_over(blocks[wanted:])
  return blocks


def _refuse_left_over(names: list[str]) -> None:
  if names:
    more = f' and {len(names) - 5} more' if len(names) > 5 else ''
    raise UserError(
      f'torch weights: left over, not in the architecture: '
      f'{", ".join(names[:5])}{more}'
    )
