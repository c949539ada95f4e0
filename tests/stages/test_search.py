"""The search, end to end on real digits: what it finds and what it reports."""

import hashlib
import itertools

import jax
import numpy as np
import pytest
import tiny
import tiny_run
from refusals import corrupted_table, garbage, refused

from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir
from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.architecture import Architecture
from spnas_jax.search.search_record import finished_search
from spnas_jax.stages import search
from spnas_jax.training.batch_norm import estimate_batch_stats
from spnas_jax.training.history import History
from spnas_jax.training.loop import take
from spnas_jax.training.run_setup import device_batches

# What the reports and other stages read, by type.
RESULT_KEYS = {
  'target_ms': float,
  'predicted_ms': float,
  'min_ms': float,
  'max_ms': float,
  'raw_decode_ms': float,
  'expected_ms': float,
  'projected_layers': int,
  'undecided_gates': int,
  'cost_epochs': float,
  'steps': int,
  'seconds': float,
  'final_cross_entropy': float,
  'params_sha256': str,
  'wall_seconds': float,
  'config_hash': str,
  'versions': dict,
  'platform': dict,
}


@pytest.fixture(scope='module')
def found():
  """The finished tiny search: its workdir and results."""
  workdir = tiny_run.finished()
  return workdir, tiny_run.results(workdir)['search']


def every_latency(space, table) -> np.ndarray:
  """Latency of all networks of a small space, ms."""
  per_layer = (
    [*layer.choices, *([None] if layer.skippable else [])]
    for layer in space.layers
  )
  return np.array(
    [
      table.predict(space.architecture_of(choices))
      for choices in itertools.product(*per_layer)
    ]
  )


def assert_meets_target(result, slack):
  """Not above the target, and within its slack where a network is."""
  target = result['target_ms']
  space = make_space(tiny_run.config())
  table = tiny.table(space, tiny_run.get_config().dataset.image_size)
  meeting = every_latency(space, table)
  meeting = meeting[meeting <= target]
  assert result['predicted_ms'] <= target
  lowest = min((1 - slack) * target, meeting.max())
  assert result['predicted_ms'] >= lowest - 1e-9


def test_has_every_key_that_others_read(found):
  """By the contract: name, type and unit, finite, counts of the run's own."""
  _, result = found
  for key, kind in RESULT_KEYS.items():
    assert type(result[key]) is kind, key
    if kind is float:
      assert np.isfinite(result[key]), key
  config = tiny_run.get_config()
  space = make_space(config)
  assert result['min_ms'] < result['predicted_ms'] < result['max_ms']
  assert result['steps'] == tiny_run.STEPS
  assert result['cost_epochs'] == config.search.epochs
  assert 0 <= result['projected_layers'] <= len(space.layers)
  assert 0 <= result['undecided_gates'] <= len(space.gates)
  assert len(result['params_sha256']) == hashlib.sha256().digest_size * 2


def test_limits_are_those_of_the_space(found):
  """min_ms and max_ms frame every network, and both exist."""
  _, result = found
  space = make_space(tiny_run.config())
  latencies = every_latency(space, LatencyTable.load(tiny_run.table_path()))
  assert len(latencies) == space.num_networks
  np.testing.assert_allclose(
    [result['min_ms'], result['max_ms']], [latencies.min(), latencies.max()]
  )
  half_way = (result['min_ms'] + result['max_ms']) / 2
  assert result['target_ms'] == pytest.approx(half_way)


def test_leaves_the_network_that_it_reports(found):
  """architecture.json, its string and its latency are one network, and say
  where they come from."""
  workdir, result = found
  arch = Architecture.from_json((workdir / 'architecture.json').read_text())
  assert arch.to_string() == result['architecture']
  table = LatencyTable.load(tiny_run.table_path())
  assert table.predict(arch) == result['predicted_ms']
  assert arch.provenance['config_hash'] == result['config_hash']
  assert arch.provenance['latency_table'] == table.name
  make_space(tiny_run.config()).encode(arch)  # Refuses strangers.


def test_meets_its_target_half_way(found):
  assert_meets_target(found[1], tiny_run.get_config().search.slack)


@pytest.mark.slow
def test_meets_another_target(found, tmp_path):
  """In ms, and close to the slowest network; another network than half way."""
  _, half_way = found
  target = 0.1 * half_way['min_ms'] + 0.9 * half_way['max_ms']
  config = tiny_run.config(search__target_ms=target)
  result = search.run(config, Workdir(tmp_path))
  assert result['target_ms'] == target
  assert_meets_target(result, config.search.slack)
  assert result['architecture'] != half_way['architecture']


