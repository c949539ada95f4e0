"""Random search: what is drawn, what it is compared with, resuming."""

import json
import shutil
import types

import numpy as np
import pytest
import tiny
import tiny_run

from spnas_jax.config.routes import space_network
from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.networks.architecture import Architecture
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.stages import random_search
from spnas_jax.stages.random_search import draw, summary
from spnas_jax.training import trained as trained_lib

BAND = 0.2


def small(**changes):
  return tiny_run.config(
    train__epochs=1.0,
    random_search__num_networks=2,
    random_search__band=BAND,
    **changes,
  )


@pytest.fixture
def scored(monkeypatch):
  """(network, seed) of every training; a top-1 that follows from both."""
  asked = []

  def score(config, workdir, stage, arch, seed, table):
    asked.append((arch.to_string(), seed))
    return {
      'architecture': arch.to_string(),
      'seed': seed,
      'predicted_ms': table.predict(arch),
      'top1': len(set(asked)) / 100,
    }

  monkeypatch.setattr(random_search, 'score_from_scratch', score)
  return asked


# --- what is drawn ------------------------------------------------------------


@pytest.mark.parametrize('band', [0.02, 0.1])
def test_networks_are_different_and_within_the_band(band):
  """On both sides of the target, up to the band and not beyond it."""
  space = tiny.space((3, 5, 7), (2, 4, 6))
  table = tiny.table(space)
  low, high = table.limits(space)
  target = (low + high) / 2
  problem = SearchProblem(space, table, target, low, high)
  drawn = draw(problem, target, band, 30, np.random.default_rng(0))
  assert len({arch.to_string() for arch in drawn}) == 30
  off = np.array([table.predict(arch) / target - 1 for arch in drawn])
  assert np.all(np.abs(off) <= band)
  assert off.min() < -band / 2 and off.max() > band / 2
  for arch in drawn:
    space.encode(arch)  # Refuses strangers.


def test_the_seed_decides_which():
  space = tiny.space()
  table = tiny.table(space)
  low, high = table.limits(space)
  target = (low + high) / 2
  problem = SearchProblem(space, table, target, low, high)

  def names(seed):
    rng = np.random.default_rng(seed)
    return [a.to_string() for a in draw(problem, target, BAND, 8, rng)]

  assert names(1) == names(1)
  assert names(1) != names(2)


def test_a_band_without_networks_is_refused(tmp_path, monkeypatch):
  """The message names the key and the band in ms; the workdir is nobody's."""
  monkeypatch.setattr(random_search, 'MAX_DRAWS', 200)
  config = small()
  config.random_search.band = 1e-6
  with pytest.raises(UserError, match=r'random_search\.band is 1e-06'):
    random_search.run(config, Workdir(tmp_path))
  assert not list(tmp_path.iterdir())


def test_a_fixed_lambda_has_no_target_to_draw_around(tmp_path):
  config = small(search__lambda_=1.0)
  with pytest.raises(UserError, match=r'search\.lambda_ is 1.*needs a target'):
    random_search.check(config, Workdir(tmp_path))


# --- what is compared ---------------------------------------------------------


def test_found_and_random_are_trained_under_the_same_seeds(workdir, scored):
  config = small(random_search__train_seeds=(3, 5))
  result = random_search.run(config, Workdir(workdir))
  rows = result['networks']
  assert [row['kind'] for row in rows] == ['found'] * 2 + ['random'] * 4
  assert [row['seed'] for row in rows] == [3, 5] * 3
  assert [(row['architecture'], row['seed']) for row in rows] == scored
  found = tiny_run.results(workdir)['search']
  assert {row['architecture'] for row in rows[:2]} == {found['architecture']}
  assert result['target_ms'] == found['target_ms']
  # Two networks, two trainings, an epoch each; the found one paid its search.
  assert result['cost_epochs'] == 4.0
  assert result['found_cost_epochs'] == config.search.epochs


def test_without_a_search_there_are_only_random_ones(tmp_path, scored):
  result = random_search.run(small(), Workdir(tmp_path))
  assert [row['kind'] for row in result['networks']] == ['random'] * 2
  assert result['found_top1'] is None and 'difference' not in result
  assert result['found_cost_epochs'] is None
  # Again elsewhere: the configuration's seed draws the same two.
  first = list(scored)
  random_search.run(small(), Workdir(tmp_path / 'again'))
  assert scored[2:] == first


