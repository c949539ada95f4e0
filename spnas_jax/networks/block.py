"""One block of a network's trunk, and the values that its fields may have.

Every stage can train, export and time what is allowed here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from spnas_jax.core.errors import UserError

OPS = ('ir', 'ds', 'dsa')
KERNELS = (1, 3, 5, 7)  # Of depthwise convolutions, see `depthwise.py`.
STRIDES = (1, 2)
MAX_CHANNELS = 65_536
MAX_EXPANSION = 64
MAX_BLOCKS = 500


@dataclasses.dataclass(frozen=True)
class Block:
  """One block of the trunk.

  Attributes:
    op: 'ir' = 1x1 expand, k x k depthwise, [squeeze-and-excitation], linear 1x1
      projection (MBConv; the expand convolution is there even at expansion 1);
      'ds' = depthwise, linear 1x1 (no expand); 'dsa' = the same with an
      activation after the 1x1 (MobileNetV1).
    kernel: depthwise kernel size, one of `KERNELS`.
    stride: 1 or 2.
    in_channels: channels coming in.
    out_channels: channels going out.
    expansion: channels of the depthwise stage over `in_channels`.
    squeeze_ratio: squeeze width over `in_channels`; 0 = no squeeze-and-
      excitation.
    residual: input is added to the output.
    groups: groups of both 1x1 convolutions; more than 1 puts a channel shuffle
      after the first (FBNet).
  """

  op: str
  kernel: int
  stride: int
  in_channels: int
  out_channels: int
  expansion: int = 1
  squeeze_ratio: float = 0.0
  residual: bool = False
  groups: int = 1

  @property
  def mid_channels(self) -> int:
    """Channels of the depthwise stage."""
    return self.in_channels * self.expansion

  @property
  def squeeze_channels(self) -> int:
    """Width of the squeeze, 0 where there is none (MnasNet: of the input)."""
    if not self.squeeze_ratio:
      return 0
    return max(1, int(self.in_channels * self.squeeze_ratio))


def check_whole(
  field: str, value: Any, low: int = 1, high: int = MAX_CHANNELS
) -> None:
  """Raises UserError unless a value is a whole number between two limits."""
  if type(value) is not int or not low <= value <= high:
    raise UserError(
      f'{field} is {value!r}, allowed: a whole number from {low} to {high}'
    )


def check_choice(field: str, value: Any, allowed: Sequence[Any]) -> None:
  """Raises UserError unless a value is one of a few."""
  if type(value) is not type(allowed[0]) or value not in allowed:
    raise UserError(
      f'{field} is {value!r}, allowed: {", ".join(map(str, allowed))}'
    )


def check_ratio(field: str, value: Any) -> None:
  """Raises UserError unless a value is a number from 0 to 1."""
  if type(value) not in (int, float) or not 0 <= value <= 1:
    raise UserError(f'{field} is {value!r}, allowed: 0 to 1')
