"""The ablations run, resume by rows, and measure what they say."""

import itertools
import json

import jax
import numpy as np
import pytest
import tiny
import tiny_run

from spnas_jax.config.spaces import dataset_facts, make_space
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.data import input_pipeline
from spnas_jax.networks.sampling import random_networks
from spnas_jax.search import shared_kernels
from spnas_jax.search.search_record import finished_search
from spnas_jax.search.subnets import Subnets, forced_statistics
from spnas_jax.stages import ablate


def small(**changes):
  return tiny_run.config(
    train__epochs=1.0,
    ablate__contexts=2,
    ablate__images=40,
    ablate__num_networks=3,
    ablate__ranking_images=32,
    **changes,
  )


def test_gates_of_every_kind_are_compared_with_the_truth(workdir):
  """Every kind of gate has a row; true changes are differences of losses."""
  config = small(ablate__parts=('gates',))
  result = ablate.run(config, Workdir(workdir))['gates']
  rows = {row['kind']: row for row in result['rows']}
  assert set(rows) == {'kernel', 'expansion', 'keep'}
  for row in rows.values():
    assert row['abs_change'] > 0
    assert np.isfinite([row['abs_slope_open'], row['abs_slope_closed']]).all()
  # Nothing is held out here: the images are those of the test part.
  assert (result['split'], result['contexts']) == ('test', 2)


def test_only_kernel_sizes_are_left_to_decide():
  """Table 2's space: the largest of everything else, no layer skipped."""
  space = shared_kernels.kernels_only(make_space(tiny_run.get_config()))
  assert {gate.kind for gate in space.gates} == {'kernel'}
  for layer in space.layers:
    assert [c.kernel for c in layer.choices] == [3, 5]
    assert {c.expansion for c in layer.choices} == {4}
    assert not layer.skippable


@pytest.mark.slow
def test_shared_and_individual_kernels_are_scored(workdir):
  config = small(ablate__parts=('kernels',))
  result = ablate.run(config, Workdir(workdir))
  assert set(result['kernels']) == {
    'individual_3x3',
    'individual_5x5',
    'shared_3x3',
    'shared_5x5',
  }


# --- ranking ------------------------------------------------------------------


@pytest.fixture
def ranked(workdir, monkeypatch):
  """Runs the ranking on made-up scores: from scratch, in the supernet, ms.

  Returns a function of three sequences, one value for each network in the order
  they are drawn in, to the part's result; `.trained` lists what was trained.
  """

  def run(scratch, supernet, ms, **changes):
    count = len(scratch)
    config = small(ablate__parts=('ranking',), **changes)
    config.ablate.num_networks = count
    numbers = itertools.count()
    shared = iter(supernet)

    class Scores:
      def __init__(self, *args):
        pass

      def score(self, gates):
        value = next(shared)
        return {'top1': value, 'cross_entropy': -value}

    def train(config, folder, stage, arch, seed, table):
      i = next(numbers)
      run.trained.append(arch.to_string())
      return {
        'predicted_ms': ms[i],
        'top1': scratch[i],
        'cross_entropy': -scratch[i],
      }

    monkeypatch.setattr(ablate, 'Subnets', Scores)
    monkeypatch.setattr(ablate, 'score_from_scratch', train)
    return ablate.run(config, Workdir(workdir))['ranking']

  run.trained = []
  return run


def test_kendalls_tau_by_hand(ranked):
  """Of six pairs one is the other way round: (5 - 1) / 6. Milliseconds fall
  where accuracy rises: -1. Cross-entropies are the negated accuracies on both
  sides, which changes no pair."""
  result = ranked([0.1, 0.2, 0.3, 0.4], [0.1, 0.3, 0.2, 0.4], [4, 3, 2, 1])
  assert result['kendall_tau_top1'] == pytest.approx(4 / 6)
  assert result['kendall_tau_cross_entropy'] == pytest.approx(4 / 6)
  assert result['kendall_tau_of_ms'] == pytest.approx(-1)
  assert result['num_networks'] == 4


