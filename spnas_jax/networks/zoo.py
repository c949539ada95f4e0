"""Published mobile ConvNets, as the same `Architecture` the search produces.

Structures are facts read from the networks' own code or papers; the sources of
the accuracies and milliseconds are named row by row in `published`. ChamNet-B
has figures but no network: its authors never published the layers.
"""

from __future__ import annotations

import dataclasses
import typing

from spnas_jax.core.errors import UserError
from spnas_jax.networks.architecture import (
  Architecture,
  block_input_sizes,
  num_macs,
  num_params,
  round_channels,
)

STYLES = ('tf', 'torch')
IMAGE_SIZE = 224
"""Side in px at which all of these networks were published."""

MIN_FEATURE_SIZE = 4
"""Side in px that `adapt` leaves to the last feature map."""

_STRUCTURES = {
  'mobilenet_v1': """
    stem_k3_s2_i3_c32 dsa_r1_k3_s1_c64 dsa_r2_k3_s2_c128 dsa_r2_k3_s2_c256
    dsa_r6_k3_s2_c512 dsa_r2_k3_s2_c1024 fc_c1000""",
  'mobilenet_v2': """
    stem_k3_s2_i3_c32 ds_r1_k3_s1_c16 ir_r2_k3_s2_e6_c24 ir_r3_k3_s2_e6_c32
    ir_r4_k3_s2_e6_c64 ir_r3_k3_s1_e6_c96 ir_r3_k3_s2_e6_c160
    ir_r1_k3_s1_e6_c320 head_c1280 fc_c1000""",
  'mnasnet_a1': """
    stem_k3_s2_i3_c32 ds_r1_k3_s1_c16 ir_r2_k3_s2_e6_c24
    ir_r3_k5_s2_e3_c40_se0.25 ir_r4_k3_s2_e6_c80 ir_r2_k3_s1_e6_c112_se0.25
    ir_r3_k5_s2_e6_c160_se0.25 ir_r1_k3_s1_e6_c320 head_c1280 fc_c1000""",
  'mnasnet_b1': """
    stem_k3_s2_i3_c32 ds_r1_k3_s1_c16 ir_r3_k3_s2_e3_c24 ir_r3_k5_s2_e3_c40
    ir_r3_k5_s2_e6_c80 ir_r2_k3_s1_e6_c96 ir_r4_k5_s2_e6_c192
    ir_r1_k3_s1_e6_c320 head_c1280 fc_c1000""",
  'proxylessnas_r_mobile': """
    stem_k3_s2_i3_c32 ds_r1_k3_s1_c16 ir_r1_k5_s2_e3_c32 ir_r1_k3_s1_e3_c32
    ir_r1_k7_s2_e3_c40 ir_r1_k3_s1_e3_c40 ir_r2_k5_s1_e3_c40
    ir_r1_k7_s2_e6_c80 ir_r3_k5_s1_e3_c80 ir_r1_k5_s1_e6_c96 ir_r3_k5_s1_e3_c96
    ir_r2_k7_s2_e6_c192 ir_r2_k7_s1_e3_c192 ir_r1_k7_s1_e6_c320
    head_c1280 fc_c1000""",
  'fbnet_a': """
    stem_k3_s2_i3_c16 ir_r1_k3_s2_e3_c24 ir_r1_k3_s1_e1_c24
    ir_r1_k5_s2_e6_c32 ir_r1_k3_s1_e3_c32 ir_r1_k5_s1_e1_c32 ir_r1_k3_s1_e3_c32
    ir_r1_k5_s2_e6_c64 ir_r1_k5_s1_e3_c64 ir_r1_k5_s1_e1_c64_g2
    ir_r1_k5_s1_e6_c64 ir_r1_k3_s1_e6_c112 ir_r1_k5_s1_e1_c112_g2
    ir_r1_k5_s1_e3_c112 ir_r1_k3_s1_e1_c112_g2 ir_r2_k5_s2_e6_c184
    ir_r1_k5_s1_e3_c184 ir_r1_k5_s1_e6_c184 ir_r1_k5_s1_e6_c352
    head_c1504 fc_c1000""",
  'fbnet_b': """
    stem_k3_s2_i3_c16 ir_r1_k3_s1_e1_c16 ir_r1_k3_s2_e6_c24 ir_r1_k5_s1_e1_c24
    ir_r2_k3_s1_e1_c24 ir_r1_k5_s2_e6_c32 ir_r1_k5_s1_e3_c32 ir_r1_k3_s1_e6_c32
    ir_r1_k5_s1_e6_c32 ir_r2_k5_s2_e6_c64 ir_r1_k5_s1_e3_c64
    ir_r1_k5_s1_e6_c112 ir_r1_k3_s1_e1_c112 ir_r1_k5_s1_e1_c112
    ir_r1_k5_s1_e3_c112 ir_r1_k5_s2_e6_c184 ir_r1_k5_s1_e1_c184
    ir_r2_k5_s1_e6_c184 ir_r1_k3_s1_e6_c352 head_c1984 fc_c1000""",
  'fbnet_c': """
    stem_k3_s2_i3_c16 ir_r1_k3_s1_e1_c16 ir_r1_k3_s2_e6_c24 ir_r2_k3_s1_e1_c24
    ir_r1_k5_s2_e6_c32 ir_r1_k5_s1_e3_c32 ir_r1_k5_s1_e6_c32 ir_r1_k3_s1_e6_c32
    ir_r1_k5_s2_e6_c64 ir_r1_k5_s1_e3_c64 ir_r2_k5_s1_e6_c64
    ir_r3_k5_s1_e6_c112 ir_r1_k5_s1_e3_c112 ir_r4_k5_s2_e6_c184
    ir_r1_k3_s1_e6_c352 head_c1984 fc_c1000""",
  'single_path_nas': """
    stem_k3_s2_i3_c32 ds_r1_k3_s1_c16 ir_r3_k3_s2_e3_c24 ir_r1_k5_s2_e6_c40
    ir_r3_k3_s1_e3_c40 ir_r1_k5_s2_e6_c80 ir_r3_k3_s1_e3_c80
    ir_r1_k5_s1_e6_c96 ir_r3_k5_s1_e3_c96 ir_r4_k5_s2_e6_c192
    ir_r1_k3_s1_e6_c320 head_c1280 fc_c1000""",
}

