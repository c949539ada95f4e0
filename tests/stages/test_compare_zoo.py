"""compare_zoo: networks trained alike; what was not run says so."""

import json
import pathlib
import shutil
import types

import pytest
import tiny_run

from spnas_jax.config import defaults as config_lib
from spnas_jax.config import rules as config_rules
from spnas_jax.config.routes import found_network
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.latency.devices import Device
from spnas_jax.networks import zoo
from spnas_jax.stages import compare_zoo, random_search
from spnas_jax.training import trained as trained_lib

KEYS = {
  'name',
  'width',
  'top1',
  'top5',
  'params',
  'ms',
  'ms_kind',
  'search_epochs',
  'status',
}
SHORT = {'train__epochs': 1.0, 'train__batch_size': 32}


def settings(**changes):
  return tiny_run.config(
    compare_zoo__networks=('mobilenet_v1',),
    compare_zoo__widths=(0.05,),
    compare_zoo__measure=False,
    **SHORT,
    **changes,
  )


@pytest.fixture
def workdir(tmp_path):
  """A workdir in which a search is finished."""
  folder = tmp_path / 'run'
  shutil.copytree(tiny_run.finished(), folder)
  return Workdir(folder)


def by_name(result):
  return {row['name']: row for row in result['rows']}


def test_rows_are_resumed_one_by_one_and_missing_ones_say_so(
  workdir, monkeypatch, capsys
):
  trained, stops = [], True

  def train(config, folder, name, arch, **kwargs):
    if trained and stops:
      raise KeyboardInterrupt
    trained.append(arch.to_string())
    return types.SimpleNamespace(averaged={})

  scores = {'top1': 0.5, 'top5': 0.9, 'cross_entropy': 1.0}
  monkeypatch.setattr(trained_lib, 'train_network', train)
  monkeypatch.setattr(trained_lib, 'score_split', lambda *_: scores)
  with pytest.raises(KeyboardInterrupt):
    compare_zoo.run(settings(), workdir)
  assert 'compare_zoo' not in workdir.results()
  stops = False
  rows = by_name(compare_zoo.run(settings(), workdir))
  assert len(trained) == 2, 'the first row was there'
  assert all(row.keys() >= KEYS for row in rows.values())

  known = rows['mobilenet_v1']
  assert known['status'] == 'done' and known['width'] == 0.05
  assert (known['top1'], known['top5']) == (0.5, 0.9)
  assert known['ms'] is None and known['ms_kind'] is None, 'not in the table'
  assert known['search_epochs'] is None

  found = rows['found']
  arch = found_network(settings(), workdir)
  assert found['architecture'] == arch.to_string()
  search = workdir.results()['search']
  assert found['ms'] == pytest.approx(search['predicted_ms'])
  assert found['ms_kind'] == 'predicted'
  assert found['search_epochs'] == search['cost_epochs']

  assert rows['random_search']['status'].startswith('not run: ')
  assert rows['mnasnet_b1']['status'].startswith('not run: ')
  assert rows['mnasnet_b1']['top1'] is None
  assert set(rows) == {'found', 'random_search', *zoo.names()}
  printed = capsys.readouterr().out
  assert 'mnasnet_b1            not run' in printed

  # Run again: the same, nothing done twice; a network more: one is trained.
  before = tiny_run.snapshot(workdir.path)
  compare_zoo.run(settings(), workdir)
  assert tiny_run.snapshot(workdir.path) == before
  with pytest.raises(UserError, match=r'compare_zoo\.widths'):
    more = settings()
    more.compare_zoo.widths = (0.05, 0.3)
    compare_zoo.run(more, workdir)


