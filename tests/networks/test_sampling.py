"""Random networks: distinct, repeatable, and where they must lie."""

import numpy as np
import tiny

from spnas_jax.networks.sampling import random_choices, random_networks


def test_random_networks_are_distinct_and_repeatable():
  space = tiny.space()
  first = random_networks(space, 20, np.random.default_rng(1))
  again = random_networks(space, 20, np.random.default_rng(1))
  assert len(first) == 20
  assert list(first) == list(again)
  assert all(arch.to_string() == name for name, arch in first.items())
  others = random_networks(
    space, 20, np.random.default_rng(1), exclude=tuple(first)
  )
  assert not set(first) & set(others)


def test_small_spaces_run_out_of_networks():
  space = tiny.space(kernels=(3,), expansions=(2,))  # 2 x 2 networks.
  found = random_networks(space, 50, np.random.default_rng(0))
  assert len(found) == space.num_networks == 4


def test_only_accepted_networks_are_drawn_and_misses_are_counted():
  space, rng = tiny.space(), np.random.default_rng(0)
  tried = []

  def narrow(arch):
    tried.append(arch.to_string())
    return '_k5_' not in tried[-1]

  found = random_networks(space, 3, rng, accept=narrow, max_misses=10_000)
  assert len(found) == 3 and not any('_k5_' in name for name in found)
  rng, calls = np.random.default_rng(0), []
  none = random_networks(space, 3, rng, accept=calls.append, max_misses=17)
  assert none == {} and len(calls) == 17


def test_choices_and_networks_are_the_same_draws():
  """A supernet is scored by its choices, of which a network has several."""
  space = tiny.space()
  choices = random_choices(space, 5, np.random.default_rng(3))
  networks = random_networks(space, 5, np.random.default_rng(3))
  assert {n: space.architecture_of(c) for n, c in choices.items()} == networks
