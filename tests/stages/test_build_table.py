"""Tables: what is measured, what is made of it, and what interruptions cost."""

import itertools
import json

import fake_device
import numpy as np
import pytest
import tiny
from fake_device import CALL_MS, FakeDevice

from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.export import tflite
from spnas_jax.latency import table_building
from spnas_jax.latency.devices import Timing
from spnas_jax.latency.entries import (
  network_entries,
  network_tflite,
  space_entries,
)
from spnas_jax.latency.table import LatencyTable, network_keys
from spnas_jax.latency.table_building import calibrate
from spnas_jax.stages import build_table

SIZE = 12


def config(**changes):
  """Four entries of blocks, three of which are used twice."""
  c = tiny.config()
  c.dataset.image_size = SIZE
  c.space.update(channels=(8, 12), layers=(2, 1), expansions=(2,))
  c.build_table.update(rounds=3, runs_per_round=1, calibration_networks=3)
  c.build_table.update(**changes)
  return c


# --- which operations ---------------------------------------------------------


@pytest.mark.parametrize(
  'space',
  [
    tiny.space(),
    tiny.space(fixed_blocks=True, activation='relu6', padding='symmetric'),
    tiny.space(squeeze_ratios=(0.0, 0.25), head_channels=0),
  ],
  ids=['plain', 'fixed blocks and style', 'squeeze, no head'],
)
def test_entries_are_those_of_all_networks(space):
  entries = space_entries(space, SIZE)
  rng = np.random.default_rng(0)
  seen = set()
  for arch in (space.largest, space.smallest):
    seen |= set(network_keys(arch, SIZE))
  for _ in range(300):
    seen |= set(network_keys(space.sample(rng), SIZE))
  assert set(entries) == seen
  assert all(entry.key == key for key, entry in entries.items())


def test_entries_of_a_network_are_in_the_order_of_its_keys():
  arch = tiny.space(fixed_blocks=True).largest
  entries = network_entries(arch, SIZE)
  assert tuple(e.key for e in entries) == network_keys(arch, SIZE)
  assert [e.part for e in entries] == ['stem', *['block'] * 6, 'head']


def test_entries_together_are_the_network():
  """Also what `profile` relies on: beginnings hold a network's operations."""
  arch = tiny.space(squeeze_ratios=(0.25,)).largest
  rng = np.random.default_rng(0)
  whole = tflite.operations(network_tflite(arch, SIZE, rng))
  parts = [
    tflite.operations(e.to_tflite(rng)) for e in network_entries(arch, SIZE)
  ]
  assert list(itertools.chain(*parts)) == whole
  for n in (0, 2):
    beginning = tflite.operations(network_tflite(arch, SIZE, rng, n))
    assert beginning == list(itertools.chain(*parts[: n + 1]))


def test_random_weights_keep_the_size_of_the_signal():
  arch = tiny.space().largest
  model = network_tflite(arch, SIZE, np.random.default_rng(0))
  x = np.random.default_rng(1).normal(size=(4, SIZE, SIZE, 1))
  logits = tflite.run(model, x.astype(np.float32))
  assert 1e-3 < np.abs(logits).max() < 1e3


# --- calibration --------------------------------------------------------------


def test_calibration_is_the_mean_ratio():
  fitted = calibrate(['a', 'b'], [1.0, 2.0], [1.1, 2.2])
  assert fitted['factor'] == pytest.approx(1.1)
  assert fitted['mean_abs_pct'] == pytest.approx(0, abs=1e-9)
  fitted = calibrate(['a', 'b'], [1.0, 1.0], [0.5, 2.0])
  assert fitted['factor'] == pytest.approx(1.0)
  assert fitted['mean_abs_pct'] == pytest.approx((100 + 50) / 2)
  assert calibrate([], [], [])['factor'] == 1.0


def test_overhead_is_charged_once():
  c = config()
  entries = space_entries(make_space(c), SIZE)
  timings = {key: Timing(5.0, 5.0, 0.1, 3) for key in entries}
  tiny_block = next(k for k, e in entries.items() if e.part == 'block')
  timings[tiny_block] = Timing(0.51, 0.51, 0.1, 3)
  timings['empty model'] = Timing(0.5, 0.5, 0.0, 3)
  table = build_table.make_table(c, FakeDevice(), entries, {}, timings)
  for key, entry in entries.items():
    ms = table.entries[key]['ms']
    if key == tiny_block:
      assert ms == pytest.approx(0.051)  # Never less than a tenth.
    else:
      assert ms == (5.0 if entry.part == 'stem' else 4.5)
    assert set(table.entries[key]) == {'ms', 'spread_ms', 'count'}
  assert table.protocol['overhead_ms'] == 0.5