def test_random_networks_become_a_mean_and_the_found_one_is_not_trained_again(
  workdir, monkeypatch
):
  config = settings(random_search__num_networks=2, random_search__band=0.3)

  def scores(config, folder, stage, arch, seed, table):
    assert stage == 'random_search' or arch != found_network(config, workdir)
    share = len(arch.to_string()) % 7 / 10
    return {
      'architecture': arch.to_string(),
      'seed': seed,
      'predicted_ms': table and table.predict(arch),
      'params': 1000,
      'top1': share,
      'top5': share,
    }

  monkeypatch.setattr(random_search, 'score_from_scratch', scores)
  monkeypatch.setattr(compare_zoo, 'score_from_scratch', scores)
  # A curve of one point, with networks of its own beside it.
  search = workdir.results()['search']
  point = {
    'name': 'p',
    'target_ms': search['max_ms'],
    'predicted_ms': search['max_ms'],
    'architecture': search['architecture'],
  }
  workdir.record('search', {**search, 'curve': [point]})
  config.random_search.curve_networks = 2
  luck = random_search.run(config, workdir)
  result = compare_zoo.run(config, workdir)
  rows = by_name(result)
  assert rows['curve']['top1'] == luck['curve'][0]['found_top1']
  drawn = [
    row['architecture']
    for place in (luck, luck['curve'][0])
    for row in place['networks']
    if row['kind'] == 'random'
  ]
  assert [row['architecture'] for row in result['random']] == drawn
  assert all(row['ms_kind'] == 'predicted' for row in result['random'])
  row = rows['random_search']
  assert row['status'] == 'done' and row['num_networks'] == 2
  assert row['top1'] == pytest.approx(luck['mean_top1'])
  assert row['top1_std'] == pytest.approx(luck['std_top1'])
  assert row['ms_kind'] == 'predicted'
  assert row['search_epochs'] == luck['cost_epochs'] == 2 * config.train.epochs
  assert rows['found']['top1'] == luck['found_top1']


def test_a_random_search_with_another_recipe_is_left_out(workdir):
  config = settings()
  inputs = {'train.epochs': 30.0, 'dataset.name': 'digits'}
  workdir.record('random_search', {'inputs': inputs, 'networks': []})
  luck = workdir.results()['random_search']
  assert 'another recipe' in compare_zoo._incomparable(config, luck)


def test_measures_on_the_device_and_scales_families(workdir, monkeypatch):
  class Steady(Device):
    threads, quantile, statistic = 1, 0.5, 'made up'

    def describe(self):
      return {'device': {'name': 'steady'}, 'software': {}}

    def session(self, models, warmup_runs, runs_per_round):
      raise AssertionError('measure is replaced')

    def measure(self, models, **kwargs):
      from spnas_jax.latency.devices import Timing

      return {name: Timing(len(name) / 10, 0, 0, 1) for name in models}

  monkeypatch.setattr(compare_zoo, 'open_device', lambda config: Steady())
  monkeypatch.setattr(compare_zoo, 'network_tflite', lambda *args: b'')
  monkeypatch.setattr(
    compare_zoo,
    'score_from_scratch',
    lambda *args: {'top1': 0.5, 'top5': 0.9},
  )
  config = settings()
  config.compare_zoo.update(
    measure=True, widths=(0.25, 0.5), found_widths=(1.0, 2.0)
  )
  result = compare_zoo.run(config, workdir)
  done = [row for row in result['rows'] if row['status'] == 'done']
  assert [(row['name'], row['width']) for row in done] == [
    ('mobilenet_v1', 0.25),
    ('mobilenet_v1', 0.5),
    ('found', 1.0),
    ('found', 2.0),
  ]
  for row in done:
    assert row['ms'] == len(row['architecture']) / 10
    assert row['ms_kind'] == 'measured'
  assert done[0]['params'] < done[1]['params']
  assert done[2]['params'] < done[3]['params']
  folder = pathlib.Path(workdir.path) / 'compare_zoo'
  assert not (folder / 'samples.json').exists()
  assert json.loads((folder / 'inputs.json').read_text())['measured_on'] == {
    'name': 'steady'
  }


@pytest.mark.parametrize(
  ('key', 'value'),
  [
    ('networks', ('resnet50',)),
    ('networks', ('chamnet_b',)),
    ('widths', (0.0,)),
    ('found_widths', (100.0,)),
  ],
)
def test_refuses_what_is_not_there(key, value):
  config = config_lib.default_config()
  config.compare_zoo[key] = value
  with pytest.raises(UserError, match=rf'compare_zoo\.{key} has .*allowed'):
    config_rules.check(config)
