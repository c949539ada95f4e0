"""Latency tables: the only thing in the project that knows milliseconds.

A table holds measured times of single operations on one device. The latency of
a network is the sum of its operations' times (paper Eq. 10) times the table's
calibration factor. Two kinds of key:

* by shape: the key spells the operation and its input, as in
  `ir_k5_s2_e6_i24_o40_h56_relu`;
* by position (`positional` is set, the published Pixel 1 table): layers of one
  shape have times of their own, `layer05_k5_e6`. An `Architecture` does not say
  which layers of a stage were skipped; its kept layers take the stage's first
  rows in order.

A missing or non-finite entry is an error that names the key, never a guess.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from typing import Any

import numpy as np

from spnas_jax.config.rules import PRECISIONS
from spnas_jax.core import foreign
from spnas_jax.core.errors import UserError
from spnas_jax.core.places import shipped
from spnas_jax.core.remote import as_path, reaching
from spnas_jax.latency import units as latency_units
from spnas_jax.networks.architecture import (
  Architecture,
  Block,
  block_input_sizes,
  num_macs,
)
from spnas_jax.networks.block import check_whole
from spnas_jax.networks.space import Choice, SearchSpace

SCHEMA = 1
# Largest image side of a table, px: beyond it counts of operations overflow.
_MOST_PX = 2**14
# What a network must share with a positional table's own, besides fixed blocks.
_FRAME = (
  'stem_channels',
  'stem_kernel',
  'stem_stride',
  'input_channels',
  'head_channels',
  'num_classes',
  'activation',
  'padding',
)


@dataclasses.dataclass(frozen=True)
class Positional:
  """Where the rows of a positional table belong.

  Attributes:
    network: the largest network of the space, as a block string.
    first: number of fixed blocks before the rows (in the constant).
    last: number of fixed blocks after them.
  """

  network: str
  first: int
  last: int


@dataclasses.dataclass(frozen=True)
class LatencyTable:
  """Measured times of operations on one device, in ms.

  Attributes:
    name: of the table.
    device: what was measured (processor, host name, serial, ...).
    software: versions of what ran the models.
    threads: number of threads of the interpreter.
    protocol: warm-up, runs, statistic.
    date: ISO date of the measurement.
    image_size: side of the network's input, px.
    entries: key -> {'ms', 'spread_ms', 'count'}; spread and count are None
      where the publisher did not give them. 'bytes': what the operation adds
      to a model's file, if known.
    calibration: {'factor', ...}: network time over sum of entries, with how it
      was fitted and its own error.
    positional: set for tables keyed by position.
    provenance: where the figures come from, licence.
    precision: 'float32', 'float16' or 'int8': of the models that were timed.
  """

  name: str
  device: dict[str, Any]
  software: dict[str, Any]
  threads: int
  protocol: dict[str, Any]
  date: str
  image_size: int
  entries: dict[str, dict[str, Any]]
  calibration: dict[str, Any]
  positional: Positional | None = None
  provenance: str = ''
  precision: str = 'float32'

  def __post_init__(self):
    check_whole('latency_table: image_size', self.image_size, high=_MOST_PX)
    _check_number('threads', self.threads)
    _check_number('calibration.factor', self.calibration.get('factor'))
    if self.precision not in PRECISIONS:
      raise UserError(
        f'latency_table: precision is {self.precision!r}, allowed: '
        f'{", ".join(PRECISIONS)}'
      )
    for key, entry in self.entries.items():
      if not isinstance(entry, dict):
        raise UserError(
          f'latency_table: entries.{key} is {entry!r}, must be an object'
        )
      _check_number(f'entries.{key}.ms', entry.get('ms'))

  # --- files ------------------------------------------------------------------

  @classmethod
  def load(cls, path) -> LatencyTable:
    """Reads a table; 'NAME' or 'latency/NAME.json' may be one that is shipped.

    Raises:
      UserError: no such file, not JSON, a missing field, a non-finite time, or
        times that are not in ms.
    """
    path = _find(path)
    try:
      with reaching('latency_table', path):
        text = foreign.read_text(path, f'latency_table: {path}')
    except OSError as e:
      raise UserError(
        f'latency_table: cannot read {str(path)!r} ({type(e).__name__}); give '
        'the path of a table, or make one with --stage=build_table'
      ) from e
    fields = foreign.parse_json(text, f'latency_table: {path}')
    try:
      if fields.pop('schema') != SCHEMA:
        raise UserError(f'latency_table: {path}: schema must be {SCHEMA}')
      positional = fields.pop('positional')
      table = cls(
        **fields, positional=Positional(**positional) if positional else None
      )
      latency_units.check(*table.workload())
      return table
    except (TypeError, KeyError, AttributeError, ArithmeticError) as e:
      raise UserError(
        f'latency_table: {path}: missing, unknown or wrong field ({e})'
      ) from e
    except UserError as e:
      raise UserError(f'{e} (in {path})') from e

  def workload(self) -> tuple[float, float]:
    """(ms, multiply-adds) of everything whose shape is known, together."""
    if self.positional is not None:
      largest = Architecture.from_string(self.positional.network)
      return self.predict(largest), num_macs(largest, self.image_size)
    macs = {key: latency_units.entry_macs(key) for key in self.entries}
    known = [key for key in macs if macs[key]] or list(macs)
    ms = self.factor * sum(self.entry_ms(key) for key in known)
    return ms, sum(macs.values())

  def to_json(self) -> str:
    """The table as JSON text; `load` reads it back exactly."""
    fields = dataclasses.asdict(self)
    # Tables without the field are float32; what they say stays the same.
    if self.precision == 'float32':
      del fields['precision']
    return json.dumps({'schema': SCHEMA, **fields}, indent=1)

  def fingerprint(self) -> str:
    """Short hash of all that the table says."""
    return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

  # --- lookup -----------------------------------------------------------------

  @property
  def factor(self) -> float:
    return float(self.calibration['factor'])

  def entry_ms(self, key: str) -> float:
    """One entry, ms, uncalibrated.

    Raises:
      UserError: the table has no such key.
    """
    if key not in self.entries:
      raise UserError(
        f'latency_table: {self.name!r} has no entry {key!r} (it was measured '
        f'at {self.image_size} px); measure it with --stage=build_table'
      )
    return float(self.entries[key]['ms'])

  def predict(self, arch: Architecture) -> float:
    """Latency of a network, ms (Eq. 10).

    Raises:
      UserError: an operation of the network is not in the table.
    """
    return self.factor * sum(self.entry_ms(k) for k in self.keys_of(arch))

  def predict_bytes(self, arch: Architecture) -> int | None:
    """Size of a network's .tflite file in the table's precision.

    Within 1% or a few hundred bytes of the bare network's (without metadata
    and normalisation); None
    where the table has no sizes.
    """
    frame = self.protocol.get('frame_bytes')
    if self.positional is not None or frame is None:
      return None
    sizes = [self.entries[k].get('bytes') for k in self.keys_of(arch)]
    known = [size for size in sizes if size is not None]
    return frame + sum(known) if len(known) == len(sizes) else None

  def keys_of(self, arch: Architecture) -> tuple[str, ...]:
    """The entries whose sum is the network's latency."""
    if self.positional is None:
      return network_keys(arch, self.image_size)
    rows = self._positional_rows(arch)
    return ('constant', *(_position_key(row, block) for row, block in rows))

  def _positional_rows(
    self, arch: Architecture
  ) -> tuple[tuple[int, Block], ...]:
    """(position of its row, block) of every block that has a row."""
    assert self.positional is not None
    first, last = self.positional.first, self.positional.last
    largest = Architecture.from_string(self.positional.network)

    def split(blocks):
      end = max(first, len(blocks) - last)
      return blocks[first:end], blocks[:first] + blocks[end:]

    rows, fixed = split(largest.blocks)
    trunk, arch_fixed = split(arch.blocks)
    same_frame = fixed == arch_fixed and all(
      getattr(arch, name) == getattr(largest, name) for name in _FRAME
    )
    if not same_frame:
      raise UserError(
        f'latency_table: {self.name!r} is positional and holds only networks '
        f'with the stem, fixed blocks, head and classifier of '
        f'{self.positional.network!r}'
      )
    trunk = list(trunk)
    result = []
    for i, row in enumerate(rows):
      if not trunk:
        break
      shape = dataclasses.replace(
        trunk[0], kernel=row.kernel, expansion=row.expansion
      )
      if shape == row:
        result.append((first + i, trunk.pop(0)))
    if trunk:
      raise UserError(
        f'latency_table: {self.name!r} has no row for block {_spell(trunk[0])}'
      )
    return tuple(result)

  def costs(self, space: SearchSpace) -> tuple[float, np.ndarray]:
    """What every decision of a space costs, calibrated.

    Returns:
      (constant, table): ms of everything that is not searched, and float64
      [layers, kernels, expansions, squeeze ratios] ms of each candidate, padded
      with zeros where a layer has fewer candidates than another.

    Raises:
      UserError: a candidate is not in the table.
    """
    shape = [
      max(len(getattr(layer, name)) for layer in space.layers)
      for name in ('kernels', 'expansions', 'squeeze_ratios')
    ]
    table = np.zeros((len(space.layers), *shape))
    largest = space.largest
    sizes = block_input_sizes(largest, self.image_size)
    first = len(space.first)
    keys = self.keys_of(largest)
    if self.positional is None:
      fixed = keys[: 1 + first] + keys[1 + first + len(space.layers) :]
    else:
      fixed = keys[:1]
      rows = self._positional_rows(largest)
    constant = sum(self.entry_ms(key) for key in fixed)
    for i, layer in enumerate(space.layers):
      for k, kernel in enumerate(layer.kernels):
        for e, expansion in enumerate(layer.expansions):
          for s, ratio in enumerate(layer.squeeze_ratios):
            block = layer.block(Choice(kernel, expansion, ratio))
            if self.positional is None:
              key = block_key(block, sizes[first + i], largest)
            else:
              key = _position_key(rows[i][0], block)
            table[i, k, e, s] = self.entry_ms(key)
    return self.factor * constant, self.factor * table

  def limits(self, space: SearchSpace) -> tuple[float, float]:
    """(fastest, slowest) network of the space, ms."""
    constant, table = self.costs(space)
    low = high = constant
    for i, layer in enumerate(space.layers):
      k, e, s = map(
        len, (layer.kernels, layer.expansions, layer.squeeze_ratios)
      )
      own = table[i, :k, :e, :s]
      low += 0.0 if layer.skippable else float(own.min())
      high += float(own.max())
    return low, high