def test_points_of_a_curve_are_compared_each_at_its_latency(workdir, scored):
  """The target's own networks stay the same ones. At the slowest network there
  is no other: the point stands alone."""
  recorded = tiny_run.results(workdir)
  plain = random_search.run(small(), Workdir(workdir))
  shutil.rmtree(workdir / 'random_search')
  problem = SearchProblem.of(small())
  targets = (plain['target_ms'], problem.max_ms)
  archs = (plain['networks'][0], problem.space.largest)
  points = [
    {
      'name': f'{ms:.4g}ms',
      'target_ms': ms,
      'predicted_ms': ms,
      'architecture': arch['architecture'] if i == 0 else arch.to_string(),
    }
    for i, (ms, arch) in enumerate(zip(targets, archs, strict=True))
  ]
  recorded['search']['curve'] = points
  (workdir / 'results.json').write_text(json.dumps(recorded))
  run = Workdir(workdir)
  config = small(random_search__curve_networks=3)
  result = random_search.run(config, run)
  assert [r['architecture'] for r in result['networks']] == [
    r['architecture'] for r in plain['networks']
  ]
  first, last = result['curve']
  assert [r['kind'] for r in first['networks']] == ['found'] + ['random'] * 3
  for row in first['networks']:
    assert abs(row['predicted_ms'] / targets[0] - 1) <= BAND
  assert first['difference'] == pytest.approx(
    first['found_top1'] - first['mean_top1']
  )
  assert last['networks'][0]['architecture'] == points[1]['architecture']


def test_a_point_has_the_style_of_its_space():
  """Its block string does not tell it: trained with another activation than the
  random networks beside it, it would not be compared with them."""
  config = small(space__activation='relu6', space__batch_norm_momentum=0.9)
  space = make_space(config)
  text = space.largest.to_string()
  assert space_network(config, text) == space.largest
  assert Architecture.from_string(text) != space.largest


def test_a_point_that_has_no_neighbours_stands_alone():
  """As the slowest network of a space does."""
  rows = [{'kind': 'found', 'architecture': 'f', 'top1': 0.9}]
  result = summary(rows)
  assert result['mean_top1'] is None and 'difference' not in result
  assert 'no random network' in random_search._sentence(result)


def test_a_curve_that_is_not_there_is_refused(tmp_path):
  config = small(random_search__curve_networks=3)
  with pytest.raises(UserError, match=r'random_search\.curve_networks is 3'):
    random_search.check(config, Workdir(tmp_path))
  # One that this very command is to find is not missing.
  config.search.update(method='worth', curve_points=2)
  random_search.check(config, Workdir(tmp_path))


def test_summary_averages_seeds_before_networks():
  """Two seeds of one network are one unit of the standard error."""
  rows = [
    {'kind': 'random', 'architecture': a, 'top1': t}
    for a, t in (('a', 0.8), ('a', 0.9), ('b', 0.7), ('b', 0.7))
  ]
  rows.append({'kind': 'found', 'architecture': 'f', 'top1': 0.9})
  result = summary(rows)
  assert result['mean_top1'] == pytest.approx((0.85 + 0.7) / 2)
  assert result['std_top1'] == pytest.approx(np.std([0.85, 0.7], ddof=1))
  assert result['difference'] == pytest.approx(0.9 - 0.775)
  # A found network is one more draw: s sqrt(1 + 1/2).
  assert result['standard_error'] == pytest.approx(
    result['std_top1'] * 1.5**0.5
  )
  assert result['degrees_of_freedom'] == 1


# --- going on -----------------------------------------------------------------


def test_goes_on_where_it_was_stopped(workdir, monkeypatch):
  """Stopped before its third training: the rows that are there are kept, one
  network is trained, and a second run only reads."""
  trained = []

  def train(config, folder, name, arch, **kwargs):
    if len(trained) == 2 and stops:
      raise KeyboardInterrupt
    trained.append(arch.to_string())
    return types.SimpleNamespace(averaged={})

  def score(*args):
    return {'top1': len(trained) / 10, 'num_examples': 50}

  monkeypatch.setattr(trained_lib, 'train_network', train)
  monkeypatch.setattr(trained_lib, 'score_split', score)
  config, stops = small(), True
  with pytest.raises(KeyboardInterrupt):
    random_search.run(config, Workdir(workdir))
  assert 'random_search' not in tiny_run.results(workdir)
  stops = False
  result = random_search.run(config, Workdir(workdir))
  assert len(trained) == len(set(trained)) == 3
  assert [row['architecture'] for row in result['networks']] == trained
  assert [row['top1'] for row in result['networks']] == [0.1, 0.2, 0.3]
  target = result['target_ms']
  for row in result['networks'][1:]:
    assert abs(row['predicted_ms'] / target - 1) <= BAND
  assert result['difference'] == pytest.approx(0.1 - 0.25)
  assert len(list((workdir / 'random_search').glob('*/row.json'))) == 3
  before = tiny_run.snapshot(workdir)
  assert random_search.run(config, Workdir(workdir)) == result
  assert tiny_run.snapshot(workdir) == before


@pytest.mark.slow
def test_compares_networks_that_were_really_trained(workdir):
  result = random_search.run(small(), Workdir(workdir))
  assert [r['kind'] for r in result['networks']] == ['found', *['random'] * 2]
  rows = sorted((workdir / 'random_search').glob('*/row.json'))
  assert [json.loads(r.read_text())['num_examples'] for r in rows] == [50] * 3