_RELU6 = ('mobilenet_v1', 'mobilenet_v2', 'proxylessnas_r_mobile')

# What a network's own PyTorch code sets in place of 0.9 and 1e-5.
_TORCH_BATCH_NORM: dict[str, dict[str, float]] = {
  'mnasnet_b1': {'batch_norm_momentum': 0.9997},  # torchvision, MnasNet paper
  'proxylessnas_r_mobile': {'batch_norm_epsilon': 1e-3},
}

_FBNET_FORM = (
  'form with the expand convolution kept at expansion 1 and no convolution '
  'biases; other published forms count differently'
)
_NOTES = {
  'fbnet_a': _FBNET_FORM,
  'fbnet_b': _FBNET_FORM,
  'fbnet_c': _FBNET_FORM,
}


@dataclasses.dataclass(frozen=True)
class Published:
  """Published figures of a network on ImageNet.

  Attributes:
    top1: top-1 accuracy, a fraction.
    top5: top-5 accuracy, a fraction; None = not given.
    pixel1_ms: measured on a Pixel 1, ms; None = not given.
    source: where the figures were read.
    note: what a reader must also know; empty = nothing.
  """

  top1: float
  top5: float | None
  pixel1_ms: float | None
  source: str
  note: str = ''


_QUOTED = 'Single-Path NAS paper, Table 1, quoting the original paper'
_RETRAINED = (
  'Single-Path NAS paper, Table 1, retrained and timed by its authors'
)
_TIMM = 'timm results-imagenet.csv'
_TORCHVISION = 'torchvision weights, IMAGENET1K_V1'
_MOBILE_VISION = 'facebookresearch/mobile-vision README'

