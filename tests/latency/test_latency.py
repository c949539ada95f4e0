"""Latency tables: the published figures, look-up, and every way to be wrong."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tiny
from authors import imagenet_space

from configs import fbnet_cifar
from spnas_jax.config.spaces import make_space
from spnas_jax.core.errors import UserError
from spnas_jax.latency.table import LatencyTable, Positional
from spnas_jax.networks import zoo
from spnas_jax.networks.architecture import Architecture
from spnas_jax.networks.space import Choice, SearchSpace, Stage

ROOT = pathlib.Path(__file__).resolve().parents[2]
PIXEL1 = LatencyTable.load(ROOT / 'latency' / 'pixel1.json')
SPACE = tiny.space()
TABLE = tiny.table(SPACE, factor=1.07)


def uniform(kernel, expansion):
  """One candidate in all 20 layers of the ImageNet space."""
  space = imagenet_space()
  choice = Choice(kernel, expansion, 0.0)
  return space.architecture_of((choice,) * len(space.layers))


# --- published figures --------------------------------------------------------


@pytest.mark.parametrize(
  ('kernel', 'expansion', 'wanted'),
  [(5, 6, 131.4578), (3, 6, 110.6524), (5, 3, 76.3622), (3, 3, 65.6914)],
)
def test_pixel1_uniform_networks(kernel, expansion, wanted):
  """Table sums of the four networks the authors profiled, to 0.1 us."""
  assert PIXEL1.predict(uniform(kernel, expansion)) == pytest.approx(
    wanted, abs=5e-5
  )


@pytest.mark.parametrize(
  ('name', 'wanted'), [('single_path_nas', 80.4411), ('mnasnet_b1', 75.88)]
)
def test_pixel1_zoo_networks(name, wanted):
  """The paper's network (measured: 79.48 ms) and MnasNet-B1 (74.65 ms)."""
  decimals = 5e-5 if name == 'single_path_nas' else 5e-3
  assert PIXEL1.predict(zoo.get(name)) == pytest.approx(wanted, abs=decimals)


def test_pixel1_limits():
  """Smallest network: 3x3-3 in the five first layers, 15 skips."""
  space = imagenet_space()
  low, high = PIXEL1.limits(space)
  assert low == pytest.approx(30.6319, abs=5e-5)
  assert high == pytest.approx(131.4578, abs=5e-5)
  assert PIXEL1.predict(space.smallest) == pytest.approx(low, rel=1e-12)
  assert PIXEL1.predict(space.largest) == pytest.approx(high, rel=1e-12)


def test_pixel1_rows_are_the_publishers():
  """Spot values of the published file, by block and candidate."""
  wanted = {
    'constant': 19.5999,
    'layer01_k3_e3': 4.4905,
    'layer05_k5_e6': 5.1170,
    'layer12_k5_e3': 1.8032,
    'layer20_k3_e6': 4.9217,
  }
  for key, ms in wanted.items():
    assert PIXEL1.entry_ms(key) == pytest.approx(ms, abs=5e-5)
  assert len(PIXEL1.entries) == 1 + 20 * 4
  assert PIXEL1.factor == 1.0 and PIXEL1.image_size == 224
  assert 'Apache' in PIXEL1.provenance


@pytest.mark.parametrize(
  ('name', 'wanted', 'limits'),
  [
    ('raspi4_fbnet', 37.3517, (10.0031, 79.2216)),
    ('pixel3_fbnet', 20.4139, (3.9543, 47.0918)),
  ],
)
def test_fbnet_tables_give_the_published_times(name, wanted, limits):
  """One of the networks that HELP published, to 0.1 us a layer."""
  table = LatencyTable.load(name)
  arch = Architecture.from_string(
    'stem_k3_s1_i3_c16 ir_r1_k5_s1_e1_c16 ir_r1_k5_s1_e6_c24 '
    'ir_r1_k5_s1_e3_c24 ir_r1_k3_s1_e3_c24 ir_r1_k3_s1_e1_c24 '
    'ir_r1_k3_s2_e1_c32 ir_r1_k5_s1_e1_c32 ir_r1_k3_s1_e1_c32 '
    'ir_r2_k5_s2_e6_c64 ir_r2_k3_s1_e3_c64 ir_r1_k5_s1_e1_c112 '
    'ir_r1_k5_s1_e3_c112 ir_r1_k3_s1_e1_c112 ir_r1_k5_s1_e6_c112 '
    'ir_r1_k5_s2_e6_c184 ir_r2_k5_s1_e1_c184 ir_r1_k5_s1_e6_c352 '
    'head_c1504 fc_c10'
  )
  assert table.predict(arch) == pytest.approx(wanted, abs=2e-3)
  space = make_space(fbnet_cifar.get_config())
  assert table.limits(space) == pytest.approx(limits, abs=5e-5)
  assert 'MIT' in table.provenance


