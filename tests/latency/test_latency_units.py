"""Seconds and microseconds are not taken for ms, percent not for fractions."""

import dataclasses
import pathlib

import pytest
import tiny

from spnas_jax.config import rules as config_rules
from spnas_jax.config.defaults import default_config
from spnas_jax.config.spaces import make_space
from spnas_jax.core.errors import UserError
from spnas_jax.latency import benchmark_output
from spnas_jax.latency import units as latency_units
from spnas_jax.latency.devices import OperationTime
from spnas_jax.latency.table import LatencyTable, network_keys
from spnas_jax.networks.architecture import Architecture, num_macs
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.stages.profile import same_unit

TABLES = pathlib.Path(__file__).resolve().parents[2] / 'latency'


def scaled(table: LatencyTable, factor: float) -> LatencyTable:
  entries = {
    key: {**entry, 'ms': entry['ms'] * factor}
    for key, entry in table.entries.items()
  }
  return dataclasses.replace(table, entries=entries)


@pytest.mark.parametrize(
  ('name', 'factor', 'unit'),
  [
    ('pixel1', 1e-3, 'seconds'),
    ('digits_host', 1e-3, 'seconds'),
    ('fashion_mnist_host', 1e-3, 'seconds'),
    ('pixel1', 1e3, 'microseconds'),
  ],
)
def test_tables_in_another_unit_are_refused(tmp_path, name, factor, unit):
  table = scaled(LatencyTable.load(TABLES / f'{name}.json'), factor)
  path = tmp_path / 'table.json'
  path.write_text(table.to_json())
  with pytest.raises(UserError, match=f'looks like {unit}.* in ms') as error:
    LatencyTable.load(path)
  assert str(path) in str(error.value)


@pytest.mark.parametrize(
  ('ms', 'macs'),
  [
    (0.17, 300e6),  # MobileNetV2 on a data centre's GPU.
    (131.0, 525e6),  # The largest network on a Pixel 1.
    (700.0, 7e6),  # A small network on a small microcontroller.
    (3000.0, 525e6),  # A watch.
    (50.0, 0.0),  # Shapes are not known.
    (2e-4, 100.0),  # Next to nothing.
  ],
)
def test_times_of_real_devices_pass(ms, macs):
  latency_units.check(ms, macs)


def test_times_that_no_device_has():
  with pytest.raises(UserError, match='seconds'):
    latency_units.check(9e-5, 0.0)
  with pytest.raises(UserError, match='microseconds'):
    latency_units.check(131e3, 525e6)


@pytest.mark.parametrize(
  'text',
  [
    'stem_k3_s2_i3_c8 ds_r1_k3_s1_c8 ir_r2_k5_s2_e3_c16 head_c32 fc_c10',
    'stem_k3_s1_i1_c8 ir_r1_k3_s2_e6_c16_g2 fc_c10',
  ],
)
def test_multiply_adds_of_keys_are_those_of_the_network(text):
  arch = Architecture.from_string(text)
  keys = network_keys(arch, 15)
  total = sum(latency_units.entry_macs(key) for key in keys)
  assert total == num_macs(arch, 15)


def test_keys_without_a_shape_have_no_multiply_adds():
  assert latency_units.entry_macs('layer05_k5_e6') == 0
  assert latency_units.entry_macs('constant') == 0


# --- targets ------------------------------------------------------------------


@pytest.mark.parametrize(
  ('factor', 'said'),
  [
    (1e-3, 'looks like seconds: search.target_ms is in ms'),
    (1e3, 'looks like microseconds: search.target_ms is in ms'),
    (3.0, None),
  ],
)
def test_targets_in_another_unit_say_so(factor, said):
  config = tiny.config()
  space = make_space(config)
  table = tiny.table(space, config.dataset.image_size)
  _, high = table.limits(space)
  config.search.target_ms = factor * high
  with pytest.raises(UserError, match=r'search\.target_ms is') as error:
    SearchProblem.of(config, table)
  if said is None:
    assert 'looks like' not in str(error.value)
  else:
    assert said in str(error.value)


# --- what benchmark_model prints ----------------------------------------------


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('Inference timings in ms: Init: 6, Inference (avg): 10.6', "in 'ms'"),
    ('Inference timings in us: Inference (avg): 1e999', 'no time'),
    ('Inference timings in us: Inference (avg): nan', 'no time'),
    ('Inference timings in us: Inference (avg): -3', 'no time'),
  ],
)
def test_averages_in_another_unit_are_refused(text, said):
  with pytest.raises(UserError, match=said):
    benchmark_output.parse_average(text)


def test_operations_in_another_unit_are_noticed():
  def times(*ms):
    return [OperationTime('x', each, 1) for each in ms]

  assert same_unit(times(1.0, 2.0), 2.5)
  assert same_unit([], 2.5)
  assert not same_unit(times(1e3, 2e3), 2.5)
  assert not same_unit(times(1e-3, 2e-3), 2.5)


# --- fractions ----------------------------------------------------------------

FRACTIONS = [
  field for field, (_, high) in config_rules.RANGES.items() if high <= 1
]


def test_percent_is_refused_where_fractions_are_due():
  """Five percent written as 5, in every key that is a fraction."""
  assert {'search.slack', 'train.dropout', 'random_search.band'} <= set(
    FRACTIONS
  )
  for field in FRACTIONS:
    config = default_config()
    *sections, key = field.split('.')
    config_rules.get(config, '.'.join(sections))[key] = 5.0
    with pytest.raises(UserError, match=f'^{field} is 5') as error:
      config_rules.check(config)
    assert 'a fraction: 0.05 for 5%' in str(error.value), field
