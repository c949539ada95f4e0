"""What decisions are worth: found again where it is known, and spent well."""

import itertools

import numpy as np
import pytest
import tiny
import tiny_run

from spnas_jax.config import routes
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.search import worth as worths
from spnas_jax.stages import search

SPACE = tiny.space(kernels=(3, 5, 7), expansions=(2, 4))
TABLE = tiny.table(SPACE)


def true_worths(seed=1):
  return np.random.default_rng(seed).normal(0.01, 0.01, len(SPACE.gates))


def test_worths_that_add_up_are_found_again():
  """Cross-entropies that are exactly additive: the likeliest ratio of variances
  is then the largest, 3e5, and worths are exact to about its inverse."""
  true = true_worths()
  drawn = worths.draw(SPACE, 40, 0.6, np.random.default_rng(0))
  found = worths.estimate(SPACE, drawn, 2.0 - drawn @ true)
  np.testing.assert_allclose(found.worths, true, atol=1e-6)
  assert found.smallest == pytest.approx(2.0, abs=1e-5)
  assert found.errors.max() < 1e-4
  np.testing.assert_allclose(
    found.predict(drawn), 2.0 - drawn @ true, atol=1e-5
  )


def test_standard_errors_are_those_of_the_estimates():
  """Noise and worths of a known size: over 200 repetitions the estimates are as
  far off as their errors say. The mean ratio of squares is 1.14 here: how alike
  gates are is itself an estimate from forty networks."""
  rng, ratios = np.random.default_rng(3), []
  for repetition in range(200):
    true = true_worths(repetition)
    drawn = worths.draw(SPACE, 40, 0.6, rng)
    noisy = 2.0 - drawn @ true + rng.normal(0, 0.01, len(drawn))
    found = worths.estimate(SPACE, drawn, noisy)
    ratios.append(((found.worths - true) / found.errors) ** 2)
  assert 0.75 < np.mean(ratios) < 1.33


def test_alike_gates_are_drawn_together_where_networks_are_few():
  """Worths that hardly differ within a kind and a stage: 24 noisy networks tell
  them better together than one by one, and never worse than by half where they
  do differ."""
  rng = np.random.default_rng(5)
  members = worths.groups(SPACE)
  assert (members.sum(1) == 1).all()
  alike = members @ rng.normal(0.01, 0.01, members.shape[1])
  for true, least in ((alike, 1.5), (true_worths(), 0.67)):
    off = {'together': [], 'alone': []}
    for _ in range(50):
      drawn = worths.draw(SPACE, 24, 0.5, rng)
      noisy = 2.0 - drawn @ true + rng.normal(0, 0.01, len(drawn))
      found = worths.estimate(SPACE, drawn, noisy)
      off['together'].append((found.worths - true) ** 2)
      design = np.column_stack([np.ones(len(drawn)), drawn])
      alone = np.linalg.lstsq(design, noisy, rcond=None)[0][1:]
      off['alone'].append((-alone - true) ** 2)
    together, alone = (np.mean(off[key]) for key in off)
    assert together < alone / least


def test_networks_are_drawn_in_the_form_that_decides():
  """No two alike, and no gate open above a closed one or in a skipped layer."""
  drawn = worths.draw(SPACE, 50, 0.5, np.random.default_rng(0))
  assert len({gates.tobytes() for gates in drawn}) == 50
  for gates in drawn:
    again = SPACE.gates_of(SPACE.choices_of(gates))
    np.testing.assert_array_equal(gates, again)
  small = tiny.space(
    stages=(tiny.Stage(8, 1, 2, (3, 5), (2, 4)),), kernels=(3, 5)
  )
  everything = worths.draw(small, 50, 0.5, np.random.default_rng(0))
  assert len(everything) == small.num_networks == 4