# --- positional look-up -------------------------------------------------------


def test_positional_skips_take_the_first_rows():
  """A network does not say which layer it skips: the first rows are paid."""
  space = imagenet_space()
  small = Choice(3, 3, 0.0)
  gaps: list[Choice | None] = [small] * 20
  gaps[1] = gaps[6] = gaps[7] = None
  keys = PIXEL1.keys_of(space.architecture_of(tuple(gaps)))
  rows = [int(key[5:7]) for key in keys[1:]]
  assert keys[0] == 'constant'
  assert rows == [1, 2, 3, 5, 6, *range(9, 21)]


def test_positional_table_of_a_smaller_space():
  """A space with fewer layers still pays the rows of its own stages.

  Its third layer of the second stage is row 7 of the table, not row 6.
  """
  full = imagenet_space()
  small = dataclasses.replace(
    full,
    stages=(dataclasses.replace(full.stages[0], layers=3), *full.stages[1:]),
  )
  constant, costs = PIXEL1.costs(small)
  assert constant == pytest.approx(19.5999)
  rows = [1, 2, 3, *range(5, 21)]
  for row, own in zip(rows, costs, strict=True):
    for k, kernel in enumerate((3, 5)):
      for e, expansion in enumerate((3, 6)):
        key = f'layer{row:02d}_k{kernel}_e{expansion}'
        assert own[k, e, 0] == PIXEL1.entry_ms(key)
  low, high = PIXEL1.limits(small)
  assert high == pytest.approx(PIXEL1.predict(small.largest), rel=1e-12)
  assert low == pytest.approx(PIXEL1.predict(small.smallest), rel=1e-12)


@pytest.mark.parametrize(
  'arch',
  [
    zoo.get('mobilenet_v2'),
    uniform(3, 3).replace(num_classes=10),
    uniform(3, 3).replace(activation='relu6'),
    uniform(3, 3).replace(stem_stride=1),
  ],
  ids=['mobilenet_v2', 'classes', 'activation', 'stem'],
)
def test_positional_table_refuses_other_frames(arch):
  """Stem, fixed blocks, head and classifier are inside its constant."""
  with pytest.raises(UserError, match="'pixel1' is positional") as e:
    PIXEL1.predict(arch)
  assert '\n' not in str(e.value)


def test_positional_table_refuses_blocks_without_a_row():
  """A squeeze, a fifth layer or another candidate is never guessed."""
  arch = uniform(3, 3)
  blocks = list(arch.blocks)
  blocks[2] = dataclasses.replace(blocks[2], squeeze_ratio=0.25)
  with pytest.raises(UserError, match=r'no row for block ir_k3.*se0\.25'):
    PIXEL1.predict(arch.replace(blocks=tuple(blocks)))
  twice = (*arch.blocks[:2], arch.blocks[2], *arch.blocks[2:])
  with pytest.raises(UserError, match='no row for block'):
    PIXEL1.predict(arch.replace(blocks=twice))
  with pytest.raises(UserError, match="no entry 'layer01_k7_e3'"):
    PIXEL1.costs(imagenet_space(kernels=(3, 5, 7)))


# --- look-up by shape ---------------------------------------------------------


