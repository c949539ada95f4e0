"""Profile: the exported files, the bare network, and what was predicted."""

import json

import fake_device
import numpy as np
import pytest
import tiny
from fake_device import FakeDevice

from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.latency.devices import OperationTime
from spnas_jax.latency.entries import random_variables
from spnas_jax.latency.table import LatencyTable, network_keys
from spnas_jax.models.convnet import ConvNet
from spnas_jax.stages import build_table, export, profile
from spnas_jax.stages.profile import sum_operations

SIZE = 12


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  """(config, architecture, folder) with exported files, nothing trained."""
  c = tiny.config()
  c.dataset.image_size = SIZE
  c.profile.update(rounds=2, runs_per_round=1, warmup_runs=0)
  c.build_table.update(rounds=1, calibration_networks=0)
  c.space.update(channels=(8,), layers=(2,), strides=(2,), kernels=(3,))
  arch = make_space(c).largest
  rng = np.random.default_rng(0)
  variables = random_variables(ConvNet(arch), (1, SIZE, SIZE, 1), rng)
  folder = tmp_path_factory.mktemp('exported')
  models = export.make_models(c, arch, variables)
  for precision, (name, _) in export.FILES.items():
    (folder / name).write_bytes(models[precision])
  sidecar = export.describe_models(c, arch, models)
  (folder / 'model.json').write_text(json.dumps(sidecar))
  results = {'export': {'inputs': {'trained': 'abc'}}}
  (folder / 'results.json').write_text(json.dumps(results))
  return c, arch, folder


@pytest.fixture
def device(monkeypatch):
  device = FakeDevice()
  fake_device.install(monkeypatch, device)
  return device


@pytest.fixture
def run_dir(exported, tmp_path):
  """A fresh copy of the exported files."""
  _, _, folder = exported
  for file in folder.iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  return tmp_path


def with_table(c, tmp_path):
  build_table.run(c, Workdir(tmp_path / 'table'))
  c = c.copy_and_resolve_references()
  c.latency_table = str(tmp_path / 'table/latency_table.json')
  return c


def test_prediction_is_held_against_the_bare_network(
  exported, device, run_dir, tmp_path
):
  c, arch, _ = exported
  c = with_table(c, tmp_path)
  result = profile.run(c, Workdir(run_dir))
  # The fake's times add up.
  assert result['predicted_ms'] == pytest.approx(result['bare_ms'])
  assert result['error_pct'] == pytest.approx(0, abs=1e-9)
  assert result['median_ms'] == result['bare_median_ms'] == result['bare_ms']
  assert result['median_ms_int8'] > 0
  layers = result['layers']
  assert tuple(row['key'] for row in layers) == network_keys(arch, SIZE)
  for row in layers:
    assert row['measured_ms'] == pytest.approx(row['predicted_ms'])
  assert sum(row['measured_ms'] for row in layers) == pytest.approx(
    result['bare_ms']
  )
  assert result['device'] == device.describe()['device']
  count = len(device.taken)
  assert profile.run(c, Workdir(run_dir)) == result
  assert len(device.taken) == count


def test_a_device_that_has_changed_is_said(exported, device, run_dir, tmp_path):
  """The table's own error and the noise explain a percent or two; ten do not,
  and the line says how to go on."""
  c, _, _ = exported
  c = with_table(c, tmp_path)
  result = profile.run(c, Workdir(run_dir))
  table = LatencyTable.load(c.latency_table)
  assert profile.drift_warning(result, table) == []
  slower = {**result, 'error_pct': -10.0}
  (line,) = profile.drift_warning(slower, table)
  assert 'prediction is 10.0% below what was measured' in line
  assert 'the device is slower than it was' in line
  assert 'explain 1.5%' in line and 'validate_table.recalibrate=True' in line
  noisy = {**slower, 'bare_error_ms': 0.05 * result['bare_ms']}
  assert profile.drift_warning(noisy, table) == []
  assert profile.drift_warning({**slower, 'error_pct': None}, table) == []


def test_no_prediction_from_another_device(exported, device, run_dir, tmp_path):
  c, _, _ = exported
  c = with_table(c, tmp_path)
  device.name = 'another'
  result = profile.run(c, Workdir(run_dir))
  assert result['predicted_ms'] is result['error_pct'] is None
  assert 'the table is from kind fake, name fake' in result['prediction']
  assert all(row['predicted_ms'] is None for row in result['layers'])
  assert all(row['measured_ms'] > 0 for row in result['layers'])


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (lambda c, d: c.update(latency_table=''), 'not set'),
    (lambda c, d: setattr(d, 'threads', 2), 'for 1 threads, not 2'),
  ],
)
def test_no_prediction(exported, device, run_dir, tmp_path, change, said):
  c, _, _ = exported
  c = with_table(c, tmp_path)
  change(c, device)
  result = profile.run(c, Workdir(run_dir))
  assert result['predicted_ms'] is None
  assert said in result['prediction']


def test_network_that_is_not_in_the_table(exported, device, run_dir, tmp_path):
  c, _, _ = exported
  other = c.copy_and_resolve_references()
  other.space.expansions = (3,)
  other = with_table(other, tmp_path)
  c = c.copy_and_resolve_references()
  c.latency_table = other.latency_table
  result = profile.run(c, Workdir(run_dir))
  assert result['predicted_ms'] is None
  assert 'has no entry' in result['prediction']


def test_layers_from_a_device_that_tells_operations(
  exported, device, run_dir, monkeypatch
):
  c, _, _ = exported
  c = c.copy_and_resolve_references()
  c.latency_table = ''

  def tell(model, runs):
    # stem; 2 blocks of 3, the second with an addition; head of 3.
    return [OperationTime(str(i), float(i), runs) for i in range(11)]

  monkeypatch.setattr(device, 'operation_times', tell)
  device.tells_operations = True
  result = profile.run(c, Workdir(run_dir))
  measured = [row['measured_ms'] for row in result['layers']]
  assert measured == [0, 1 + 2 + 3, 4 + 5 + 6 + 7, 8 + 9 + 10]
  assert len(result['operations']) == 11
  # Nothing but the files and the bare network had to be timed.
  assert set(device.taken) == {
    *(n for n, _ in export.FILES.values()),
    'bare network',
  }


def test_operations_that_do_not_fit_the_layers():
  operations = [OperationTime('x', 1.0, 1)] * 3
  assert sum_operations(operations, [1, 3]) == [1.0, 2.0]
  assert sum_operations(operations, [1, 4]) is None


def test_interrupted_profile_resumes(exported, device, run_dir):
  c, _, _ = exported
  c = c.copy_and_resolve_references()
  c.latency_table = ''
  device.fail_after = 9
  with pytest.raises(KeyboardInterrupt):
    profile.run(c, Workdir(run_dir))
  device.fail_after = None
  profile.run(c, Workdir(run_dir))
  # Three files, stem, stem and one and two blocks, everything.
  assert len(device.taken) == 2 * 7


def test_nothing_exported(exported, device, tmp_path):
  c, _, _ = exported
  with pytest.raises(UserError, match='--stage=export first'):
    profile.run(c, Workdir(tmp_path))


def test_damaged_export(exported, device, run_dir):
  c, _, _ = exported
  c = c.copy_and_resolve_references()
  c.latency_table = ''
  (run_dir / 'model.json').write_text('{')
  with pytest.raises(UserError, match='--stage=export again'):
    profile.run(c, Workdir(run_dir))