def network_keys(arch: Architecture, image_size: int) -> tuple[str, ...]:
  """Keys by shape of everything a network runs: stem, blocks, head."""
  sizes = block_input_sizes(arch, image_size)
  return (
    stem_key(arch, image_size),
    *(
      block_key(block, size, arch)
      for block, size in zip(arch.blocks, sizes, strict=False)
    ),
    head_key(arch, sizes[-1]),
  )


def stem_key(arch: Architecture, image_size: int) -> str:
  """Stem convolution with norm and activation."""
  return (
    f'stem_k{arch.stem_kernel}_s{arch.stem_stride}_i{arch.input_channels}'
    f'_o{arch.stem_channels}_h{image_size}{_style(arch)}'
  )


def block_key(block: Block, size: int, arch: Architecture) -> str:
  """One block; `size` is the side of its input map in px."""
  return f'{_spell(block)}_h{size}{_style(arch)}'


def head_key(arch: Architecture, size: int) -> str:
  """Head convolution, pooling and classifier as one entry."""
  return (
    f'head_i{arch.blocks[-1].out_channels}_o{arch.head_channels}_h{size}'
    f'{_style(arch)}_fc{arch.num_classes}'
  )


def _style(arch: Architecture) -> str:
  return f'_{arch.activation}' + (
    '_symmetric' if arch.padding == 'symmetric' else ''
  )


def _spell(block: Block) -> str:
  key = (
    f'{block.op}_k{block.kernel}_s{block.stride}_e{block.expansion}'
    f'_i{block.in_channels}_o{block.out_channels}'
  )
  if block.squeeze_ratio:
    key += f'_se{block.squeeze_ratio:g}'
  if block.groups > 1:
    key += f'_g{block.groups}'
  return key + ('_skip' if block.residual else '')


def _position_key(position: int, block: Block) -> str:
  return f'layer{position:02d}_k{block.kernel}_e{block.expansion}'


def _check_number(field: str, value) -> None:
  good = isinstance(value, (int, float)) and not isinstance(value, bool)
  if not good or not math.isfinite(value) or value <= 0:
    raise UserError(
      f'latency_table: {field} is {value!r}, must be a finite number above 0'
    )


def _find(path: Any) -> Any:
  """The file itself, or the table of that name that comes with the project."""
  found = as_path('latency_table', path)
  name = os.fspath(path).removeprefix('latency/').removesuffix('.json')
  own = shipped('latency') / f'{name}.json'
  if '/' not in name and own.is_file() and not found.exists():
    return as_path('latency_table', own)
  return found
