"""One line per network: the field's block notation, written and read.

`ir_r3_k3_s2_e3_c24` is three inverted residual blocks with kernel 3 and
expansion 3 that give 24 channels, the first with stride 2. Structure only:
activation, batch norm, padding and provenance are not in it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from spnas_jax.core.errors import UserError
from spnas_jax.networks.block import MAX_BLOCKS, OPS, Block, check_whole

_KEYS = {'stem': ('k', 's', 'i', 'c'), 'head': ('c',), 'fc': ('c',)}
_BLOCK_KEYS = ('r', 'k', 's', 'e', 'c', 'se', 'g', 'skip', 'noskip')


# --- writing ------------------------------------------------------------------


def render(frame: dict[str, Any], blocks: Sequence[Block]) -> str:
  """`parse`'s inverse; equal neighbours are folded into repeats."""
  words = [
    f'stem_k{frame["stem_kernel"]}_s{frame["stem_stride"]}'
    f'_i{frame["input_channels"]}_c{frame["stem_channels"]}'
  ]
  i = 0
  while i < len(blocks):
    first = blocks[i]
    following = dataclasses.replace(
      first,
      stride=1,
      in_channels=first.out_channels,
      residual=_default_residual(first.op, 1, True),
    )
    repeats = 1
    if first.residual == _default_residual(
      first.op, first.stride, first.in_channels == first.out_channels
    ):
      while tuple(blocks[i + repeats : i + repeats + 1]) == (following,):
        repeats += 1
    words.append(_block_word(first, repeats))
    i += repeats
  if frame['head_channels']:
    words.append(f'head_c{frame["head_channels"]}')
  words.append(f'fc_c{frame["num_classes"]}')
  return ' '.join(words)


def _block_word(block: Block, repeats: int) -> str:
  word = f'{block.op}_r{repeats}_k{block.kernel}_s{block.stride}'
  if block.op == 'ir':
    word += f'_e{block.expansion}'
  word += f'_c{block.out_channels}'
  if block.squeeze_ratio:
    # Every digit: `g` would drop some, `repr` may write an exponent.
    word += f'_se{Decimal(repr(block.squeeze_ratio)):f}'
  if block.groups > 1:
    word += f'_g{block.groups}'
  can = _default_residual(
    block.op, block.stride, block.in_channels == block.out_channels
  )
  if can and not block.residual:
    word += '_noskip'
  if block.residual and not can:
    word += '_skip'
  return word


def _default_residual(op: str, stride: int, same_channels: bool) -> bool:
  """The field's rule; MobileNetV1's blocks have no residual."""
  return op != 'dsa' and stride == 1 and same_channels


# --- reading ------------------------------------------------------------------


def parse(text: str) -> tuple[dict[str, Any], list[Block]]:
  """Reads `render`'s line.

  Returns:
    (fields of `Architecture` without its blocks, the blocks).

  Raises:
    UserError: a word that is not in the notation, or is out of place.
  """
  stem: dict[str, str] = {}
  blocks: list[Block] = []
  head_channels = num_classes = 0
  channels = 0
  place = 0
  for word in text.replace(',', ' ').replace('|', ' ').split():
    op, values = _split_word(word)
    before, place = place, {'stem': 1, 'head': 3, 'fc': 4}.get(op, 2)
    if place < before or (place == before != 2):
      raise UserError(
        f'architecture string: {word!r} is out of place, allowed: one stem, '
        'the blocks, at most one head, one fc'
      )
    if op == 'stem':
      stem = values
      channels = _number(word, values, 'c')
    elif op == 'head':
      head_channels = _number(word, values, 'c')
    elif op == 'fc':
      num_classes = _number(word, values, 'c')
    else:
      blocks += _parse_blocks(word, op, values, channels)
      channels = blocks[-1].out_channels
  if not stem:
    raise UserError('architecture string: the stem_k3_s2_i3_c32 word is absent')
  frame = {
    'stem_channels': _number('stem', stem, 'c'),
    'stem_kernel': _number('stem', stem, 'k', 3),
    'stem_stride': _number('stem', stem, 's', 2),
    'input_channels': _number('stem', stem, 'i', 3),
    'head_channels': head_channels,
    'num_classes': num_classes,
  }
  return frame, blocks


def _split_word(word: str) -> tuple[str, dict[str, str]]:
  op, *parts = word.split('_')
  if op not in (*OPS, 'stem', 'head', 'fc'):
    raise UserError(
      f'architecture string: unknown operation {op!r} in {word!r}, allowed: '
      f'{", ".join(OPS)}, stem, head, fc'
    )
  values = {}
  for part in parts:
    match = re.fullmatch(r'(noskip|skip)|(se|[rksecig])([0-9.]+)', part)
    key = match and (match[1] or match[2])
    if not match or key not in _KEYS.get(op, _BLOCK_KEYS) or key in values:
      raise UserError(
        f'architecture string: cannot read {part!r} in {word!r}, allowed, once '
        f'each: {", ".join(_KEYS.get(op, _BLOCK_KEYS))}'
      )
    values[key] = match[3] or '1'
  return op, values


def _number(
  word: str, values: dict[str, str], key: str, default: int | None = None
) -> int:
  text = values.get(key)
  if text is None and default is not None:
    return default
  # int takes up to 4,300 digits.
  if text is None or not re.fullmatch('[0-9]{1,9}', text):
    raise UserError(
      f'architecture string: {word!r} needs {key} with a whole number'
    )
  return int(text)


def _parse_blocks(
  word: str, op: str, values: dict[str, str], channels: int
) -> list[Block]:
  """The blocks of one word; `channels` are those of its input."""
  out = _number(word, values, 'c')
  repeats = _number(word, values, 'r', 1)
  check_whole(f'architecture string: {word!r}: r', repeats, high=MAX_BLOCKS)
  try:
    ratio = float(values.get('se', 0))
  except ValueError as e:
    raise UserError(f'architecture string: {word!r}: se needs a number') from e
  blocks = []
  for i in range(repeats):
    stride = _number(word, values, 's', 1) if i == 0 else 1
    residual = _default_residual(op, stride, channels == out)
    blocks.append(
      Block(
        op=op,
        kernel=_number(word, values, 'k'),
        stride=stride,
        in_channels=channels,
        out_channels=out,
        expansion=_number(word, values, 'e', 1),
        squeeze_ratio=ratio,
        residual=(residual or 'skip' in values) and 'noskip' not in values,
        groups=_number(word, values, 'g', 1),
      )
    )
    channels = out
  return blocks