# The first row of a network is its headline: where there is one, the figures of
# Table 1 that came out of one training schedule and one phone.
_PUBLISHED = {
  'mobilenet_v1': (Published(0.7060, 0.8950, 113.0, _QUOTED),),
  'mobilenet_v2': (
    Published(0.7359, 0.9141, 73.57, _RETRAINED),
    Published(0.7200, 0.9100, 75.00, _QUOTED),
    Published(0.71878, 0.90286, None, _TORCHVISION),
    Published(0.72910, 0.91000, None, _TIMM, 'mobilenetv2_100.ra_in1k'),
  ),
  'mnasnet_a1': (
    Published(0.752, 0.925, 78.0, 'tensorflow/tpu MnasNet README'),
    Published(0.75452, 0.92608, None, _TIMM, 'semnasnet_100'),
  ),
  'mnasnet_b1': (
    Published(0.7461, 0.9195, 74.65, _RETRAINED),
    Published(0.7400, 0.9180, 76.00, _QUOTED),
    Published(0.73456, 0.91510, None, _TORCHVISION),
    Published(0.74672, 0.92108, None, _TIMM, 'mnasnet_100'),
  ),
  'proxylessnas_r_mobile': (
    Published(0.7465, 0.9218, 77.48, _RETRAINED),
    Published(0.7460, 0.9220, 78.00, _QUOTED),
  ),
  'fbnet_a': (Published(0.733, 0.909, None, _MOBILE_VISION),),
  'fbnet_b': (
    Published(0.7370, 0.9151, 78.33, _RETRAINED),
    Published(0.741, None, None, _QUOTED),
    Published(0.745, 0.918, None, _MOBILE_VISION),
  ),
  'fbnet_c': (
    Published(0.752, 0.923, None, _MOBILE_VISION),
    Published(0.75120, 0.92384, None, _TIMM, 'fbnetc_100, bilinear resizing'),
  ),
  'single_path_nas': (
    Published(0.7496, 0.9221, 79.48, 'Single-Path NAS paper, Table 1'),
    Published(
      0.74086,
      0.91826,
      None,
      _TIMM,
      'spnasnet_100.rmsp_in1k, bilinear resizing',
    ),
  ),
  'chamnet_b': (
    Published(
      0.7380,
      None,
      None,
      _QUOTED,
      'no network here: its authors never published the layers (only a Caffe2 '
      'binary, evaluated at 192 px)',
    ),
  ),
}


def names() -> tuple[str, ...]:
  """Names that `get` takes."""
  return tuple(_STRUCTURES)


def get(name: str, style: str = 'tf') -> Architecture:
  """A published network at width 1.0 with 1000 classes.

  The FBNets are in the form that keeps the expand convolution at expansion 1
  and has no convolution biases.

  Args:
    name: one of `names()`.
    style: 'tf' = SAME padding, batch norm momentum 0.99 and epsilon 1e-3;
      'torch' = symmetric padding, 0.9 and 1e-5 or what the network's own
      PyTorch code sets (ProxylessNAS: epsilon 1e-3; MnasNet-B1: 0.9997).

  Raises:
    UserError: unknown name or style.
  """
  if name not in _STRUCTURES:
    reason = ''
    if name in _PUBLISHED:
      reason = ' (its authors never published the layers)'
    raise UserError(
      f'zoo: name is {name!r}{reason}, allowed: {", ".join(_STRUCTURES)}'
    )
  if style not in STYLES:
    raise UserError(f'zoo: style is {style!r}, allowed: {", ".join(STYLES)}')
  settings: dict[str, typing.Any]
  if style == 'tf':
    settings = {
      'padding': 'same',
      'batch_norm_momentum': 0.99,
      'batch_norm_epsilon': 1e-3,
    }
  else:
    settings = {
      'padding': 'symmetric',
      'batch_norm_momentum': 0.9,
      'batch_norm_epsilon': 1e-5,
      **_TORCH_BATCH_NORM.get(name, {}),
    }
  return Architecture.from_string(
    _STRUCTURES[name],
    activation='relu6' if name in _RELU6 else 'relu',
    provenance={'source': 'zoo', 'name': name, 'style': style},
    **settings,
  )


