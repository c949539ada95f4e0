"""Evolution: meets its limit, never loses what it was given, makes a front."""

import dataclasses
import itertools

import numpy as np
import pytest
import tiny
import tiny_run

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.networks.space import Stage
from spnas_jax.search.evolution import Evolution, most_bred
from spnas_jax.search.search_record import finished_search
from spnas_jax.search.subnets import Subnets
from spnas_jax.stages import search, train


def made(seed=0):
  """An evolution whose score is a known function of the gates."""
  space = tiny.space(kernels=(3, 5, 7), expansions=(2, 4, 6))
  table = tiny.table(space)
  weights = np.random.default_rng(1).normal(size=len(space.gates))

  def score(gates):
    return {'top1': 0.0, 'cross_entropy': float(10 - weights @ gates)}

  rng = np.random.default_rng(seed)
  return space, table, Evolution(space, table, score, rng, mutation=0.2)


def test_finds_the_best_network_of_a_space_it_can_enumerate():
  """Against brute force over 9,000 draws of the same band."""
  space, table, evolution = made()
  low, high = table.limits(space)
  target = (low + high) / 2
  best = evolution.run(target, 0.1, population=20, generations=12)
  assert 0.9 * target <= best.ms <= target
  rng = np.random.default_rng(2)
  luck = [
    evolution._score(space.gates_of(c))['cross_entropy']
    for c in (space.sample_choices(rng) for _ in range(9000))
    if 0.9 * target <= table.predict(space.architecture_of(c)) <= target
  ]
  # Fewer than 260 scores against all draws in the band: in the best 1%.
  assert len(evolution.scored) <= 260
  assert best.cross_entropy <= np.quantile(luck, 0.01)


def test_keeps_what_it_starts_with():
  """The gates' own decision takes part, so the result is never worse."""
  space, table, evolution = made()
  start = space.choices_of(np.ones(len(space.gates)))
  limit = table.predict(space.largest)
  best = evolution.run(limit, 0.9, population=4, generations=0, start=(start,))
  assert best.cross_entropy <= evolution.score(start).cross_entropy


def test_an_empty_band_gives_way_downwards():
  """A space with one decision, 1 ms or 10 ms, and targets in the gap: found is
  the slowest network that meets the target, as the projection would find."""
  space = tiny.space(
    stages=(Stage(8, 1, 2, (3, 5), (2,), (0.0,)),), kernels=(3, 5)
  )
  table = tiny.table(space)
  large = max(table.keys_of(space.largest), key=lambda key: '_k5_' in key)
  entries = {
    key: {'ms': 10.0 if key == large else 0.1} for key in table.entries
  }
  table = dataclasses.replace(table, entries=entries)
  rng = np.random.default_rng(0)
  evolution = Evolution(
    space, table, lambda _: {'top1': 0.0, 'cross_entropy': 1.0}, rng, 0.2
  )
  low, high = table.limits(space)
  assert high > 10 * low
  best = evolution.run(5.0, 0.02, population=3, generations=1)
  assert best.ms == low
  assert evolution.band(5.0, 0.02)[0] == pytest.approx(0.98 * low)
  # Where networks are in the band, it is the band.
  assert evolution.band(high, 0.02)[0] == pytest.approx(0.98 * high)


def test_front_is_what_nothing_beats():
  """Along the front ms rises and cross-entropy falls; it dominates the rest."""
  space, table, evolution = made()
  low, high = table.limits(space)
  for share in (0.3, 0.6, 0.9):
    target = low + share * (high - low)
    evolution.run(target, 0.2, population=8, generations=2)
  front = evolution.front()
  assert len(front) >= 3
  assert all(a.ms <= b.ms for a, b in itertools.pairwise(front))
  for s in evolution.scored:
    assert any(
      f.ms <= s.ms and f.cross_entropy <= s.cross_entropy for f in front
    )


def test_search_method_evolution_on_digits(tmp_path):
  """End to end: one supernet, a network at the target, a front."""
  config = tiny_run.config(
    search__method='evolution',
    search__evolution__population=4,
    search__evolution__generations=2,
    search__evolution__front_points=2,
    search__evolution__images=64,
    search__slack=0.2,
  )
  result = search.run(config, Workdir(tmp_path))
  target = result['target_ms']
  assert 0.8 * target <= result['predicted_ms'] <= target
  evolved = result['evolution']
  # What the progress line counts to: 1 + 4 (2 + 1 + 2 (1 + 1)).
  assert most_bred(config.search.evolution) == 29
  assert 4 <= evolved['evaluations'] <= 29
  assert (
    evolved['best']['supernet_cross_entropy']
    <= evolved['gates_own']['supernet_cross_entropy']
  )
  assert result['warmup_steps'] == result['steps']


def test_evolution_needs_a_target(tmp_path):
  """A fixed lambda has none."""
  config = tiny_run.config(search__method='evolution', search__lambda_=1.0)
  with pytest.raises(UserError, match=r'search\.lambda_'):
    search.run(config, Workdir(tmp_path))


@pytest.mark.slow
def test_evolution_over_another_searchs_supernet(tmp_path):
  """No training: the finished search's weights, found again to inherit from."""
  source = tiny_run.finished()
  config = tiny_run.config(
    search__method='evolution',
    search__evolution__supernet=str(source),
    search__evolution__population=3,
    search__evolution__generations=1,
    search__evolution__front_points=0,
    search__evolution__images=32,
    search__slack=0.2,
    train__init='inherit',
    train__epochs=0.5,
  )
  workdir = Workdir(tmp_path / 'run')
  result = search.run(config, workdir)
  trained = tiny_run.results(source)['search']
  assert result['params_sha256'] == trained['params_sha256']
  assert not (workdir / 'search' / 'checkpoints').exists()
  assert train.run(config, workdir)['steps'] == 2


def test_a_supernet_that_is_not_there_is_refused(tmp_path):
  """Before anything is left in the workdir."""
  config = tiny_run.config(
    search__method='evolution',
    search__evolution__supernet=str(tmp_path / 'nothing'),
  )
  workdir = Workdir(tmp_path / 'run')
  with pytest.raises(UserError, match=r'search\.evolution\.supernet is'):
    search.run(config, workdir)
  assert not list(workdir.path.iterdir())


def test_says_how_many_images_a_score_is_of():
  """144 images in batches of 32 are 144, not five full batches."""
  config = tiny_run.config(dataset__train_examples=144)
  searched, state = finished_search(config, Workdir(tiny_run.finished()))
  subnets = Subnets(config, searched.supernet, state.params, 1000)
  assert subnets.num_images == 144
  assert (
    Subnets(config, searched.supernet, state.params, 50).num_images == 64
  ), 'whole batches'