# --- the stage ----------------------------------------------------------------


@pytest.fixture
def device(monkeypatch):
  device = FakeDevice()
  fake_device.install(monkeypatch, device)
  return device


def test_stage_leaves_a_table_that_predicts(device, tmp_path):
  c = config()
  device.inside = 0.9
  result = build_table.run(c, Workdir(tmp_path))
  table = LatencyTable.load(tmp_path / 'latency_table.json')
  space = make_space(c)
  assert set(table.entries) == set(space_entries(space, SIZE))
  # stem, 2 of the first layer, 2 of the second, 2 of the third, head.
  assert result['num_entries'] == len(table.entries) == 8
  assert table.image_size == SIZE
  assert table.device == device.describe()['device']
  assert len(table.calibration['networks']) == 3
  rng = np.random.default_rng(0)
  for arch in (space.largest, space.smallest):
    model = network_tflite(arch, SIZE, rng)
    (timing,) = device.measure(
      {'x': model}, warmup_runs=0, rounds=1, runs_per_round=1
    ).values()
    assert table.predict(arch) == pytest.approx(timing.ms, rel=0.02)
  assert 0.9 < table.factor < 0.95
  assert result['overhead_ms'] == CALL_MS
  assert result['min_ms'] < result['max_ms']
  # Each model once a round: 8 entries, 3 networks, the empty model.
  assert len(device.taken) - 2 == 3 * 12


def test_stage_is_not_repeated(device, tmp_path):
  workdir = Workdir(tmp_path)
  first = build_table.run(config(), workdir)
  count = len(device.taken)
  assert build_table.run(config(), workdir) == first
  assert len(device.taken) == count
  with pytest.raises(UserError, match=r'build_table\.rounds'):
    build_table.run(config(rounds=4), workdir)
  device.name = 'another'
  with pytest.raises(UserError, match='another'):
    build_table.run(config(), workdir)
  # A result that was removed on purpose is measured anew.
  (tmp_path / 'results.json').write_text('{}')
  device.name = 'fake'
  build_table.run(config(), workdir)
  assert len(device.taken) == 2 * count


def test_interruption_loses_nothing(device, tmp_path, capsys):
  c = config()
  workdir = Workdir(tmp_path)
  device.fail_after = 17
  with pytest.raises(KeyboardInterrupt):
    build_table.run(c, workdir)
  assert not (tmp_path / 'latency_table.json').exists()
  saved = json.loads((tmp_path / 'build_table/samples.json').read_text())
  assert sum(map(len, saved.values())) == 17
  with pytest.raises(UserError, match=r'build_table\.runs_per_round'):
    build_table.run(config(runs_per_round=2), workdir)

  device.fail_after = None
  build_table.run(c, workdir)
  assert len(device.taken) == 3 * 12
  assert 'after 17 of 36 samples' in capsys.readouterr().out
  assert not (tmp_path / 'build_table/samples.json').exists()


def test_progress_says_what_is_left(device, tmp_path, monkeypatch, capsys):
  from spnas_jax.core import progress

  monkeypatch.setattr(progress, '_SAY_SECONDS', -1.0)
  build_table.run(config(), Workdir(tmp_path))
  lines = capsys.readouterr().out.splitlines()
  assert 'build_table: 1 of 36 samples, about ' in ''.join(lines)
  assert sum('samples, about' in line for line in lines) == 36


def test_host_table_end_to_end(tmp_path, monkeypatch):
  from spnas_jax.latency.host import HostDevice

  monkeypatch.setattr(HostDevice, 'round_seconds', 0.0)
  c = config(rounds=2, calibration_networks=0)
  build_table.run(c, Workdir(tmp_path))
  table = LatencyTable.load(tmp_path / 'latency_table.json')
  assert table.factor == 1.0
  low, high = table.limits(make_space(c))
  assert 0 < low < high < 1


# --- loading one for a measurement --------------------------------------------


def test_tables_of_other_devices_are_refused(device, tmp_path):
  c = config(calibration_networks=0)
  build_table.run(c, Workdir(tmp_path))
  c.latency_table = str(tmp_path / 'latency_table.json')
  assert table_building.load_for(c, device).factor == 1.0
  with pytest.raises(UserError, match=r'never mixed.*build_table'):
    table_building.load_for(c, FakeDevice('another'))
  device.threads = 4
  with pytest.raises(UserError, match=r'with 1 thread.*with 4'):
    table_building.load_for(c, device)
  device.threads = 1
  c.dataset.image_size = 16
  with pytest.raises(UserError, match=r'12 px, dataset\.image_size is 16'):
    table_building.load_for(c, device)
