"""One mobile ConvNet, completely described: the type everything passes around.

Pure Python, no JAX: search, zoo, training, export, profiling and reports all
exchange an `Architecture`, as an object, as JSON (complete) or as one line of
block strings (structure only).
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from spnas_jax.core import foreign
from spnas_jax.core.errors import UserError
from spnas_jax.networks import block_strings
from spnas_jax.networks.block import (
  KERNELS,
  MAX_BLOCKS,
  MAX_EXPANSION,
  OPS,
  STRIDES,
  Block,
  check_choice,
  check_ratio,
  check_whole,
)

SCHEMA = 1
ACTIVATIONS = ('relu', 'relu6')
PADDINGS = ('same', 'symmetric')
STEM_KERNELS = tuple(range(1, 32, 2))
EPSILONS = (1e-12, 1.0)  # Of batch norm; in float32 1e-46 is 0.


@dataclasses.dataclass(frozen=True)
class Architecture:
  """A stem convolution, blocks, a 1x1 head convolution and a classifier.

  Attributes:
    blocks: the trunk, in order.
    stem_channels: output channels of the k x k stem convolution.
    head_channels: channels of the 1x1 head convolution; 0 = no head.
    num_classes: width of the classifier.
    input_channels: channels of the image.
    stem_kernel: kernel size of the stem, odd.
    stem_stride: stride of the stem.
    activation: 'relu' or 'relu6'.
    batch_norm_momentum: share of the old statistics that is kept per step.
    batch_norm_epsilon: added to the variance.
    padding: 'same' (TensorFlow, asymmetric at stride 2) or 'symmetric'
      (PyTorch, kernel // 2 on both sides).
    provenance: who made it, with what; free JSON, not part of the structure.
  """

  blocks: tuple[Block, ...]
  stem_channels: int
  head_channels: int
  num_classes: int
  input_channels: int = 3
  stem_kernel: int = 3
  stem_stride: int = 2
  activation: str = 'relu'
  batch_norm_momentum: float = 0.99
  batch_norm_epsilon: float = 1e-3
  padding: str = 'same'
  provenance: dict[str, Any] = dataclasses.field(
    default_factory=dict, compare=False, hash=False
  )

  def __post_init__(self):
    _validate(self)

  @property
  def feature_channels(self) -> int:
    """Channels that reach the classifier."""
    return self.head_channels or self.blocks[-1].out_channels

  def replace(self, **changes) -> Architecture:
    """A copy with some attributes changed."""
    return dataclasses.replace(self, **changes)

  # --- JSON: complete ---------------------------------------------------------

  def to_json(self) -> str:
    """Complete description as JSON text; `from_json` gives it back exactly."""
    fields = dataclasses.asdict(self)
    return json.dumps({'schema': SCHEMA, **fields}, indent=1) + '\n'

  @classmethod
  def from_json(cls, text: str) -> Architecture:
    """Parses `to_json`'s text.

    Raises:
      UserError: not JSON, another schema, a missing, unknown or wrong field.
    """
    fields = foreign.parse_json(text, 'architecture')
    if not isinstance(fields, dict):
      raise UserError('architecture: the JSON text must be one object')
    schema = fields.pop('schema', None)
    if schema != SCHEMA:
      raise UserError(f'architecture: schema is {schema!r}, allowed: {SCHEMA}')
    blocks = fields.pop('blocks', None)
    if not isinstance(blocks, list):
      raise UserError('architecture: blocks must be a list of objects')
    return _construct(
      cls,
      {
        **fields,
        'blocks': tuple(
          _construct(Block, block, f'blocks[{i}]')
          for i, block in enumerate(blocks)
        ),
      },
      'architecture',
    )

  # --- One line: structure only -----------------------------------------------

  def to_string(self) -> str:
    """The structure in the field's block notation, see `block_strings`."""
    return block_strings.render(vars(self), self.blocks)

  @classmethod
  def from_string(cls, text: str, **style) -> Architecture:
    """Parses `to_string`'s line; `style` sets the fields that are not in it.

    Raises:
      UserError: a word that is not in the notation, or a network that does not
        fit together.
    """
    frame, blocks = block_strings.parse(text)
    return cls(blocks=tuple(blocks), **frame, **style)


def round_channels(wanted: float) -> int:
  """Nearest multiple of 8, never more than 10% below `wanted` (as usual)."""
  rounded = max(8, int(wanted + 4) // 8 * 8)
  return rounded if rounded >= 0.9 * wanted else rounded + 8


def num_params(arch: Architecture) -> int:
  """Trainable weights: convolutions, batch-norm scale and bias, classifier."""
  total = 0
  for _, weights, biases, _ in _convolutions(arch, 1):
    total += weights + biases
  return total + (arch.feature_channels + 1) * arch.num_classes


def num_macs(arch: Architecture, image_size: int) -> int:
  """Multiply-adds of convolutions and classifier for one image.

  Batch norm, activations, pooling and residual additions are not counted.

  Args:
    arch: the network.
    image_size: side of the square input image, px.
  """
  total = 0
  for _, weights, _, area in _convolutions(arch, image_size):
    total += weights * area
  return total + arch.feature_channels * arch.num_classes


def block_input_sizes(arch: Architecture, image_size: int) -> tuple[int, ...]:
  """Side in px of each block's input map, then of the head's."""
  size = -(-image_size // arch.stem_stride)
  sizes = [size]
  for block in arch.blocks:
    size = -(-size // block.stride)
    sizes.append(size)
  return tuple(sizes)


def _convolutions(arch, image_size):
  """Yields (name, weights, biases or norm parameters, output area in px)."""
  sizes = block_input_sizes(arch, image_size)
  c = arch.stem_channels
  yield (
    'stem',
    arch.stem_kernel**2 * arch.input_channels * c,
    2 * c,
    sizes[0] ** 2,
  )
  for i, block in enumerate(arch.blocks):
    area_in, area_out = sizes[i] ** 2, sizes[i + 1] ** 2
    mid = block.mid_channels
    if block.op == 'ir':
      weights = block.in_channels * mid // block.groups
      yield f'block{i}.expand', weights, 2 * mid, area_in
    yield f'block{i}.depthwise', block.kernel**2 * mid, 2 * mid, area_out
    if block.squeeze_channels:
      squeeze = block.squeeze_channels
      yield f'block{i}.squeeze', mid * squeeze, squeeze, 1
      yield f'block{i}.excite', mid * squeeze, mid, 1
    weights = mid * block.out_channels // block.groups
    yield f'block{i}.project', weights, 2 * block.out_channels, area_out
  if arch.head_channels:
    c = arch.head_channels
    yield 'head', arch.blocks[-1].out_channels * c, 2 * c, sizes[-1] ** 2


def _construct(cls, fields: Any, where: str):
  """Builds a dataclass from JSON; refuses unknown, missing, mistyped keys."""
  if not isinstance(fields, dict):
    raise UserError(f'{where}: must be an object, got {fields!r}')
  known = {f.name: f for f in dataclasses.fields(cls)}
  for key, value in fields.items():
    if key not in known:
      raise UserError(
        f'{where}: unknown field {key!r}, allowed: {", ".join(known)}'
      )
    wanted = known[key].type
    if wanted == 'float' and type(value) is int:
      fields = {**fields, key: float(value)}
    elif wanted in _TYPES and type(value) is not _TYPES[wanted]:
      raise UserError(f'{where}: {key} is {value!r}, must be {wanted}')
  try:
    return cls(**fields)
  except TypeError as e:
    missing = [
      name
      for name, f in known.items()
      if name not in fields
      and f.default is dataclasses.MISSING
      and f.default_factory is dataclasses.MISSING
    ]
    raise UserError(f'{where}: missing field {", ".join(missing)}') from e


_TYPES = {'int': int, 'str': str, 'float': float, 'bool': bool}


def _check(ok: bool, field: str, value: Any, allowed: str) -> None:
  if not ok:
    raise UserError(f'{field} is {value!r}, allowed: {allowed}')


def _validate(arch: Architecture) -> None:
  at = 'architecture: '
  for field in ('input_channels', 'stem_channels', 'num_classes'):
    check_whole(at + field, getattr(arch, field))
  check_whole(at + 'head_channels', arch.head_channels, 0)
  check_choice(at + 'stem_kernel', arch.stem_kernel, STEM_KERNELS)
  check_choice(at + 'stem_stride', arch.stem_stride, STRIDES)
  check_choice(at + 'activation', arch.activation, ACTIVATIONS)
  check_choice(at + 'padding', arch.padding, PADDINGS)
  momentum, epsilon = arch.batch_norm_momentum, arch.batch_norm_epsilon
  _check(
    0 <= momentum < 1, at + 'batch_norm_momentum', momentum, '0 to below 1'
  )
  low, high = EPSILONS
  _check(
    low <= epsilon <= high,
    at + 'batch_norm_epsilon',
    epsilon,
    f'{low:g} to {high:g}',
  )
  provenance = arch.provenance
  _check(
    isinstance(provenance, dict), at + 'provenance', provenance, 'an object'
  )
  _check(len(arch.blocks) > 0, at + 'blocks', (), 'at least one block')
  check_whole(at + 'number of blocks', len(arch.blocks), 1, MAX_BLOCKS)
  channels = arch.stem_channels
  for i, block in enumerate(arch.blocks):
    _validate_block(f'architecture: blocks[{i}].', block, channels)
    channels = block.out_channels


def _validate_block(at: str, b: Block, channels: int) -> None:
  """Refuses a block that cannot follow a layer of `channels` channels."""
  check_choice(at + 'op', b.op, OPS)
  check_choice(at + 'kernel', b.kernel, KERNELS)
  check_choice(at + 'stride', b.stride, STRIDES)
  _check(
    b.in_channels == channels,
    at + 'in_channels',
    b.in_channels,
    f'{channels}, the output of the layer before',
  )
  check_whole(at + 'out_channels', b.out_channels)
  check_whole(at + 'expansion', b.expansion, 1, MAX_EXPANSION)
  _check(
    b.op == 'ir' or b.expansion == 1,
    at + 'expansion',
    b.expansion,
    '1 for ds and dsa blocks',
  )
  check_ratio(at + 'squeeze_ratio', b.squeeze_ratio)
  check_whole(at + 'groups', b.groups)
  _check(
    b.in_channels % b.groups == 0 and b.out_channels % b.groups == 0,
    at + 'groups',
    b.groups,
    'a divisor of both channel counts',
  )
  _check(
    not b.residual or (b.stride == 1 and b.in_channels == b.out_channels),
    at + 'residual',
    b.residual,
    'only at stride 1 with equal channels',
  )
