"""Stage `compare`: prices, whole searches, and which step is due."""

import json

import jax
import jax.numpy as jnp
import pytest
import tiny

from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.latency.table import LatencyTable
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.stages import compare


@pytest.fixture(autouse=True)
def quick_to_compile():
  """What runs here runs for a few steps."""
  name = 'jax_disable_most_optimizations'
  jax.config.update(name, True)
  yield
  jax.config.update(name, False)


@pytest.fixture
def config(tmp_path):
  """Two layers of two candidates at 8 px."""
  c = tiny.config()
  c.dataset.update(image_size=8, train_examples=64, test_examples=50)
  c.space.update(channels=(8,), layers=(2,), strides=(2,), kernels=(3,))
  c.space.head_channels = 0
  path = tmp_path / 'table.json'
  path.write_text(tiny.table(make_space(c), 8).to_json())
  c.latency_table = str(path)
  c.compare.update(rounds=3, warmup_steps=1)
  return c


def test_prices(config, tmp_path, capsys):
  config.compare.methods = ('single_path', 'darts')
  workdir = Workdir(tmp_path / 'run')
  result = compare.run(config, workdir)
  single, multi = result['single_path'], result['darts']
  assert single['params'] < multi['params']
  assert 0 < single['temp_bytes'] < multi['temp_bytes']
  for row, batches in ((single, 1), (multi, 2)):
    assert len(row['step_seconds_all']) == 3
    assert sorted(row['step_seconds_all'])[1] == row['step_seconds'] > 0
    assert row['images_per_second'] == pytest.approx(
      16 * batches / row['step_seconds']
    )
    assert 'predicted_ms' not in row
  assert workdir.results()['compare']['darts'] == multi
  again = compare.run(config, workdir)
  assert again['darts'] == multi
  assert capsys.readouterr().out.count('compare: darts') == 1


@pytest.mark.slow
def test_a_whole_search_meets_the_target_and_is_not_repeated(config, tmp_path):
  table = LatencyTable.load(config.latency_table)
  low, high = table.limits(make_space(config))
  config.search.target_ms = (low + high) / 2
  config.search.log_every_steps = 2
  config.compare.epochs = 2.0
  workdir = Workdir(tmp_path / 'run')
  problem = SearchProblem.of(config)
  row = compare.search_once(config, workdir, problem, 'fbnet')
  assert row['search_steps'] == 8 and row['cost_epochs'] == 2.0
  assert low <= row['predicted_ms'] <= config.search.target_ms
  path = workdir / 'compare' / 'fbnet' / 'found.json'
  path.write_text(json.dumps({**row, 'search_steps': -1}))
  assert compare.search_once(config, workdir, problem, 'fbnet') == {
    **row,
    'search_steps': -1,
  }
  assert config.search.epochs == 1.0  # The caller's is left alone.


class FakeState:
  def __init__(self, step):
    self.step = jnp.asarray(step)


@pytest.mark.parametrize(
  'first, expected', [(0, 'wwwpwpw'), (2, 'wpwpwpw'), (4, 'wpwpwpw')]
)
def test_steps_alternate_behind_the_warm_up(first, expected):
  taken = []

  def named(name):
    def step(state, batch):
      taken.append(name)
      return state, batch

    return step

  step = compare.alternate([named('w'), named('p')], 2)
  for _ in expected:
    step(FakeState(first), {})
  assert ''.join(taken) == expected
  alone = compare.alternate([named('s')], 2)
  alone(FakeState(first), {})
  assert taken[-1] == 's'


def test_one_process_only(config, tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(UserError, match='one process'):
    compare.run(config, Workdir(tmp_path / 'run'))
