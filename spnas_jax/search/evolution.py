"""Evolution over a trained supernet: `search.method='evolution'`.

The paper says that its encoding serves other searches too. Here networks are
gate vectors, scored with the supernet's shared weights; children are mutations
and crossovers that meet the latency limit.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.space import Choice, Choices, SearchSpace
from spnas_jax.search.projection import (
  choice_bytes,
  choice_costs,
  project_likelihoods,
)


@dataclasses.dataclass(frozen=True)
class Scored:
  """A network with its latency and its supernet scores."""

  choices: Choices
  ms: float
  top1: float
  cross_entropy: float


class Evolution:
  """Remembers every network it has scored.

  Args:
    space: the search space.
    table: latency of its networks.
    score: gates [num_gates] -> {'top1', 'cross_entropy'}.
    rng: of everything random.
    mutation: probability that a layer is drawn again.
    max_bytes: largest .tflite file; None = any.
  """

  def __init__(
    self,
    space: SearchSpace,
    table: LatencyTable,
    score: Callable[[np.ndarray], dict[str, float]],
    rng: np.random.Generator,
    mutation: float,
    max_bytes: float | None = None,
  ):
    self._space, self._table, self._score = space, table, score
    self._rng, self._mutation = rng, mutation
    self._max_bytes = max_bytes
    if max_bytes is not None:
      self._least_bytes, self._sizes = choice_bytes(table, space)
    self._seen: dict[Choices, Scored] = {}

  @property
  def scored(self) -> list[Scored]:
    """All networks scored so far."""
    return list(self._seen.values())

  def score(self, choices: Choices) -> Scored:
    """Scores a network, once."""
    if choices not in self._seen:
      gates = self._space.gates_of(choices)
      self._seen[choices] = Scored(
        choices, self._ms(choices), **self._score(gates)
      )
    return self._seen[choices]

  def run(
    self,
    target_ms: float,
    slack: float,
    population: int,
    generations: int,
    start: tuple[Choices, ...] = (),
  ) -> Scored:
    """The best small enough network with target (1 - slack) <= ms <= target.

    Where no network lies in that band, its lower end moves down, see `band`.

    Args:
      target_ms: limit, ms.
      slack: fraction.
      population: networks scored in each generation.
      generations: after the first population.
      start: networks to begin with (those that meet the limit).

    Raises:
      UserError: no network within target_ms is small enough.
    """
    low, witness = self.band(target_ms, slack)

    def fits(choices):
      return low <= self._ms(choices) <= target_ms and not self._excess(choices)

    members = [c for c in start if fits(c)] or [witness]
    drawn = (
      self._drawn(low, target_ms) for _ in range(population - len(members))
    )
    members += [choices for choices in drawn if choices is not None]
    for generation in range(generations + 1):
      for member in members:
        self.score(member)
      inside = [s for s in self.scored if low <= s.ms <= target_ms]
      parents = sorted(inside, key=lambda s: s.cross_entropy)
      parents = parents[: max(2, population // 4)]
      if generation < generations:
        members = self._children(parents, fits, population)
    return parents[0]

  def band(self, target_ms: float, slack: float) -> tuple[float, Choices]:
    """Lower end of the band below a target, ms, and a network in it.

    The lower end is target (1 - slack). Where no network of the space lies
    between it and the target, it is `slack` below the slowest network that
    meets the target, as in the projection.
    """
    equal: list[dict[Choice | None, float]] = [
      dict.fromkeys(costs, 0.0)
      for costs in choice_costs(self._table, self._space)[1]
    ]
    # Of equally likely networks the projection takes the slowest.
    slowest = project_likelihoods(
      self._space, self._table, equal, target_ms, slack, self._max_bytes
    )
    low, ms = target_ms * (1 - slack), self._ms(slowest)
    return (low if ms >= low else ms * (1 - slack)), slowest

  def front(self) -> list[Scored]:
    """Networks that no scored network beats in both ms and cross-entropy."""
    best, front = np.inf, []
    for s in sorted(self.scored, key=lambda s: (s.ms, s.cross_entropy)):
      if s.cross_entropy < best:
        best = s.cross_entropy
        front.append(s)
    return front

  def row(self, scored: Scored) -> dict[str, Any]:
    """A scored network for results.json."""
    return {
      'architecture': self._space.architecture_of(scored.choices).to_string(),
      'predicted_ms': scored.ms,
      'supernet_top1': scored.top1,
      'supernet_cross_entropy': scored.cross_entropy,
    }

  def _ms(self, choices: Choices) -> float:
    return self._table.predict(self._space.architecture_of(choices))

  def _excess(self, choices: Choices) -> float:
    """Bytes of a network's file above the limit; 0 = small enough."""
    if self._max_bytes is None:
      return 0.0
    sizes = (s[c] for s, c in zip(self._sizes, choices, strict=True))
    return max(0.0, self._least_bytes + sum(sizes) - self._max_bytes)

  def _draw_layer(self, i: int) -> Choice | None:
    candidates = self._space.layers[i].candidates
    return candidates[self._rng.integers(len(candidates))]

  def _drawn(self, low: float, high: float) -> Choices | None:
    """A random network walked into the band; None if the walk gets stuck."""
    choices = self._space.sample_choices(self._rng)
    for _ in range(10_000):
      ms, excess = self._ms(choices), self._excess(choices)
      if low <= ms <= high and not excess:
        return choices
      i = int(self._rng.integers(len(choices)))
      changed = (*choices[:i], self._draw_layer(i), *choices[i + 1 :])
      moved = self._ms(changed)
      # A step that does not lead away from the band, nor from the limit of the
      # size. In the band and too large, time may change either way.
      nearer = (moved <= ms) if ms > high else (moved >= ms or ms >= low)
      if nearer and self._excess(changed) <= excess:
        choices = changed
    return None

  def _children(self, parents, fits, count: int) -> list[Choices]:
    """New networks that fit: half mutations, half crossovers, mutated too."""
    children: list[Choices] = []
    for attempt in range(200 * count):
      if len(children) == count:
        break
      pick = self._rng.integers(len(parents), size=2)
      mother, father = parents[pick[0]].choices, parents[pick[1]].choices
      take = self._rng.random(len(mother)) < 0.5
      if attempt % 2:
        mother = tuple(
          m if t else f for m, f, t in zip(mother, father, take, strict=True)
        )
      child = tuple(
        self._draw_layer(i) if self._rng.random() < self._mutation else choice
        for i, choice in enumerate(mother)
      )
      if fits(child) and child not in self._seen and child not in children:
        children.append(child)
    return children