@pytest.mark.parametrize('share', [0.3, 0.6, 1.0])
def test_the_best_network_of_a_target_is_chosen(share):
  """Against every network of the space: none in the band has more worth.

  But for the knapsack's grid of 1/4000 of the target, inside which it may take
  the slower of two: a millionth of a nat a layer.
  """
  true = true_worths()
  known = worths.Worth(true, np.zeros_like(true), 2.0, 0.0)
  low, high = TABLE.limits(SPACE)
  target, slack = low + share * (high - low), 0.1
  chosen = worths.choose(SPACE, TABLE, known, target, slack)

  def ms(choices):
    return TABLE.predict(SPACE.architecture_of(choices))

  def ce(choices):
    return known.predict(SPACE.gates_of(choices))

  assert (1 - slack) * target <= ms(chosen) <= target * (1 + 1e-9)
  candidates = [layer.candidates for layer in SPACE.layers]
  inside = [
    ce(choices)
    for choices in itertools.product(*candidates)
    if (1 - slack) * target <= ms(choices) <= target
  ]
  assert len(inside) > 5 or share == 1.0
  assert ce(chosen) <= min(inside) + 5e-6


@pytest.fixture(scope='module')
def searched(tmp_path_factory):
  """A search of digits for one target and a curve of three: workdir, result."""
  workdir = Workdir(tmp_path_factory.mktemp('worth') / 'run')
  return workdir, search.run(worth_config(), workdir)


def worth_config(**changes):
  settings = {
    'search__method': 'worth',
    'search__curve_points': 3,
    'search__worth__networks': 24,
    'search__worth__images': 64,
    'search__slack': 0.1,
  }
  return tiny_run.config(**(settings | changes))


def test_one_supernet_gives_a_whole_curve(searched):
  """Every point lands, the last at the slowest network, each has its file."""
  workdir, result = searched
  assert result['warmup_steps'] == result['steps'] == tiny_run.STEPS
  assert 0.9 * result['target_ms'] <= result['predicted_ms']
  assert result['predicted_ms'] <= result['target_ms'] * (1 + 1e-9)
  curve = result['curve']
  assert len(curve) == 3
  for point in curve:
    target = point['target_ms']
    assert 0.9 * target <= point['predicted_ms'] <= target * (1 + 1e-9)
    assert 0 <= point['supernet_top1'] <= 1
    config = worth_config(architecture=f'curve:{point["name"]}')
    arch = routes.resolve_architecture(config, workdir)
    assert arch.to_string() == point['architecture']
  assert curve[-1]['target_ms'] == pytest.approx(result['max_ms'])
  assert len(result['decisions']) == result['num_gates']
  assert result['warnings'] == []


def test_a_point_that_is_not_there_is_refused(searched):
  workdir, result = searched
  config = worth_config(architecture='curve:9ms')
  with pytest.raises(UserError, match='curve: and the name of a point') as e:
    routes.resolve_architecture(config, workdir)
  assert result['curve'][0]['name'] in str(e.value)


def test_other_targets_take_the_same_supernet(searched, tmp_path):
  """Nothing is trained again, and equal targets give equal networks."""
  workdir, result = searched
  target = result['curve'][1]['target_ms']
  config = worth_config(
    search__evolution__supernet=str(workdir.path),
    search__curve_points=0,
    search__targets_ms=(target,),
  )
  again = search.run(config, Workdir(tmp_path))
  assert not (tmp_path / 'search' / 'checkpoints').exists()
  assert again['params_sha256'] == result['params_sha256']
  assert again['curve'] == result['curve'][1:2]
  assert again['decisions'] == result['decisions']


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'search__worth__networks': 5}, ['search.worth.networks is 5', 'or more']),
    ({'search__curve_points': 0, 'search__targets_ms': (1e9,)}, ['has 1e+09']),
    (
      {'search__curve_points': 0, 'search__targets_ms': ('fast',)},
      ["search.targets_ms has 'fast'"],
    ),
    ({'search__targets_ms': (0.1,)}, ['search.curve_points is 3', 'one of']),
    ({'search__method': 'gradient'}, ['search.curve_points is 3', 'worth']),
    ({'search__lambda_': 1.0}, ['search.lambda_ is 1', "'worth'"]),
    # All gates open: one network, drawn again and again.
    (
      {'search__keep_probability': 1.0},
      ['only 1 different', 'search.keep_probability 1.0'],
    ),
  ],
)
def test_refusals(changes, words, tmp_path):
  from spnas_jax.config import rules

  config = worth_config(**changes)
  with pytest.raises(UserError) as e:
    rules.check(config)
    search.check(config, Workdir(tmp_path))
  assert all(word in str(e.value) for word in words), e.value