@pytest.mark.slow
@pytest.mark.parametrize('gates', ['official', 'paper'])
def test_a_fixed_lambda_needs_no_target(gates, tmp_path):
  """The reference's two formulations: finite, nothing projected, and lambda is
  what was asked for from the end of warm-up on."""
  config = tiny_run.config(
    search__gates=gates,
    search__lambda_=5.0,
    search__epochs=1.0,
    search__warmup_epochs=0.5,
    search__log_every_steps=1,
  )
  workdir = Workdir(tmp_path)
  result = search.run(config, workdir)
  assert result['target_ms'] is None
  assert result['projected_layers'] == 0
  assert result['predicted_ms'] == result['raw_decode_ms']
  assert result['steps'] == 4
  history = History(workdir, 'search').arrays()
  np.testing.assert_array_equal(history['lambda'], [0, 0, 5, 5])
  for name, values in history.items():
    assert np.isfinite(values).all(), name
  for leaf in jax.tree.leaves(finished_search(config, workdir)[1]):
    assert np.isfinite(np.asarray(leaf)).all()


def test_logs_every_scalar_of_every_logged_step(found):
  """The history that the report draws, with all gates, and event files."""
  workdir, result = found
  steps = [4, 8, 12, 16]
  history = History(Workdir(workdir), 'search').arrays()
  np.testing.assert_array_equal(history['step'], steps)
  for name in ('cross_entropy', 'runtime_ms', 'lambda', 'loss', 'accuracy'):
    assert np.isfinite(history[name]).all() and history[name].shape == (4,)
  assert list((workdir / 'search' / 'events').glob('events.out.tfevents.*'))
  gates = len(make_space(tiny_run.config()).gates)
  assert history['logit'].shape == (len(steps), gates)
  last = float(history['cross_entropy'][-1])
  assert last == result['final_cross_entropy']


def test_statistics_are_those_of_the_found_network():
  """Running batch-norm statistics were collected under ever-changing gates.

  Re-estimated ones differ from them and follow the gates they are estimated
  under.
  """
  config = tiny_run.config()
  workdir = Workdir(tiny_run.finished())
  space = make_space(config)
  searched, state = finished_search(config, workdir)

  def estimate(gates):
    batches = take(device_batches(config, config.search, config.seed, 0), 3)
    return estimate_batch_stats(searched.supernet, state.params, batches, gates)

  def difference(a, b):
    return max(
      float(np.abs(np.asarray(x) - np.asarray(y)).max())
      for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )

  opened = np.ones(len(space.gates), np.float32)
  closed = np.zeros(len(space.gates), np.float32)
  stats = estimate(opened)
  assert difference(stats, state.batch_stats) > 1e-2
  assert difference(stats, estimate(closed)) > 1e-2


# --- what is refused ----------------------------------------------------------


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'search__target_ms': 0.1}, ['target_ms is 0.1', ' to ', 'ms, the fast']),
    ({'search__target_ms': 99.0}, ['target_ms is 99', ' to ', 'ms, the fast']),
    ({'search__target_ms': float('nan')}, ['search.target_ms is nan']),
    (
      {'search__target_ms': 2.0, 'search__lambda_': 1.0},
      ['search.lambda_ is 1', 'search.target_ms is 2', 'one of them'],
    ),
    ({'dataset__name': 'cifar999'}, ['dataset.name', 'cifar999', 'digits']),
    ({'search__batch_size': 30}, ['search.batch_size is 30', '4 devices']),
    ({'search__batch_size': 512}, ['search.batch_size is 512', '128']),
    ({'latency_table': ''}, ["latency_table is ''", 'build_table']),
    ({'latency_table': 'no.json'}, ['latency_table', 'no.json', 'build_table']),
    ({'latency_table': garbage}, ['latency_table', 'half', 'JSON']),
    (
      {'latency_table': lambda _: corrupted_table(image_size=14)},
      ['14 px', 'dataset.image_size is 12'],
    ),
    (
      {'latency_table': lambda _: corrupted_table(entries={})},
      ['latency_table', 'has no entry', 'stem_k3'],
    ),
    (
      {
        'latency_table': lambda _: corrupted_table(
          entries={'stem': {'ms': float('nan')}}
        )
      },
      ['latency_table', 'entries.stem.ms is nan'],
    ),
    (
      {'latency_table': lambda _: corrupted_table(schema=99)},
      ['latency_table', 'schema'],
    ),
    ({'space__layers': (2,)}, ['space.layers', '2 entries']),
    ({'space__kernels': (3, 4)}, ['kernel', '4']),
    ({'space__kernels': (5, 3)}, ['kernels', '(5, 3)', 'ascending']),
    ({'space__first': 'nonsense_x9'}, ['space.first', 'nonsense_x9']),
  ],
)
def test_a_search_refuses_wrong_input(changes, words, light_workdir, capsys):
  """Before anything is compiled or written."""
  (light_workdir / 'results.json').write_text('{"train": {"precious": 1}}')
  (light_workdir / 'search' / 'inputs.json').unlink()
  before = tiny_run.snapshot(light_workdir)
  config = tiny_run.config()
  for name, value in changes.items():
    section, _, key = name.rpartition('__')
    target = config[section] if section else config
    target[key] = value('half.json') if callable(value) else value
  line = refused(lambda: search.run(config, Workdir(light_workdir)), capsys)
  for word in words:
    assert word in line
  assert tiny_run.snapshot(light_workdir) == before
