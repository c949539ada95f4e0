"""Validation: unseen networks, errors as they are, words that fit them."""

import dataclasses
import json
import re

import fake_device
import numpy as np
import pytest
import tiny
from fake_device import FakeDevice

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.latency.devices import Timing
from spnas_jax.latency.table import LatencyTable
from spnas_jax.stages import validate_table
from spnas_jax.stages.validate_table import compare, drift, verdict

SIZE = tiny.IMAGE_SIZE


@pytest.fixture
def device(monkeypatch):
  device = FakeDevice()
  fake_device.install(monkeypatch, device)
  return device


@pytest.fixture
def config(device, tmp_path):
  """A config with a table in which every operation has the fake's time."""
  c = tiny.config()
  c.dataset.image_size = SIZE
  c.validate_table.update(num_networks=6, rounds=2, runs_per_round=1)
  c.latency_table = str(tmp_path / 'table.json')
  save(table_of(c, device), c)
  return c


def table_of(c, device) -> LatencyTable:
  from spnas_jax.config.spaces import make_space
  from spnas_jax.latency.entries import space_entries

  entries = space_entries(make_space(c), SIZE)
  rows = {}
  times = {'stem': 2.5, 'block': 4.0, 'head': 1.5}
  for key, entry in entries.items():
    rows[key] = {'ms': times[entry.part], 'spread_ms': 0.0, 'count': 1}
  known = [
    make_space(c).sample(np.random.default_rng(i)).to_string() for i in (5, 6)
  ]
  return LatencyTable(
    name='fake',
    device=device.describe()['device'],
    software={},
    threads=1,
    protocol={},
    date='2000-01-01',
    image_size=SIZE,
    entries=rows,
    calibration={
      'factor': 1.25,
      'networks': known,
      'measured_ms': [10.0, 10.0],
    },
  )


def save(table: LatencyTable, c) -> None:
  with open(c.latency_table, 'w') as file:
    file.write(table.to_json())


def test_compare():
  table = dataclasses.replace(
    tiny.table(tiny.space()), calibration={'factor': 2.0}
  )
  timings = {
    'a': Timing(10.0, 11.0, 1.0, 3),
    'b': Timing(20.0, 20.0, 1.0, 3),
    'c': Timing(40.0, 40.0, 1.0, 3),
  }
  result = compare(table, {'a': 11.0, 'b': 20.0, 'c': 38.0}, timings)
  assert result['num_networks'] == 3
  assert result['mean_abs_pct'] == pytest.approx((10 + 0 + 5) / 3)
  assert result['worst_pct'] == pytest.approx(10)
  assert result['rmse_ms'] == pytest.approx(np.sqrt((1 + 0 + 4) / 3))
  assert result['rank_correlation'] == pytest.approx(1.0)
  # Half of each prediction against the measured time.
  assert result['uncalibrated_mean_abs_pct'] == pytest.approx(
    (45 + 50 + 52.5) / 3
  )
  assert result['networks'][2] == {
    'architecture': 'c',
    'predicted_ms': 38.0,
    'measured_ms': 40.0,
    'spread_ms': 1.0,
    'error_pct': pytest.approx(-5.0),
  }
  one = compare(table, {'a': 11.0}, timings)
  assert one['rank_correlation'] is None
  assert one['mean_abs_pct_at_todays_speed'] == one['mean_abs_pct']
  # The device became 10% slower: that is what the table missed.
  slower = compare(table, {'a': 10.0}, {'a': Timing(11.0, 0, 0, 1)}, 10.0)
  assert slower['mean_abs_pct_at_todays_speed'] == pytest.approx(0.0)


def test_drift():
  """The geometric mean of what networks take over what is predicted."""
  again = {
    'a': Timing(1.1 * 1.02, 9.0, 0.0, 1),
    'c': Timing(4.4 / 1.02, 9.0, 0.0, 1),
  }
  known = {'a': 1.0, 'b': 2.0, 'c': 4.0}
  assert drift(known, again) == pytest.approx(10.0)
  assert drift(known, {}) is None


@pytest.mark.parametrize(
  ('error', 'moved', 'rank', 'said', 'unsaid'),
  [
    (0.4, 0.3, 0.99, 'Good to search with', 'slower'),
    (3.0, None, None, 'margin of 4%', 'rank'),
    (
      9.0,
      8.0,
      0.9,
      'Do not search with it.*8.0% slower.*without it they are 0.50%',
      'Good',
    ),
    (3.0, -4.0, 0.9, '4.0% faster', 'Good'),
  ],
)
def test_verdict(error, moved, rank, said, unsaid):
  words = verdict(
    {
      'mean_abs_pct': error,
      'mean_abs_pct_at_todays_speed': 0.5,
      'worst_pct': 1.3 * error,
      'drift_pct': moved,
      'rank_correlation': rank,
      'rmse_ms': 0.1,
      'num_networks': 20,
    }
  )
  assert re.search(said, words)
  assert unsaid not in words