def test_prediction_is_the_calibrated_sum():
  """Eq. 10 times the calibration factor, stem and head included."""
  arch = SPACE.decode(np.ones(len(SPACE.gates)))
  keys = TABLE.keys_of(arch)
  assert keys == (
    'stem_k3_s2_i1_o8_h12_relu',
    'ir_k5_s2_e4_i8_o8_h6_relu',
    'ir_k5_s1_e4_i8_o8_skip_h3_relu',
    'ir_k5_s1_e4_i8_o12_h3_relu',
    'ir_k5_s1_e4_i12_o12_skip_h3_relu',
    'head_i12_o16_h3_relu_fc6',
  )
  total = 1.07 * sum(TABLE.entries[key]['ms'] for key in keys)
  assert TABLE.predict(arch) == pytest.approx(total, rel=1e-12)


def test_keys_tell_everything_apart_that_changes_the_time():
  """Two networks that differ in one property share no key for it."""
  arch = SPACE.largest
  plain = set(TABLE.keys_of(arch))
  relu6 = set(TABLE.keys_of(arch.replace(activation='relu6')))
  padded = set(TABLE.keys_of(arch.replace(padding='symmetric')))
  assert not plain & relu6 and not plain & padded and not relu6 & padded
  base = arch.blocks[1]
  for change in (
    {'kernel': 3},
    {'expansion': 2},
    {'squeeze_ratio': 0.25},
    {'residual': False},
    {'groups': 2},
  ):
    block = dataclasses.replace(base, **change)
    blocks = (arch.blocks[0], block, *arch.blocks[2:])
    assert set(TABLE.keys_of(arch.replace(blocks=blocks))) - plain


def test_fixed_blocks_belong_to_the_constant():
  """Blocks in front of and behind the stages cost the same in every network."""
  space = tiny.space(fixed_blocks=True)
  table = tiny.table(space, factor=1.07)
  constant, costs = table.costs(space)
  keys = table.keys_of(space.largest)
  fixed = [*keys[:2], *keys[-2:]]  # Stem and first block, last block and head.
  wanted = 1.07 * sum(table.entries[key]['ms'] for key in fixed)
  assert constant == pytest.approx(wanted, rel=1e-12)
  largest = sum(own[-1, -1, -1] for own in costs)
  assert table.predict(space.largest) == pytest.approx(constant + largest)


def test_costs_are_padded_where_a_stage_has_fewer_candidates():
  """Mixed candidate sets: zeros beyond a layer's own candidates."""
  space = SearchSpace(
    stages=(Stage(8, 1, 2, (3, 5), (2,)), Stage(12, 1, 1, (3,), (2, 4))),
    stem_channels=8,
    first=(),
    last=(),
    head_channels=16,
    num_classes=tiny.NUM_CLASSES,
    input_channels=1,
  )
  entries = {}
  for gates in np.ndindex(*(2,) * len(space.gates)):
    arch = space.decode(np.array(gates))
    for key in TABLE.keys_of(arch):
      entries[key] = {'ms': 1.0 + len(entries)}
  table = dataclasses.replace(TABLE, entries=entries)
  _, costs = table.costs(space)
  assert costs.shape == (2, 2, 2, 1)
  np.testing.assert_array_equal(costs[0, :, 1], 0.0)
  np.testing.assert_array_equal(costs[1, 1], 0.0)
  assert np.all(costs[0, :, 0] > 0) and np.all(costs[1, 0] > 0)


def test_limits_are_the_extremes_of_all_networks():
  """Against every network of a tiny space, on a table without any order.

  On a real device a larger operation is sometimes the faster one.
  """
  rng = np.random.default_rng(0)
  entries = {
    key: {'ms': float(rng.uniform(0.1, 3))} for key in sorted(TABLE.entries)
  }
  table = dataclasses.replace(TABLE, entries=entries)
  every = [table.predict(SPACE.decode(g)) for g in tiny.all_gates(SPACE)]
  low, high = table.limits(SPACE)
  assert low == pytest.approx(min(every), rel=1e-12)
  assert high == pytest.approx(max(every), rel=1e-12)
  assert low < table.predict(SPACE.smallest)  # The order really is broken.


def test_missing_entry_names_the_key():
  """A network of another shape is an error, never a guess."""
  outside = SPACE.largest.replace(num_classes=7)
  with pytest.raises(UserError, match="no entry 'head_i12_o16_h3_relu_fc7'"):
    TABLE.predict(outside)
  wider = tiny.space(kernels=(3, 7))
  with pytest.raises(UserError, match="'made-up' has no entry 'ir_k7"):
    TABLE.limits(wider)