def published(name: str) -> tuple[Published, ...]:
  """Published ImageNet figures of a network, the headline row first.

  Args:
    name: one of `names()`, or 'chamnet_b', which has figures but no layers.

  Raises:
    UserError: unknown name.
  """
  if name not in _PUBLISHED:
    raise UserError(f'zoo: name is {name!r}, allowed: {", ".join(_PUBLISHED)}')
  return _PUBLISHED[name]


def scale_width(
  arch: Architecture, multiplier: float, *, widen_head: bool = False
) -> Architecture:
  """The network with `multiplier` times the channels, everywhere but the head.

  Stem and blocks are rounded to a multiple of 8 that is never more than 10%
  below the wanted width. Squeeze widths follow from their ratios. Shortcuts
  stay where they are: blocks that had none get none, even where rounding makes
  their channels equal.

  The head keeps its width, as in the code of MnasNet, Single-Path NAS and
  timm's FBNet-C. MobileNetV2 and ProxylessNAS widen it for multipliers above 1
  (never below 1280): `widen_head=True`.

  Raises:
    UserError: multiplier not above 0.
  """
  if not multiplier > 0:
    raise UserError(f'scale_width: multiplier is {multiplier!r}, allowed: > 0')
  if multiplier == 1:
    return arch  # Not rounded: the network may have widths of its own.
  head = arch.head_channels
  if head and widen_head and multiplier > 1:
    head = round_channels(head * multiplier)
  return arch.replace(
    stem_channels=round_channels(arch.stem_channels * multiplier),
    blocks=tuple(
      dataclasses.replace(
        block,
        in_channels=round_channels(block.in_channels * multiplier),
        out_channels=round_channels(block.out_channels * multiplier),
      )
      for block in arch.blocks
    ),
    head_channels=head,
    provenance={**arch.provenance, 'width_multiplier': multiplier},
  )


def adapt(
  arch: Architecture, *, num_classes: int, input_channels: int, image_size: int
) -> Architecture:
  """The network for another data set, small images included.

  Changes the classifier's width and the image's channels. For small images,
  strides of 2 become 1 from the front (the stem, then the earliest blocks)
  until the last feature map is at least 4 x 4 px: the usual rule for 32 px
  images, where it leaves three of five (32 -> 4 px); 28 px end at 4 px too,
  and from 97 px on nothing changes. Everything else, the parameter count of
  the trunk included, stays.

  Args:
    arch: the network.
    num_classes: width of the classifier.
    input_channels: channels of the image.
    image_size: side of the square image, px.

  Raises:
    UserError: an argument below 1.
  """
  if image_size < 1:
    raise UserError(f'adapt: image_size is {image_size!r}, allowed: 1 or more')
  arch = arch.replace(
    num_classes=num_classes,
    input_channels=input_channels,
    provenance={**arch.provenance, 'image_size': image_size},
  )
  wanted = min(MIN_FEATURE_SIZE, image_size)
  if _feature_size(arch, image_size) < wanted and arch.stem_stride > 1:
    arch = arch.replace(stem_stride=1)
  blocks = list(arch.blocks)
  for i, block in enumerate(blocks):
    if _feature_size(arch, image_size) >= wanted:
      break
    blocks[i] = dataclasses.replace(block, stride=1)
    arch = arch.replace(blocks=tuple(blocks))
  return arch


def listing() -> list[dict[str, typing.Any]]:
  """One row per network, ChamNet-B's figures included.

  Returns:
    Rows {name, params, macs, top1, top5, source, note}: parameters and
    multiply-adds at 224 px with 1000 classes, headline accuracies as fractions.
    What is not known is None.
  """
  rows = []
  for name, facts in _PUBLISHED.items():
    arch = get(name) if name in _STRUCTURES else None
    row = {
      'name': name,
      'params': num_params(arch) if arch else None,
      'macs': num_macs(arch, IMAGE_SIZE) if arch else None,
      'top1': facts[0].top1,
      'top5': facts[0].top5,
      'source': facts[0].source,
      'note': _NOTES.get(name, facts[0].note),
    }
    rows.append(row)
  return rows


def _feature_size(arch: Architecture, image_size: int) -> int:
  """Side of the last feature map, px."""
  return block_input_sizes(arch, image_size)[-1]
