"""One block of a network's trunk."""

from __future__ import annotations

import dataclasses

OPS = ('ir', 'ds', 'dsa')


@dataclasses.dataclass(frozen=True)
class Block:
  """One block of the trunk.

  Attributes:
    op: 'ir' = 1x1 expand, k x k depthwise, [squeeze-and-excitation], linear 1x1
      projection (MBConv; the expand convolution is there even at expansion 1);
      'ds' = depthwise, linear 1x1 (no expand); 'dsa' = the same with an
      activation behind the 1x1 (MobileNetV1).
    kernel: depthwise kernel size, odd.
    stride: 1 or 2.
    in_channels: channels coming in.
    out_channels: channels going out.
    expansion: channels of the depthwise stage over `in_channels`.
    squeeze_ratio: squeeze width over `in_channels`; 0 = no squeeze-and-
      excitation.
    residual: input is added to the output.
    groups: groups of both 1x1 convolutions; more than 1 puts a channel shuffle
      behind the first (FBNet).
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
