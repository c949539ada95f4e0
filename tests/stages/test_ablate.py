"""The ablations run, resume by rows, and measure what they say."""

import json
import shutil

import numpy as np
import pytest
import tiny_run

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.stages import ablate, random_search
from spnas_jax.stages.random_search import summary


@pytest.fixture(scope='module')
def searched(tmp_path_factory):
  """A copy of a finished tiny run."""
  folder = tmp_path_factory.mktemp('ablate') / 'run'
  shutil.copytree(tiny_run.finished(), folder)
  return folder


def small(**changes):
  return tiny_run.config(
    train__epochs=1.0,
    ablate__contexts=2,
    ablate__images=40,
    ablate__num_networks=2,
    ablate__ranking_images=32,
    random_search__num_networks=2,
    random_search__band=0.2,
    **changes,
  )


def test_gates_and_kernels(searched):
  """Every kind of gate has a row; true changes are differences of losses."""
  config = small(ablate__parts=('gates', 'kernels'))
  result = ablate.run(config, Workdir(searched))
  rows = {row['kind']: row for row in result['gates']['rows']}
  assert set(rows) == {'kernel', 'expansion', 'keep'}
  for row in rows.values():
    assert row['abs_change'] > 0
    assert np.isfinite([row['abs_slope_open'], row['abs_slope_closed']]).all()
  assert set(result['kernels']) == {
    'individual_3x3',
    'individual_5x5',
    'shared_3x3',
    'shared_5x5',
  }


def test_random_search_compares_and_resumes(searched):
  """Rows are kept: a second run reads them, a lost one is trained again."""
  config = small()
  workdir = Workdir(searched)
  result = random_search.run(config, workdir)
  kinds = [row['kind'] for row in result['networks']]
  assert kinds == ['found', 'random', 'random']
  target = result['target_ms']
  for row in result['networks'][1:]:
    assert abs(row['predicted_ms'] / target - 1) <= 0.2
  assert result['difference'] == pytest.approx(
    result['found_top1'] - result['mean_top1']
  )
  rows = sorted((workdir / 'random_search').glob('*/row.json'))
  assert len(rows) == 3
  assert json.loads(rows[0].read_text())['num_examples'] == 50
  assert random_search.run(config, workdir) == result


def test_a_band_without_networks_is_refused(tmp_path, monkeypatch):
  """The message names the key and the band in ms."""
  monkeypatch.setattr(random_search, 'MAX_DRAWS', 200)
  config = small()
  config.random_search.band = 1e-6
  with pytest.raises(UserError, match=r'random_search\.band is 1e-06'):
    random_search.run(config, Workdir(tmp_path))


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