def test_stage(config, device, tmp_path):
  workdir = Workdir(tmp_path / 'run')
  result = validate_table.run(config, workdir)
  table = LatencyTable.load(config.latency_table)
  names = [row['architecture'] for row in result['networks']]
  assert result['num_networks'] == len(set(names)) == 6
  assert not set(names) & set(table.calibration['networks'])
  # The made-up table has a factor of 1.25 too much.
  assert result['mean_abs_pct'] > 15
  assert result['uncalibrated_mean_abs_pct'] < 10
  assert result['drift_pct'] is not None
  assert 'Do not search with it' in result['verdict']
  png = (tmp_path / 'run/validate_table.png').read_bytes()
  assert png.startswith(b'\x89PNG')
  assert '</svg>' in (tmp_path / 'run/validate_table.svg').read_text()
  assert len(device.taken) == 2 * (6 + 2)
  assert json.loads(json.dumps(result)) == result
  assert validate_table.run(config, workdir) == result
  assert len(device.taken) == 16


def test_stage_resumes(config, device, tmp_path):
  workdir = Workdir(tmp_path / 'run')
  device.fail_after = 11
  with pytest.raises(KeyboardInterrupt):
    validate_table.run(config, workdir)
  device.fail_after = None
  validate_table.run(config, workdir)
  assert len(device.taken) == 16


def test_a_table_is_brought_up_to_date(config, device, tmp_path):
  """The device has become 1.3 times slower since: the factor takes that in, the
  table says when it was made, and nothing that was there is overwritten. A
  second look finds no drift."""
  table = LatencyTable.load(config.latency_table)
  # A factor of 1 would be right today.
  calibration = {**table.calibration, 'factor': 1 / 1.3}
  save(dataclasses.replace(table, calibration=calibration), config)
  config.validate_table.recalibrate = True
  workdir = Workdir(tmp_path / 'run')
  result = validate_table.run(config, workdir)
  assert result['drift_pct'] == pytest.approx(30, abs=8)
  path = workdir / validate_table.RECALIBRATED
  fresh = LatencyTable.load(path)
  ratio = 1 + result['drift_pct'] / 100
  assert fresh.factor == pytest.approx(ratio / 1.3)
  assert fresh.calibration['made'] == '2000-01-01' < fresh.date
  assert fresh.entries == table.entries
  config.latency_table = str(path)
  again = validate_table.run(config, Workdir(tmp_path / 'again'))
  assert again['drift_pct'] == pytest.approx(0, abs=5)


def test_a_table_without_networks_cannot_be_brought_up_to_date(
  config, device, tmp_path
):
  """Refused before anything is timed."""
  table = LatencyTable.load(config.latency_table)
  save(dataclasses.replace(table, calibration={'factor': 1.0}), config)
  config.validate_table.recalibrate = True
  with pytest.raises(UserError, match='has no networks that it was calibrated'):
    validate_table.run(config, Workdir(tmp_path / 'run'))
  assert device.taken == []


def test_another_table_is_another_validation(config, device, tmp_path):
  workdir = Workdir(tmp_path / 'run')
  validate_table.run(config, workdir)
  save(
    dataclasses.replace(LatencyTable.load(config.latency_table), name='new'),
    config,
  )
  with pytest.raises(UserError, match='table'):
    validate_table.run(config, workdir)


def test_no_network_is_left(config, tmp_path):
  config.space.update(layers=(1, 1), expansions=(2,), kernels=(3,))
  only = 'stem_k3_s2_i1_c8 ir_r1_k3_s2_e2_c8 ir_r1_k3_s1_e2_c12 head_c16 fc_c10'
  table = LatencyTable.load(config.latency_table)
  calibration = {**table.calibration, 'networks': [only], 'measured_ms': [1.0]}
  save(dataclasses.replace(table, calibration=calibration), config)
  with pytest.raises(UserError, match=r'build_table\.calibration_networks'):
    validate_table.run(config, Workdir(tmp_path / 'run'))


def test_table_of_another_space(config, tmp_path):
  config.space.expansions = (2, 5)
  with pytest.raises(UserError, match=r"has no entry 'ir_k\d_s\d_e5"):
    validate_table.run(config, Workdir(tmp_path / 'run'))
