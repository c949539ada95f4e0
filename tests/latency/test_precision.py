"""Tables of int8 and float16 models: what is timed, compared and shipped."""

import json
import shutil

import fake_device
import numpy as np
import pytest
import tiny
import tiny_run
from fake_device import FakeDevice

from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.export import tflite
from spnas_jax.latency.entries import network_tflite, space_entries
from spnas_jax.latency.exchange import precision_of
from spnas_jax.latency.table import LatencyTable
from spnas_jax.latency.table_building import empty_tflite
from spnas_jax.stages import build_table, export, validate_table

SIZE = 12


class Remembering(FakeDevice):
  """Keeps what it was given to time."""

  def session(self, models, warmup_runs, runs_per_round):
    self.models = models
    return super().session(models, warmup_runs, runs_per_round)


def config(precision):
  c = tiny.config()
  c.dataset.image_size = SIZE
  c.space.update(channels=(8,), layers=(2,), strides=(2,), expansions=(2,))
  c.build_table.update(
    rounds=2, runs_per_round=1, calibration_networks=1, precision=precision
  )
  c.validate_table.update(rounds=2, runs_per_round=1, num_networks=2)
  return c


@pytest.mark.parametrize('precision', ['float16', 'int8'])
def test_what_the_table_says_is_timed_everywhere(
  precision, tmp_path, monkeypatch
):
  """Operations, networks of the calibration and of the validation, and the
  model that does nothing: all in the table's precision."""
  device = Remembering()
  fake_device.install(monkeypatch, device)
  c, workdir = config(precision), Workdir(tmp_path)
  build_table.run(c, workdir)
  assert len(device.models) > 3
  # One addition has no weights to store in halves.
  own = {k: m for k, m in device.models.items() if k != 'empty model'}
  assert {precision_of(model) for model in own.values()} == {precision}
  path = str(workdir / 'latency_table.json')
  table = LatencyTable.load(path)
  assert table.precision == precision
  c.latency_table = path
  validate_table.run(c, workdir)
  assert {precision_of(m) for m in device.models.values()} == {precision}


def test_int8_operations_take_and_give_int8():
  """No conversion in front of an operation or behind it: inside a network there
  is none. The network's models run here."""
  c, rng = config('int8'), np.random.default_rng(0)
  space = make_space(c)
  for entry in space_entries(space, SIZE).values():
    model = entry.to_tflite(rng, 'int8')
    assert 'QUANTIZE' not in tflite.operations(model), entry.key
    (source,) = tflite.interpreter(model).get_input_details()
    assert source['dtype'] == np.int8, entry.key
  whole = network_tflite(space.largest, SIZE, rng, None, 'int8')
  outputs = tflite.run(whole, rng.standard_normal((2, SIZE, SIZE, 1)))
  assert np.isfinite(outputs).all() and np.ptp(outputs) > 0
  assert precision_of(empty_tflite('int8')) == 'int8'


def test_tables_without_the_field_are_float32():
  """Their text, and with it their fingerprint, stays what it was."""
  table = tiny.table(tiny.space())
  fields = json.loads(table.to_json())
  assert table.precision == 'float32' and 'precision' not in fields


def test_unknown_precisions_are_refused(tmp_path):
  fields = json.loads(tiny.table(tiny.space()).to_json())
  path = tmp_path / 'table.json'
  path.write_text(json.dumps({**fields, 'precision': 'int4'}))
  with pytest.raises(UserError, match="precision is 'int4', allowed: float32"):
    LatencyTable.load(path)


def test_an_int8_table_ships_the_int8_file(tmp_path):
  """It is the main file, and its accuracy is that of all test images."""
  shutil.copytree(tiny_run.finished(), tmp_path / 'run')
  workdir = Workdir(tmp_path / 'run')
  c = tiny_run.config()
  fields = json.loads(tiny_run.table_path().read_text())
  path = tmp_path / 'table.json'
  path.write_text(json.dumps({**fields, 'precision': 'int8'}))
  c.latency_table = str(path)
  result = export.run(c, workdir)
  assert result['main_file'] == 'model_int8.tflite'
  assert result['num_images'] == 50 and result['top1_int8'] is not None
  sidecar = json.loads((workdir / 'model.json').read_text())
  assert sidecar['main'] == 'model_int8.tflite'
  assert 'what was searched for' in export.spell_result(result, '')[1]
