"""The search space: which networks a supernet contains (paper §3.1, Fig. 2).

Pure Python and NumPy, no JAX. A network of the space is a vector of 0/1
*gates*, one per decision, in the order of `SearchSpace.gates`; `decode` turns
gates into an `Architecture`, `encode` an `Architecture` into gates.

Candidate kernel sizes, expansion ratios and squeeze ratios are nested: a gate
adds one subset of weights to the subsets below it. Kernel sizes {3, 5, 7} take
two gates a layer (use the 5x5 shell; and then the 7x7 shell), the paper's
{3, 5} takes one.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import NamedTuple

import numpy as np

from spnas_jax.core.errors import UserError
from spnas_jax.networks import block
from spnas_jax.networks.architecture import Architecture
from spnas_jax.networks.block import Block


class Choice(NamedTuple):
  """One candidate operation of a layer."""

  kernel: int
  expansion: int
  squeeze_ratio: float


# One for every searchable layer; None = the layer is skipped.
Choices = tuple[Choice | None, ...]


@dataclasses.dataclass(frozen=True)
class Stage:
  """Layers of one width.

  Attributes:
    channels: output channels of every layer.
    layers: how many; all but the first may be skipped where they carry a
      residual.
    stride: of the first layer.
    kernels: candidate depthwise kernel sizes, ascending, odd.
    expansions: candidate expansion ratios, ascending.
    squeeze_ratios: candidate squeeze-and-excitation ratios, ascending; (0.0,)
      = none, (0.25,) = always, (0.0, 0.25) = searched.
    skippable: False keeps every layer of the stage.
  """

  channels: int
  layers: int
  stride: int
  kernels: tuple[int, ...] = (3, 5)
  expansions: tuple[int, ...] = (3, 6)
  squeeze_ratios: tuple[float, ...] = (0.0,)
  skippable: bool = True


@dataclasses.dataclass(frozen=True)
class Layer:
  """One searchable layer: a stage's facts, unrolled."""

  stage: int
  in_channels: int
  out_channels: int
  stride: int
  kernels: tuple[int, ...]
  expansions: tuple[int, ...]
  squeeze_ratios: tuple[float, ...]
  skippable: bool

  @property
  def residual(self) -> bool:
    return self.stride == 1 and self.in_channels == self.out_channels

  @property
  def choices(self) -> tuple[Choice, ...]:
    """Candidates without the skip, smallest first."""
    return tuple(
      itertools.starmap(
        Choice,
        itertools.product(self.kernels, self.expansions, self.squeeze_ratios),
      )
    )

  @property
  def candidates(self) -> Choices:
    """`choices` and, last, None where the layer may be skipped."""
    return (*self.choices, None) if self.skippable else self.choices

  @property
  def num_gates(self) -> int:
    sets = (self.kernels, self.expansions, self.squeeze_ratios)
    return sum(len(s) - 1 for s in sets) + self.skippable

  def block(self, choice: Choice) -> Block:
    """The block this layer becomes under a choice."""
    return Block(
      op='ir',
      kernel=choice.kernel,
      stride=self.stride,
      in_channels=self.in_channels,
      out_channels=self.out_channels,
      expansion=choice.expansion,
      squeeze_ratio=choice.squeeze_ratio,
      residual=self.residual,
    )


class Gate(NamedTuple):
  """One 0/1 decision.

  Attributes:
    layer: index into `SearchSpace.layers`.
    kind: 'kernel', 'expansion', 'squeeze' or 'keep' (0 = the layer is skipped).
    rank: the gate admits candidate `rank` of its set (1 = the second smallest);
      0 for 'keep'.
  """

  layer: int
  kind: str
  rank: int