def test_ties_count_for_neither_side(ranked):
  """tau-b: the supernet ties one pair of six, the other five agree, which is
  5 / sqrt((6 - 1) 6); milliseconds tie two pairs, the other four agree:
  4 / sqrt((6 - 2) 6)."""
  result = ranked([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.2, 0.4], [1, 1, 3, 3])
  assert result['kendall_tau_top1'] == pytest.approx(5 / 30**0.5)
  assert result['kendall_tau_of_ms'] == pytest.approx(4 / 24**0.5)


def test_values_that_all_tie_have_no_order(ranked):
  """tau is 0 / 0 then: null in results.json, which has no NaN."""
  result = ranked([0.1, 0.2, 0.3], [0.5, 0.5, 0.5], [1, 2, 3])
  assert result['kendall_tau_top1'] is None
  assert result['kendall_tau_of_ms'] == pytest.approx(1)


def test_ranked_networks_are_different_and_of_the_seed(ranked, workdir):
  values = np.linspace(0.1, 0.9, 12)
  first = ranked(values, values, values)
  assert first['kendall_tau_top1'] == pytest.approx(1)
  names = [row['architecture'] for row in first['networks']]
  assert names == ranked.trained
  assert len(set(names)) == 12
  space = make_space(small())
  for seed, same in ((small().seed, True), (7, False)):
    drawn = random_networks(space, 12, np.random.default_rng(seed))
    assert (list(drawn) == names) is same


def test_a_finished_part_is_read_and_the_others_go_on(workdir, monkeypatch):
  """Stopped between its parts: the first is not computed again."""
  config = small(ablate__parts=('gates', 'ranking'))
  monkeypatch.setattr(ablate, 'gates', lambda *_: {'rows': ['kept']})

  def stopped(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(ablate, 'ranking', stopped)
  with pytest.raises(KeyboardInterrupt):
    ablate.run(config, Workdir(workdir))
  assert 'ablate' not in tiny_run.results(workdir)
  left = json.loads((workdir / 'ablate' / 'gates.json').read_text())
  assert left == {'rows': ['kept']}
  monkeypatch.setattr(ablate, 'gates', stopped)
  monkeypatch.setattr(ablate, 'ranking', lambda *_: {'kendall_tau_top1': 0.5})
  result = ablate.run(config, Workdir(workdir))
  assert result['gates'] == left
  assert result['ranking'] == {'kendall_tau_top1': 0.5}
  # Complete: neither is asked again.
  monkeypatch.setattr(ablate, 'ranking', stopped)
  assert ablate.run(config, Workdir(workdir)) == result


@pytest.mark.parametrize(
  ('holdout', 'split'), [(0.0, 'train'), (0.05, 'validation')]
)
def test_the_supernet_is_scored_on_validation_images_where_there_are_some(
  holdout, split
):
  """And never on test images: recounted on one device."""
  config = small(dataset__holdout=holdout, search__batch_norm_batches=1)
  searched, state = finished_search(config, Workdir(tiny_run.finished()))
  subnets = Subnets(config, searched.supernet, state.params, 10**6)
  assert subnets.split == split
  assert subnets.num_images == dataset_facts(config).num_examples(split)
  gates = np.ones(len(searched.supernet.space.gates), np.float32)
  stats = forced_statistics(
    config, config.search, searched.supernet, state.params, gates
  )
  variables = {'params': state.params, 'batch_stats': stats}
  apply = tiny.jit(searched.supernet.apply)
  right = 0.0
  for batch in input_pipeline.eval_batches(
    config.dataset, batch_size=32, split=split
  ):
    logits = apply(jax.device_get(variables), batch['image'], gates)
    hit = np.argmax(np.asarray(logits), -1) == batch['label']
    right += float((hit * batch['mask']).sum())
  top1 = subnets.score(gates)['top1']
  assert top1 == pytest.approx(right / subnets.num_images)


def test_more_networks_than_there_are_is_refused(workdir):
  """Two stages of 1 or 2 layers with four candidates: (4 + 16)^2 = 400."""
  config = small(ablate__parts=('ranking',))
  assert ablate.num_architectures(make_space(config)) == 400
  config.ablate.num_networks = 401
  with pytest.raises(UserError, match=r'num_networks is 401, .*up to 400'):
    ablate.check(config, Workdir(workdir))