# --- files --------------------------------------------------------------------


def test_round_trip(tmp_path):
  """to_json and load are inverse, positional or not, to the last bit."""
  entries = {**TABLE.entries, 'odd': {'ms': 0.1 + 0.2, 'spread_ms': None}}
  for table in (PIXEL1, dataclasses.replace(TABLE, entries=entries)):
    path = tmp_path / 'table.json'
    path.write_text(table.to_json())
    assert LatencyTable.load(path) == table
    assert LatencyTable.load(str(path)) == table


def without(field):
  return lambda t: t.pop(field)


def assign(*path, value):
  def change(t):
    for name in path[:-1]:
      t = t[name]
    t[path[-1]] = value

  return change


KEY = 'ir_k5_s2_e4_i8_o8_h6_relu'


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (without('schema'), 'schema'),
    (assign('schema', value=2), 'schema must be 1'),
    (without('entries'), 'entries'),
    (without('positional'), 'positional'),
    (without('image_size'), 'image_size'),
    (without('device'), 'device'),
    (without('calibration'), 'calibration'),
    (assign('calibration', value={}), 'calibration.factor is None'),
    (assign('calibration', 'factor', value=0), 'calibration.factor is 0'),
    (assign('color', value=1), 'color'),
    (assign('entries', value=[1]), 'field'),
    (assign('entries', KEY, 'ms', value=float('nan')), f'{KEY}.ms is nan'),
    (assign('entries', KEY, 'ms', value=float('inf')), f'{KEY}.ms is inf'),
    (assign('entries', KEY, 'ms', value=0.0), f'{KEY}.ms is 0.0'),
    (assign('entries', KEY, 'ms', value=-1.0), f'{KEY}.ms is -1.0'),
    (assign('entries', KEY, 'ms', value='1'), f"{KEY}.ms is '1'"),
    (assign('entries', KEY, 'ms', value=True), f'{KEY}.ms is True'),
    (assign('entries', KEY, value={}), f'{KEY}.ms is None'),
    (assign('image_size', value=0), 'image_size is 0'),
    (assign('threads', value=None), 'threads is None'),
    (assign('positional', value={'network': 'x'}), 'first'),
  ],
)
def test_wrong_tables_are_one_line_errors(tmp_path, change, message):
  """Every wrong field is named, with its value, in one line and the file."""
  fields = json.loads(TABLE.to_json())
  change(fields)
  path = tmp_path / 'wrong.json'
  path.write_text(json.dumps(fields))
  with pytest.raises(UserError) as e:
    LatencyTable.load(path)
  assert message in str(e.value)
  assert 'wrong.json' in str(e.value)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{"schema": 1,', 'not valid JSON'),
    ('', 'not valid JSON'),
    ('\xff', 'not UTF-8'),
    ('[1, 2]', 'field'),
    ('"text"', 'field'),
    ('null', 'field'),
  ],
)
def test_files_that_are_no_tables(tmp_path, text, message):
  """Broken, empty or binary files and JSON that is no object."""
  path = tmp_path / 'no_table.json'
  path.write_bytes(text.encode('latin-1'))
  with pytest.raises(UserError) as e:
    LatencyTable.load(path)
  assert message in str(e.value) and 'no_table.json' in str(e.value)
  assert '\n' not in str(e.value)


def test_missing_file_says_how_to_make_one(tmp_path):
  """Neither a missing file nor a folder ends in a traceback."""
  for path in (tmp_path / 'none.json', tmp_path):
    with pytest.raises(UserError, match='--stage=build_table') as e:
      LatencyTable.load(path)
    assert str(path) in str(e.value) and '\n' not in str(e.value)


def test_positional_needs_all_its_fields():
  """The rows of the published table, as they are loaded."""
  assert isinstance(PIXEL1.positional, Positional)
  assert (PIXEL1.positional.first, PIXEL1.positional.last) == (1, 1)
  space = imagenet_space()
  assert PIXEL1.positional.network == space.largest.to_string()