@dataclasses.dataclass(frozen=True)
class SearchSpace:
  """A macro-architecture with searchable layers.

  Attributes:
    stages: the searchable stages.
    stem_channels: of the stem convolution.
    first: fixed blocks between stem and stages.
    last: fixed blocks after the stages.
    head_channels: of the 1x1 head convolution, 0 = none.
    num_classes: width of the classifier.
    input_channels: as in `Architecture`, like all that follow.
    stem_kernel: width of the stem convolution.
    stem_stride: of the stem convolution.
    activation: 'relu' or 'relu6'.
    batch_norm_momentum: share of old statistics kept per step.
    batch_norm_epsilon: what is added to variances.
    padding: 'same' or 'symmetric'.
  """

  stages: tuple[Stage, ...]
  stem_channels: int
  first: tuple[Block, ...]
  last: tuple[Block, ...]
  head_channels: int
  num_classes: int
  input_channels: int = 3
  stem_kernel: int = 3
  stem_stride: int = 2
  activation: str = 'relu'
  batch_norm_momentum: float = 0.99
  batch_norm_epsilon: float = 1e-3
  padding: str = 'same'

  def __post_init__(self):
    for i, stage in enumerate(self.stages):
      at = f'space.stages[{i}].'
      for name in ('kernels', 'expansions', 'squeeze_ratios'):
        values = getattr(stage, name)
        if not values or list(values) != sorted(set(values)):
          raise UserError(
            f'{at}{name} is {values!r}, allowed: one or more ascending values'
          )
      for kernel in stage.kernels:
        block.check_choice(f'{at}kernels', kernel, block.KERNELS)
      for expansion in stage.expansions:
        block.check_whole(f'{at}expansions', expansion, 1, block.MAX_EXPANSION)
      for ratio in stage.squeeze_ratios:
        block.check_ratio(f'{at}squeeze_ratios', ratio)
      if len(stage.squeeze_ratios) > 1 + (stage.squeeze_ratios[0] == 0):
        raise UserError(
          f'{at}squeeze_ratios is {stage.squeeze_ratios!r}, '
          'allowed: one ratio, or 0 and one ratio'
        )
    self.decode(np.ones(len(self.gates)))  # Refuses what does not fit together.

  @functools.cached_property
  def layers(self) -> tuple[Layer, ...]:
    channels = self.first[-1].out_channels if self.first else self.stem_channels
    layers = []
    for s, stage in enumerate(self.stages):
      for i in range(stage.layers):
        layers.append(
          Layer(
            stage=s,
            in_channels=channels,
            out_channels=stage.channels,
            stride=stage.stride if i == 0 else 1,
            kernels=stage.kernels,
            expansions=stage.expansions,
            squeeze_ratios=stage.squeeze_ratios,
            skippable=stage.skippable and i > 0,
          )
        )
        channels = stage.channels
    return tuple(layers)

  @functools.cached_property
  def gates(self) -> tuple[Gate, ...]:
    """Every decision; a gate that could decide nothing does not exist."""
    gates = []
    for i, layer in enumerate(self.layers):
      for kind, candidates in (
        ('kernel', layer.kernels),
        ('expansion', layer.expansions),
        ('squeeze', layer.squeeze_ratios),
      ):
        gates += [Gate(i, kind, r) for r in range(1, len(candidates))]
      if layer.skippable:
        gates.append(Gate(i, 'keep', 0))
    return tuple(gates)

  @functools.cached_property
  def gate_index(self) -> dict[tuple[int, str], tuple[int, ...]]:
    """(layer, kind) -> positions of its gates in the gate vector."""
    index: dict[tuple[int, str], tuple[int, ...]] = {
      (i, kind): ()
      for i in range(len(self.layers))
      for kind in ('kernel', 'expansion', 'squeeze', 'keep')
    }
    for position, gate in enumerate(self.gates):
      index[gate.layer, gate.kind] += (position,)
    return index

  @property
  def num_networks(self) -> int:
    """Size of the space."""
    size = 1
    for layer in self.layers:
      size *= len(layer.choices) + layer.skippable
    return size

  # --- gates <-> choices <-> architecture -------------------------------------

  def choices_of(self, gates: np.ndarray) -> Choices:
    """Reads a 0/1 gate vector [num_gates]; None = the layer is skipped.

    A gate above a closed one counts as closed, so every vector means a network.
    """
    gates = np.asarray(gates)
    if gates.shape != (len(self.gates),):
      raise ValueError(
        f'gates have shape {gates.shape}, the space needs ({len(self.gates)},)'
      )
    result: list[Choice | None] = []
    for i, layer in enumerate(self.layers):

      def rank(kind, i=i):
        open_ = [gates[p] > 0.5 for p in self.gate_index[i, kind]]
        return [*open_, False].index(False)

      if layer.skippable and not gates[self.gate_index[i, 'keep'][0]] > 0.5:
        result.append(None)
      else:
        result.append(
          Choice(
            layer.kernels[rank('kernel')],
            layer.expansions[rank('expansion')],
            layer.squeeze_ratios[rank('squeeze')],
          )
        )
    return tuple(result)

  def gates_of(self, choices: Choices) -> np.ndarray:
    """The gate vector, float32 [num_gates]; a skipped layer's gates are 0."""
    gates = np.zeros(len(self.gates), np.float32)
    for i, (layer, choice) in enumerate(zip(self.layers, choices, strict=True)):
      if choice is None:
        continue
      for kind, rank in (
        ('kernel', layer.kernels.index(choice.kernel)),
        ('expansion', layer.expansions.index(choice.expansion)),
        ('squeeze', layer.squeeze_ratios.index(choice.squeeze_ratio)),
      ):
        for position in self.gate_index[i, kind][:rank]:
          gates[position] = 1.0
      for position in self.gate_index[i, 'keep']:
        gates[position] = 1.0
    return gates

  def architecture_of(self, choices: Choices) -> Architecture:
    """Renders choices; skipped layers do not appear in the network."""
    blocks = [
      layer.block(choice)
      for layer, choice in zip(self.layers, choices, strict=True)
      if choice is not None
    ]
    return Architecture(
      blocks=(*self.first, *blocks, *self.last),
      stem_channels=self.stem_channels,
      head_channels=self.head_channels,
      num_classes=self.num_classes,
      input_channels=self.input_channels,
      stem_kernel=self.stem_kernel,
      stem_stride=self.stem_stride,
      activation=self.activation,
      batch_norm_momentum=self.batch_norm_momentum,
      batch_norm_epsilon=self.batch_norm_epsilon,
      padding=self.padding,
    )

  def decode(self, gates: np.ndarray) -> Architecture:
    """The network a 0/1 gate vector [num_gates] stands for."""
    return self.architecture_of(self.choices_of(gates))

  def encode(self, arch: Architecture) -> np.ndarray:
    """Gates float32 [num_gates] of a network of this space.

    Which layer of a stage was skipped cannot be seen in an `Architecture`; its
    kept layers become the stage's first ones.

    Raises:
      UserError: the network is not in the space; names the first block that
        does not fit.
    """
    first, last = len(self.first), len(self.last)
    trunk = arch.blocks[first : len(arch.blocks) - last]
    stuck: list[tuple[int, int]] = []

    @functools.cache
    def fill(i: int, j: int) -> Choices | None:
      """Choices of layers i, ... that give blocks j, ..., if there are any."""
      if i == len(self.layers):
        if j == len(trunk):
          return ()
        stuck.append((j, i))
        return None
      layer = self.layers[i]
      fits = None
      if j < len(trunk):
        fits = next(
          (c for c in layer.choices if layer.block(c) == trunk[j]), None
        )
      if fits is not None and (rest := fill(i + 1, j + 1)) is not None:
        return (fits, *rest)
      if layer.skippable and (rest := fill(i + 1, j)) is not None:
        return (None, *rest)
      stuck.append((j, i))
      return None

    choices = fill(0, 0)
    if choices is None:
      j, i = max(stuck)  # The first block that fits nowhere.
      found = trunk[j] if j < len(trunk) else 'the end of the network'
      if i == len(self.layers):
        raise UserError(
          f'architecture is not in the space: no layer is left for {found}'
        )
      layer = self.layers[i]
      raise UserError(
        f'architecture is not in the space: layer {i} '
        f'({layer.in_channels}->{layer.out_channels}, stride {layer.stride}) '
        f'cannot be {found}'
      )
    if self.architecture_of(choices) != arch:
      raise UserError(
        'architecture is not in the space: its stem, fixed blocks, head, '
        'classifier or style differ'
      )
    return self.gates_of(choices)

  def sample(self, rng: np.random.Generator) -> Architecture:
    """A network drawn uniformly layer by layer, skip as one more candidate."""
    return self.architecture_of(self.sample_choices(rng))

  def sample_choices(self, rng: np.random.Generator) -> Choices:
    """Like `sample`, as choices."""
    drawn = (layer.candidates for layer in self.layers)
    return tuple(own[rng.integers(len(own))] for own in drawn)

  @property
  def largest(self) -> Architecture:
    """Every gate open."""
    return self.decode(np.ones(len(self.gates)))

  @property
  def smallest(self) -> Architecture:
    """Every gate closed."""
    return self.decode(np.zeros(len(self.gates)))
