"""The knapsack that turns soft decisions into a network in the band."""

import dataclasses
import functools
import itertools
import pathlib

import numpy as np
import pytest
import tiny
from authors import imagenet_space
from hypothesis import given, settings
from hypothesis import strategies as st

from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.space import Choice
from spnas_jax.search.projection import (
  BINS,
  GRAIN,
  choice_costs,
  choice_log_likelihoods,
  project,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
SPACE = tiny.space()
RICH = tiny.space((3, 5, 7), (2, 4), (0.0, 0.25))


@functools.cache
def networks(space):
  """Every network of a space: tuples of choices."""
  return list(
    itertools.product(
      *([*x.choices, *([None] if x.skippable else [])] for x in space.layers)
    )
  )


def random_table(seed):
  """Times in no order, so that fewer milliseconds is not fewer weights."""
  rng = np.random.default_rng(seed)
  table = tiny.table(SPACE, factor=float(rng.uniform(0.8, 1.2)))
  entries = {
    key: {'ms': float(rng.uniform(0.1, 3))} for key in sorted(table.entries)
  }
  return dataclasses.replace(table, entries=entries)


def score_all(table, logits):
  """(log-likelihood, ms) of every network."""
  values = choice_log_likelihoods(SPACE, logits)
  likelihood = np.array(
    [sum(v[c] for v, c in zip(values, n, strict=True)) for n in networks(SPACE)]
  )
  ms = np.array(
    [table.predict(SPACE.architecture_of(n)) for n in networks(SPACE)]
  )
  return likelihood, ms


@settings(tiny.steady, max_examples=100)
@given(
  st.integers(0, 2**16), st.floats(0.01, 0.99), st.sampled_from((0.02, 0.1))
)
def test_agrees_with_brute_force(seed, fraction, slack):
  """Over all 400 networks of a tiny space, with random logits and tables.

  Never above the target; in the band where a network lies in it; no network
  inside the band is likelier, but for the grains that likelihoods count in:
  half of one a layer, either way. The grid of BINS steps may misjudge a
  network within one step per layer of the band's ends, so there it may choose
  either.
  """
  rng = np.random.default_rng(seed)
  table = random_table(seed)
  logits = rng.normal(0, 3, len(SPACE.gates))
  low, high = table.limits(SPACE)
  target = low + fraction * (high - low)
  found = project(SPACE, table, logits, target, slack)
  likelihood, ms = score_all(table, logits)
  own = networks(SPACE).index(found)
  assert ms[own] <= target * (1 + 1e-9)
  constant, _ = table.costs(SPACE)
  grid = len(SPACE.layers) * (target - constant) / BINS
  bottom = (1 - slack) * target
  safe = (ms >= bottom + grid) & (ms <= target - grid)
  if safe.any():
    assert ms[own] >= bottom - 1e-9
    grains = len(SPACE.layers) * GRAIN
    assert likelihood[own] >= likelihood[safe].max() - grains - 1e-9
  elif not ((ms >= bottom) & (ms <= target)).any():
    # The lower end gives way: among the slowest that meet the target.
    slowest = ms[ms <= target - grid].max(initial=low)
    assert ms[own] >= slowest - slack * target - 1e-9


def test_likeliest_network_if_the_band_allows():
  """With a wide band the projection changes nothing about clear decisions."""
  table = tiny.table(SPACE)
  rng = np.random.default_rng(0)
  gates = SPACE.gates_of(SPACE.sample_choices(rng))
  logits = np.where(gates > 0.5, 5.0, -5.0)
  wanted = SPACE.choices_of(gates)
  target = table.predict(SPACE.architecture_of(wanted)) * 1.05
  assert project(SPACE, table, logits, target, 0.2) == wanted


def test_rounding_does_not_choose_between_gates_at_their_limit():
  """Equally likely networks: the slowest of them, whatever rounding says.

  Logits as large as `search.logit_limit` lets them become, off by what float32
  makes of them.
  """
  table = random_table(10)
  rng = np.random.default_rng(10)
  logits = np.full(len(SPACE.gates), 6.0)
  low, high = table.limits(SPACE)
  target, slack = (low + high) / 2, 0.1
  found = {
    project(SPACE, table, logits + 2e-6 * noise, target, slack)
    for noise in rng.uniform(-1, 1, (10, len(logits)))
  }
  assert len(found) == 1
  likelihood, ms = score_all(table, logits)
  own = networks(SPACE).index(*found)
  constant, _ = table.costs(SPACE)
  grid = len(SPACE.layers) * (target - constant) / BINS
  inside = (ms >= (1 - slack) * target) & (ms <= target - grid)
  equal = inside & (likelihood > likelihood[own] - GRAIN)
  assert equal.sum() > 1
  assert ms[own] >= ms[equal].max() - 1e-9


@pytest.mark.parametrize('fraction', [0.0, 1.0])
def test_ends_of_the_range(fraction):
  """The fastest and the slowest network of the space are reachable targets."""
  table = tiny.table(SPACE)
  low, high = table.limits(SPACE)
  rng = np.random.default_rng(1)
  logits = rng.normal(size=len(SPACE.gates))
  target = low if fraction == 0 else high
  found = project(SPACE, table, logits, target, 0.02)
  ms = table.predict(SPACE.architecture_of(found))
  assert ms <= target * (1 + 1e-9)
  assert ms >= (1 - 0.02) * target


def test_deterministic():
  """The same logits give the same network: no set order, no randomness."""
  table = random_table(3)
  rng = np.random.default_rng(3)
  logits = rng.normal(size=len(SPACE.gates))
  low, high = table.limits(SPACE)
  results = {
    project(SPACE, table, logits.copy(), (low + high) / 2, 0.05)
    for _ in range(3)
  }
  assert len(results) == 1
  # float32 logits, as they come from a device, are the same question.
  single = project(
    SPACE, table, logits.astype(np.float32), (low + high) / 2, 0.05
  )
  assert single in results


@pytest.mark.parametrize('target', [31.0, 45.0, 80.0, 125.0])
def test_positional_table(target):
  """On the Pixel 1 table `predict` decides, whichever rows were summed up.

  There a stage's kept layers pay its first rows, so the knapsack's own sum can
  differ from the network's by microseconds. The space is dense: the band of 2%
  is always met from its 30.63 ms upwards, where the target is inside.
  """
  table = LatencyTable.load(ROOT / 'latency' / 'pixel1.json')
  space = imagenet_space()
  rng = np.random.default_rng(4)
  found = project(space, table, rng.normal(size=len(space.gates)), target, 0.02)
  ms = table.predict(space.architecture_of(found))
  assert 0.98 * target - 0.05 <= ms <= target * (1 + 1e-9)


def test_positional_table_whose_rows_differ():
  """The likeliest layers may be cheaper than the rows that are charged.

  Here only the last layer of the second stage is likely; its row costs 2.5942
  ms, the first row of its kind 2.6194, so the network itself is above a target
  of exactly the knapsack's sum.
  """
  table = LatencyTable.load(ROOT / 'latency' / 'pixel1.json')
  space = imagenet_space()
  choices = [Choice(5, 3, 0.0)] * 20
  choices[5] = choices[6] = None
  constant, costs = choice_costs(table, space)
  target = constant + sum(
    own[choice] for choice, own in zip(choices, costs, strict=True)
  )
  assert table.predict(space.architecture_of(tuple(choices))) > target
  logits = 20 * space.gates_of(tuple(choices)) - 10
  found = project(space, table, logits, target, 0.02)
  ms = table.predict(space.architecture_of(found))
  assert 0.98 * target - 0.05 <= ms <= target * (1 + 1e-9)


@settings(tiny.steady, max_examples=50)
@given(
  st.lists(st.floats(-50, 50), min_size=40, max_size=40),
  st.sampled_from((SPACE, RICH)),
)
def test_likelihoods_are_probabilities(values, space):
  """Of each layer's candidates, skip included: they sum to 1."""
  logits = np.array(values[: len(space.gates)])
  for own, layer in zip(
    choice_log_likelihoods(space, logits), space.layers, strict=True
  ):
    assert list(own) == [*layer.choices, *([None] if layer.skippable else [])]
    assert sum(np.exp(v) for v in own.values()) == pytest.approx(1, abs=1e-12)


def test_likelihoods_sum_out_what_does_not_matter():
  """Against enumeration of all gate vectors and what each decodes to."""
  rng = np.random.default_rng(5)
  logits = rng.normal(0, 2, len(SPACE.gates))
  p = 1 / (1 + np.exp(-logits))
  wanted: dict = {}
  for gates in tiny.all_gates(SPACE):
    probability = np.prod(np.where(gates > 0.5, p, 1 - p))
    network = SPACE.choices_of(gates)
    wanted[network] = wanted.get(network, 0.0) + probability
  values = choice_log_likelihoods(SPACE, logits)
  for network, probability in wanted.items():
    own = sum(v[c] for v, c in zip(values, network, strict=True))
    assert np.exp(own) == pytest.approx(probability, rel=1e-9)


def test_likelihoods_of_extreme_logits_are_finite():
  """Decisions beyond doubt keep an order instead of becoming -inf."""
  logits = np.array([800.0, -800.0] * (len(SPACE.gates) // 2))
  for own in choice_log_likelihoods(SPACE, logits):
    assert np.all(np.isfinite(list(own.values())))


def test_costs_are_the_tables():
  """A network's cost is the constant and its choices', a skip's is 0."""
  table = random_table(6)
  constant, costs = choice_costs(table, SPACE)
  for network in networks(SPACE)[::7]:
    total = constant + sum(
      c[choice] for c, choice in zip(costs, network, strict=True)
    )
    wanted = table.predict(SPACE.architecture_of(network))
    assert total == pytest.approx(wanted, rel=1e-12)


@settings(tiny.steady, max_examples=150)
@given(st.integers(0, 2**16), st.booleans())
def test_of_networks_with_equal_times_it_is_the_likeliest(seed, met):
  """Times that tie, and no slack: tenths of a ms, whose sums differ in their
  last digits with the order in which they are added. The target is the time of
  a network (`met`) or lies anywhere."""
  rng = np.random.default_rng(seed)
  table = tiny.table(SPACE, factor=float(rng.uniform(0.8, 1.2)))
  entries = {
    key: {'ms': int(rng.integers(1, 6)) / 10} for key in sorted(table.entries)
  }
  table = dataclasses.replace(table, entries=entries)
  logits = rng.normal(0, 3, len(SPACE.gates))
  likelihood, ms = score_all(table, logits)
  low, high = table.limits(SPACE)
  target = float(rng.choice(ms) if met else rng.uniform(low, high))
  found = project(SPACE, table, logits, target, slack=0.0)
  allowed = ms <= target * (1 + 1e-9)
  slowest = ms[allowed].max() * (1 - 1e-9)
  best = likelihood[allowed & (ms >= slowest)].max()
  own = networks(SPACE).index(found)
  assert ms[own] >= slowest
  assert likelihood[own] >= best - GRAIN * len(SPACE.layers)
