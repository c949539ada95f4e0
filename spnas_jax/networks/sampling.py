"""Random networks of a search space: the one sampler of all stages."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from spnas_jax.networks.architecture import Architecture
from spnas_jax.networks.space import Choices, SearchSpace

# Draws in vain after which a stage that must have its networks gives up.
MAX_DRAWS = 200_000


def random_choices(
  space: SearchSpace,
  count: int,
  rng: np.random.Generator,
  *,
  accept: Callable[[Architecture], bool] = lambda arch: True,
  exclude: Collection[str] = (),
  max_misses: int | None = None,
) -> dict[str, Choices]:
  """Distinct random networks, drawn uniformly layer by layer.

  Args:
    space: what to draw from.
    count: how many.
    rng: source of randomness.
    accept: networks that it refuses are drawn past.
    exclude: block strings that must not be drawn.
    max_misses: draws in vain (seen before, excluded, not accepted) after which
      to give up, by default 100 + 10 count: a small space may not have so many
      networks, and each miss makes that more likely.

  Returns:
    Block string -> choices, in the order they were drawn; fewer than `count`
    where it gave up.
  """
  most = 100 + 10 * count if max_misses is None else max_misses
  found: dict[str, Choices] = {}
  misses = 0
  while len(found) < count and misses < most:
    choices = space.sample_choices(rng)
    arch = space.architecture_of(choices)
    name = arch.to_string()
    if name in found or name in exclude or not accept(arch):
      misses += 1
    else:
      found[name] = choices
  return found


def random_networks(
  space: SearchSpace, count: int, rng: np.random.Generator, **limits: Any
) -> dict[str, Architecture]:
  """The same as `random_choices`: block string -> network."""
  return {
    name: space.architecture_of(choices)
    for name, choices in random_choices(space, count, rng, **limits).items()
  }