def most_bred(settings: Any) -> int:
  """Networks that `evolve` scores at most: a small space has fewer."""
  c = settings
  rounds = c.generations + 1 + c.front_points * (_front_generations(c) + 1)
  return 1 + c.population * rounds


def _front_generations(settings: Any) -> int:
  return max(1, settings.generations // 4)


def evolve(
  evolution: Evolution,
  target_ms: float,
  min_ms: float,
  max_ms: float,
  slack: float,
  own: Choices,
  settings: Any,
) -> tuple[Choices, dict[str, Any]]:
  """Breeds networks for the target, then for the rest of the front.

  Args:
    evolution: of the space.
    target_ms: limit of the network that is wanted, ms.
    min_ms, max_ms: of the space's fastest and slowest network.
    slack: fraction.
    own: the network that the gates decided on, where it starts.
    settings: `population`, `generations` and `front_points` are read.

  Returns:
    (choices of the best network at the target, what to report).
  """
  c = settings
  best = evolution.run(target_ms, slack, c.population, c.generations, (own,))
  low_ms, _ = evolution.band(target_ms, slack)
  if low_ms < target_ms * (1 - slack):
    say(
      f'search: no network lies within {100 * slack:g}% below '
      f'{target_ms:.4g} ms; the slowest that meet it were bred, from '
      f'{low_ms:.4g} ms on'
    )
  for share in np.linspace(0.15, 0.95, c.front_points):
    limit = min_ms + share * (max_ms - min_ms)
    # A network may be fast enough and none of those small enough.
    with contextlib.suppress(UserError):
      evolution.run(limit, slack, c.population, _front_generations(c))
  return best.choices, {
    'best': evolution.row(best),
    'band_ms': [low_ms, target_ms],
    'gates_own': evolution.row(evolution.score(own)),
    'front': [evolution.row(s) for s in evolution.front()],
    'networks': [evolution.row(s) for s in evolution.scored],
    'evaluations': len(evolution.scored),
  }
