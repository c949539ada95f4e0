"""A network trained and scored in one go, as the comparisons do it."""

import json

import pytest
import tiny_run

from spnas_jax.config.workdir import Workdir
from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.architecture import Architecture, num_params
from spnas_jax.training import trained as trained_lib
from spnas_jax.training.trained import score_from_scratch


def test_a_row_is_what_train_and_evaluate_give(tmp_path, monkeypatch):
  """The same network, recipe and seed: the same score, to the bit. A row that
  is there is read and not trained again."""
  finished = tiny_run.finished()
  config = tiny_run.config()
  arch = Architecture.from_json((finished / 'architecture.json').read_text())
  table = LatencyTable.load(config.latency_table)

  def row():
    return score_from_scratch(
      config, Workdir(tmp_path), 'luck', arch, config.seed, table
    )

  first = row()
  results = tiny_run.results(finished)
  for key in ('top1', 'top5', 'cross_entropy', 'num_examples'):
    assert first[key] == results['evaluate'][key], key
  assert first['predicted_ms'] == results['search']['predicted_ms']
  assert first['params'] == num_params(arch)
  (path,) = tmp_path.glob('luck/*/row.json')
  assert json.loads(path.read_text()) == first
  monkeypatch.setattr(
    trained_lib, 'train_network', lambda *_, **__: pytest.fail('again')
  )
  assert row() == first
