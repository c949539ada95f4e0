"""Predicted against measured: which networks, and how far they agree."""

import dataclasses
import json

import matplotlib
import numpy as np
import pytest
from fake_workdir import fill, small_config

from spnas_jax.report import figures, predictions
from spnas_jax.report.agreement import agreement
from spnas_jax.report.findings import gather
from spnas_jax.report.tables import latency_table
from spnas_jax.stages import validate_table
from spnas_jax.stages.report import run


def test_numbers_are_those_of_the_stage():
  """The stage `validate_table` counts the same errors."""
  from spnas_jax.latency.devices import Timing

  predicted = {'a': 1.0, 'b': 2.0, 'c': 2.5}
  timings = {
    name: Timing(*[ms] * len(dataclasses.fields(Timing)))
    for name, ms in (('a', 1.1), ('b', 2.6), ('c', 2.5))
  }
  table = dataclasses.make_dataclass('Table', [('factor', float, 1.0)])()
  stage = validate_table.compare(table, predicted, timings)
  own = agreement([*predicted.values()], [t.ms for t in timings.values()])
  assert own.networks == stage['num_networks']
  assert own.mean_pct == pytest.approx(stage['mean_abs_pct'])
  assert own.rmse_ms == pytest.approx(stage['rmse_ms'])
  assert own.rank == pytest.approx(stage['rank_correlation'])
  assert own.band_pct == pytest.approx(stage['worst_pct'])  # Fewer than 20.


def test_the_band_holds_95_percent():
  measured = np.ones(100)
  predicted = 1 + np.arange(100) / 1000
  assert agreement(predicted, measured).band_pct == pytest.approx(9.5)
  assert agreement(predicted, measured).rank is None


@pytest.fixture
def full(tmp_path):
  """Its table was calibrated with three networks."""
  config = small_config()
  workdir = fill(config, tmp_path)
  table = json.loads((workdir / 'latency_table.json').read_text())
  table['calibration'] |= {
    'networks': ['a', 'b', 'c'],
    'sum_ms': [0.05, 0.06, 0.08],
    'measured_ms': [0.055, 0.066, 0.08],
    'mean_abs_pct': 3.0,
  }
  workdir.write('latency_table.json', json.dumps(table))
  results = workdir.results()
  results['search']['inputs'].pop('table')  # Not of this changed file.
  workdir.write('results.json', json.dumps(results))
  return config, workdir


def forget(workdir, *stages):
  results = workdir.results()
  workdir.write(
    'results.json',
    json.dumps({k: v for k, v in results.items() if k not in stages}),
  )


def test_networks_of_the_calibration_are_shown(full):
  """Where nobody has validated the table, too."""
  config, workdir = full
  found = gather(config, workdir)
  np.testing.assert_allclose(
    predictions.calibrating(found),
    [(0.055, 0.055), (0.066, 0.066), (0.088, 0.08)],
  )
  assert len(predictions.unseen(found)) == 2
  predicted, measured = predictions.own(found)
  assert measured == pytest.approx(1.034 * predicted)
  assert 'Blue' in predictions.words(found)
  forget(workdir, 'validate_table')
  found = gather(config, workdir)
  words = predictions.words(found)
  assert words.startswith('Circles: networks') and 'a little too good' in words
  (rows,) = (table.rows for table in latency_table(found))
  assert ('networks it was fitted to', '3') in rows
  assert ('mean error on them', '3.33%') in rows
  assert 'report/predicted_measured.png' in run(config, workdir)['figures']


def test_one_network_alone_has_no_picture(full):
  config, workdir = full
  forget(workdir, 'validate_table', 'build_table')
  (workdir / 'latency_table.json').unlink()
  assert predictions.own(gather(config, workdir)) is not None
  figures = run(config, workdir)['figures']
  assert 'report/predicted_measured.png' not in figures


def texts(figure):
  return '\n'.join(t.get_text() for t in figure.findobj(matplotlib.text.Text))


def test_the_picture_has_the_numbers():
  seen = [(1.0, 1.0), (2.0, 2.0)]
  words = texts(figures.predicted_measured([1, 2, 3], [1.1, 2, 3]))
  assert '3 networks' in words and 'mean error 3.0%' in words
  assert 'rank correlation 1.000' in words and 'band: ± 9.1%' in words
  # Of what the table has not seen, where there is such a thing.
  words = texts(figures.predicted_measured([1], [1.1], calibration=seen))
  assert '1 network\nerror 9.1%' in words
  words = texts(figures.predicted_measured([], [], calibration=seen))
  assert '2 networks' in words and 'mean error 0.0%' in words
