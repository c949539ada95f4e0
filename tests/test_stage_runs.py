"""Stages in a row: which there are, and what is refused before the first."""

import functools
import importlib.util
import sys

import pytest
import tiny_run
from refusals import ARCHITECTURE, refused

from spnas_jax import cli, stage_runs, startup
from spnas_jax.config.workdir import Workdir
from spnas_jax.stages import search, train


def test_every_stage_has_a_module_and_all_runs_them_in_order(
  monkeypatch, tmp_path
):
  """A name that is listed but cannot be run would only show when it is used."""
  for module in stage_runs.STAGES:
    assert importlib.util.find_spec(f'spnas_jax.stages.{module}'), module
  ran = []

  class Stage:
    def __init__(self, name):
      self.name = name

    def run(self, config, workdir):
      ran.append((self.name, config, workdir))

  monkeypatch.setattr(stage_runs.importlib, 'import_module', Stage)
  monkeypatch.setattr(
    startup, 'start', lambda config, path: (config, Workdir(tmp_path / path))
  )
  # A flag keeps what another test gave it.
  argv = ['main.py', '--stage=all', '--config=tests/tiny_run.py']
  argv.append('--workdir=somewhere')
  monkeypatch.setattr(sys, 'argv', argv)
  monkeypatch.chdir(tiny_run.ROOT)
  cli.run(cli.parse_flags(argv))
  stages = ['search', 'train', 'evaluate', 'export', 'profile', 'report']
  assert [name for name, _, _ in ran] == [
    f'spnas_jax.stages.{s}' for s in stages
  ]
  assert {workdir.path.name for _, _, workdir in ran} == {'somewhere'}


NO_VALIDATION = {'evaluate__split': 'validation'}
NO_TABLE = {'latency_table': 'no.json'}


@pytest.mark.parametrize(
  ('stage', 'changes', 'words'),
  [
    *(
      (stage, *case)
      for stage in ('all', 'search', 'random_search', 'ablate')
      for case in (
        (NO_VALIDATION, ['evaluate.split', 'dataset.holdout']),
        (NO_TABLE, ['latency_table', 'no.json']),
      )
    ),
    ('compare_zoo', NO_VALIDATION, ['evaluate.split', 'dataset.holdout']),
    ('all', {'train__batch_size': 512}, ['train.batch_size is 512', '128']),
    ('all', {'train__batch_size': 30}, ['train.batch_size is 30', '4 devices']),
    ('all', {'search__batch_size': 512}, ['search.batch_size is 512', '128']),
    ('all', {'search__warmup_epochs': 4.0}, ['warmup_epochs', 'all 16 steps']),
    # Rounds to no step at all, which only the data tell.
    ('all', {'search__warmup_epochs': 3.9}, ['warmup_epochs', 'all 16 steps']),
    ('all', {'device': 'adb'}, ['profile.benchmark_model']),
    (
      'all',
      {'train__init': 'no.npz', 'architecture': ARCHITECTURE},
      ['no.npz'],
    ),
  ],
)
def test_what_a_later_stage_refuses_is_said_first(
  stage, changes, words, tmp_path, capsys
):
  """`all` must not search for hours and then refuse to evaluate."""
  config = tiny_run.config(**changes)
  chosen = stage_runs.ALL if stage == 'all' else (stage,)
  line = refused(
    lambda: stage_runs.run_stages(chosen, config, Workdir(tmp_path)), capsys
  )
  for word in words:
    assert word in line
  assert not list(tmp_path.iterdir()), 'a corrected run starts afresh'


def test_weights_of_another_network_are_refused_before_a_search(
  tmp_path, capsys
):
  """Hours of search would end in a network that they do not fit."""
  config = tiny_run.config(train__init=str(tiny_run.finished()))
  stages = ('search', 'train')
  line = refused(
    lambda: stage_runs.run_stages(stages, config, Workdir(tmp_path)), capsys
  )
  assert 'train.init is' in line and 'network of its own' in line
  assert not list(tmp_path.iterdir())


def test_a_finished_stage_needs_no_data(workdir, monkeypatch):
  """Years later, on a machine without the images, it still says so."""
  monkeypatch.setattr('spnas_jax.training.run_setup.check_data', _never)
  for stage in (search, train):
    stage.run(tiny_run.config(), Workdir(workdir))


def _never(*_):
  raise AssertionError('called')


class Stages:
  """Stands in for `spnas_jax.stages`: notes what runs under which table."""

  def __init__(self, monkeypatch):
    self.ran = []
    for name in ('build_table', 'search', 'train', 'report'):
      module = importlib.import_module(f'spnas_jax.stages.{name}')
      monkeypatch.setattr(module, 'check', lambda *_: None, raising=False)
      monkeypatch.setattr(module, 'run', functools.partial(self._run, name))

  def _run(self, name, config, workdir):
    self.ran.append((name, config.latency_table))
    if name == 'build_table':
      workdir.write('latency_table.json', '{}')


def test_a_table_is_measured_before_the_first_stage_that_needs_one(
  monkeypatch, tmp_path
):
  stages, workdir = Stages(monkeypatch), Workdir(tmp_path)
  own = str(workdir / 'latency_table.json')
  config = tiny_run.config(latency_table='measure')
  stage_runs.run_stages(('train', 'report'), config, workdir)
  assert stages.ran == [('train', ''), ('report', '')]
  stages.ran.clear()
  config = tiny_run.config(latency_table='measure')
  stage_runs.run_stages(('search', 'report'), config, workdir)
  assert stages.ran == [
    ('build_table', own),
    ('search', own),
    ('report', own),
  ]
