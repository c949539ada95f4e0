"""File sizes and memory: predicted, measured, and a limit of a search."""

import dataclasses

import fake_device
import numpy as np
import pytest
import tiny
from fake_device import FakeDevice

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.export import tflite
from spnas_jax.latency.entries import network_tflite
from spnas_jax.latency.table import LatencyTable
from spnas_jax.search import projection
from spnas_jax.search.evolution import Evolution
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.stages import build_table

SIZE = 12


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """(config, table with sizes), its times those of a fake device."""
  folder = tmp_path_factory.mktemp('sizes')
  c = tiny.config()
  c.dataset.image_size = SIZE
  c.build_table.update(rounds=1, runs_per_round=1, calibration_networks=1)
  with pytest.MonkeyPatch.context() as patch:
    fake_device.install(patch, FakeDevice())
    build_table.run(c, Workdir(folder))
  c.latency_table = str(folder / 'latency_table.json')
  return c, LatencyTable.load(c.latency_table)


def test_sizes_add_up(made):
  """A file that was not among those of the calibration: within 1%
  or, of a network of 14 kB, 300 bytes."""
  c, table = made
  space, rng = SearchProblem.of(c).space, np.random.default_rng(0)
  for arch in (space.largest, space.smallest, space.sample(rng)):
    size = len(network_tflite(arch, SIZE, rng))
    assert table.predict_bytes(arch) == pytest.approx(size, rel=0.01, abs=300)


def test_arena_by_hand():
  """Two activations that live at the same time share nothing; four in a row
  need room for two."""
  from jax import nn

  def chain(x):
    for _ in range(3):
      x = nn.relu(x * 2.0 + 1.0)
    return x

  one = 4 * 8 * 8 * 16
  # The runtime may keep input and output apart, and aligns to 64 bytes.
  assert 2 * one <= tflite.arena_bytes(tflite.convert(chain, (1, 8, 8, 16)))
  assert tflite.arena_bytes(tflite.convert(chain, (1, 8, 8, 16))) <= 4 * one


def test_a_network_within_both_limits(made):
  """Against all networks of the space: the one found is within both, and none
  in the band that is as small is likelier by more than the price's step."""
  import itertools

  c, table = made
  problem = SearchProblem.of(c)
  space, slack = problem.space, 0.05
  logits = np.random.default_rng(1).normal(2, 2, len(space.gates))
  # The fake's times do not depend on kernels or expansions.
  target = problem.max_ms
  values = projection.choice_log_likelihoods(space, logits)
  inside = []
  for choices in itertools.product(*(la.candidates for la in space.layers)):
    arch = space.architecture_of(choices)
    if (1 - slack) * target <= table.predict(arch) <= target:
      likely = sum(own[ch] for own, ch in zip(values, choices, strict=True))
      inside.append((likely, table.predict_bytes(arch)))
  free = projection.project(space, table, logits, target, slack)
  size = table.predict_bytes(space.architecture_of(free))
  limit = 0.5 * (size + min(s for _, s in inside))
  found = projection.project(space, table, logits, target, slack, limit)
  arch = space.architecture_of(found)
  assert table.predict_bytes(arch) <= limit < size
  assert table.predict(arch) <= target
  best = max(likely for likely, s in inside if s <= limit)
  own = sum(v[ch] for v, ch in zip(values, found, strict=True))
  assert own <= best + 1e-9 and best - own < 3.0
  # A limit that nothing breaks changes nothing.
  assert projection.project(space, table, logits, target, slack, 1e9) == free


def test_evolution_keeps_both_limits(made):
  """Large networks score best: every one that is scored is within the band and
  small enough, and the best is the best of all such by brute force."""
  import itertools

  c, table = made
  problem = SearchProblem.of(c)
  space, target, slack = problem.space, problem.max_ms, 0.05
  weights = np.random.default_rng(2).uniform(1, 2, len(space.gates))

  def score(gates):
    return {'top1': 0.0, 'cross_entropy': float(99 - weights @ gates)}

  band = [
    (score(space.gates_of(choices))['cross_entropy'], table.predict_bytes(arch))
    for choices in itertools.product(*(la.candidates for la in space.layers))
    for arch in [space.architecture_of(choices)]
    if (1 - slack) * target <= table.predict(arch) <= target
  ]
  limit = float(np.median([size for _, size in band]))
  rng = np.random.default_rng(0)
  evolution = Evolution(space, table, score, rng, 0.3, limit)
  best = evolution.run(target, slack, population=20, generations=15)
  for scored in evolution.scored:
    arch = space.architecture_of(scored.choices)
    assert table.predict_bytes(arch) <= limit
    assert (1 - slack) * target <= scored.ms <= target
  assert best.cross_entropy == pytest.approx(
    min(ce for ce, size in band if size <= limit), rel=1e-9
  )
  # A start that is too large takes no part.
  again = Evolution(space, table, score, rng, 0.3, limit)
  largest = space.choices_of(np.ones(len(space.gates), np.float32))
  again.run(target, slack, population=4, generations=1, start=(largest,))
  assert largest not in {s.choices for s in again.scored}


def test_limits_that_cannot_be_met_are_refused(made):
  """One line that says what is possible, or what is missing."""
  c, table = made
  c = c.copy_and_resolve_references()
  c.search.max_kb = 0.5
  with pytest.raises(UserError, match=r'is 0.5, allowed: [\d.]+ or more'):
    SearchProblem.of(c)
  c.search.max_kb = 1e6
  assert SearchProblem.of(c).max_bytes == 1e9
  fixed = c.copy_and_resolve_references()
  fixed.search.lambda_, fixed.search.target_ms = 0.5, None
  with pytest.raises(UserError, match='must be 0 with a fixed lambda'):
    SearchProblem.of(fixed)
  bare = {k: {**row} for k, row in table.entries.items()}
  for row in bare.values():
    del row['bytes']
  with pytest.raises(UserError, match=r"is 1e\+06, but 'host' has no sizes"):
    SearchProblem.of(c, dataclasses.replace(table, entries=bare))
