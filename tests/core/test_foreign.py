"""Files that others wrote, damaged in every way: one line, never a traceback.

`FUZZ_EXAMPLES` sets how many damaged files each of the seven tests tries; with
15,000 of them 105,000 in all, in three minutes on two cores.
"""

from __future__ import annotations

import copy
import json
import os
import random
import string

import pytest
import tiny_run
from etils import epath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spnas_jax.config import rules, spaces
from spnas_jax.config.defaults import default_config
from spnas_jax.config.routes import read_architecture
from spnas_jax.core import foreign
from spnas_jax.core.errors import UserError
from spnas_jax.data import folder_table
from spnas_jax.latency import exchange, whole_networks
from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks import zoo
from spnas_jax.networks.architecture import Architecture
from spnas_jax.startup import check_values

EXAMPLES = int(os.environ.get('FUZZ_EXAMPLES', '60'))
fuzz = settings(
  max_examples=EXAMPLES,
  deadline=None,
  database=None,
  derandomize='FUZZ_EXAMPLES' not in os.environ,
  suppress_health_check=list(HealthCheck),
)
# What breaks parsers: ends of numbers, of lines, of nesting, of encodings.
WORDS = (
  *('null', 'true', '-1', '0', '1e999', 'NaN', '"', "'", '[', ']', '{', '}'),
  *('[' * 3000, '9' * 5000, '\x00', '\ufeff', '\r', '\n', ',', ';', ':', '_'),
  *('é', '𝟙', '\ud7ff', '1_0', '0x10', ' ', '""', '1e-320', '٣'),
)
NETWORK = zoo.get('single_path_nas')


@st.composite
def damaged(draw, texts):
  """One of some good texts, as bytes, with a few places changed."""
  content = bytearray(draw(st.sampled_from(texts)).encode())
  for _ in range(draw(st.integers(1, 4))):
    place = draw(st.integers(0, len(content)))
    length = draw(st.sampled_from((0, 1, 1, 2, 8, 200)))
    how = draw(st.sampled_from(('word', 'bytes', 'again', 'cut')))
    if how == 'word':
      content[place : place + length] = draw(st.sampled_from(WORDS)).encode(
        'utf-8', 'surrogatepass'
      )
    elif how == 'bytes':
      content[place : place + length] = draw(st.binary(max_size=6))
    elif how == 'again':
      content[place:place] = content[place : place + 50]
    else:
      del content[place:]
  return bytes(content)


@st.composite
def edited(draw, values):
  """JSON whose values are of the wrong kind, missing, or strange."""
  fields = json.loads(json.dumps(draw(st.sampled_from(values))))
  strange = st.sampled_from(
    (None, True, -1, 0, 1.5, 1e308, 10**30, '', 'x', [], {}, [[]], float('nan'))
  )
  for _ in range(draw(st.integers(1, 3))):
    at = fields
    for _ in range(draw(st.integers(0, 4))):
      inner = [
        value
        for value in (at.values() if isinstance(at, dict) else at)
        if isinstance(value, (dict, list)) and value
      ]
      if not inner:
        break
      at = draw(st.sampled_from(inner))
    keys = list(at) if isinstance(at, dict) else list(range(len(at)))
    if keys:
      key = draw(st.sampled_from(keys))
      if draw(st.booleans()) and isinstance(at, dict):
        del at[key]
      else:
        at[key] = copy.deepcopy(draw(strange))
  return json.dumps(fields).encode()


def one_line(read, *args):
  """Reads, or refuses in a line that is no page."""
  try:
    return read(*args)
  except UserError as e:
    text = ' '.join(str(e).split())
    assert text and len(text) < 6000, text[:200]
    return None


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  return epath.Path(tmp_path_factory.mktemp('foreign') / 'file')


def reader(file, read):
  def write_and_read(content):
    file.write_bytes(content)
    return one_line(read, file)

  return write_and_read


TABLES = [
  tiny_run.table_path().read_text(),
  LatencyTable.load('pixel1').to_json(),
  LatencyTable.load('digits_host').to_json(),
]


@fuzz
@given(st.one_of(damaged(TABLES), edited([json.loads(t) for t in TABLES])))
def test_latency_tables(file, content):
  """What is read can be used: it predicts, and says itself again."""
  table = reader(file, LatencyTable.load)(content)
  if table is not None:
    one_line(lambda: table.predict(NETWORK))
    one_line(table.to_json)


NETWORKS = [NETWORK.to_json(), zoo.get('mnasnet_a1').to_json()]


@fuzz
@given(st.one_of(damaged(NETWORKS), edited([json.loads(n) for n in NETWORKS])))
def test_architectures(file, content):
  """A network that was read is the same after writing and reading."""
  arch = reader(file, read_architecture)(content)
  if arch is not None:
    assert Architecture.from_json(arch.to_json()) == arch


STRINGS = [NETWORK.to_string(), zoo.get('mnasnet_a1').to_string()]


@fuzz
@given(
  st.one_of(
    damaged(STRINGS).map(lambda content: content.decode('utf-8', 'replace')),
    st.lists(
      st.sampled_from(
        [word for text in STRINGS for word in text.split()]
        + ['ir_r1', 'stem', 'fc', 'ir_r999999999_k3_s1_e6_c24']
      ),
      max_size=30,
    ).map(' '.join),
  )
)
def test_block_strings(text):
  arch = one_line(Architecture.from_string, text)
  if arch is not None:
    assert Architecture.from_string(arch.to_string()) == arch


MODELS = ['a', 'b_k3', 'network_1']
TIMES = ['model,ms\na,1.5\nb_k3,0.25\nnetwork_1,7\na,1.6\n']


@fuzz
@given(damaged(TIMES))
def test_measurements(file, content):
  """Every wanted model has times above 0, or a line says what is wrong."""
  times = reader(
    file,
    lambda path: exchange.read_times(
      foreign.read_text(path, 'times.csv'), MODELS, 'times.csv'
    ),
  )(content)
  if times:
    assert list(times) == MODELS
    assert all(ms > 0 for values in times.values() for ms in values)


@pytest.fixture(scope='module')
def space():
  return spaces.make_space(tiny_run.config())


def network_rows() -> str:
  space = spaces.make_space(tiny_run.config())
  rng = random.Random(0)
  lines = []
  for _ in range(40):
    gates = [float(rng.random() < 0.5) for _ in space.gates]
    arch = space.architecture_of(space.choices_of(gates))
    lines.append(f'{arch.to_string()},{rng.uniform(1, 2):.3f}')
  return '\n'.join(['network,ms', *lines]) + '\n'


@fuzz
@given(damaged([network_rows()]))
def test_times_of_whole_networks(file, space, content):
  rows = reader(file, lambda path: whole_networks.read_rows(str(path), space))(
    content
  )
  assert rows is None or len(rows) >= whole_networks.LEAST_ROWS


LABELS = [
  'filename,label,split\na.jpg,cat,train\nb/c.jpg,dog,test\n',
  'filename;label\na.jpg;cat\n"b;c.jpg";dog\n',
]


@fuzz
@given(damaged(LABELS))
def test_labels(content):
  one_line(folder_table.read, 'labels.csv', content)


DEFAULT = default_config()
KEYS = [*sorted(rules.RANGES), 'space.kernels', 'dataset.name', 'search.gates']
KEYS += ['architecture', 'search.targets_ms', 'space.channels', 'train.init']


@fuzz
@given(
  st.lists(
    st.tuples(
      st.sampled_from(KEYS),
      st.one_of(
        st.sampled_from(
          (None, True, -1, 0, 1, 10**30, 1e308, float('nan'), float('inf'))
        ),
        st.text(string.printable, max_size=8),
        st.tuples(),
        st.tuples(st.integers(), st.integers()),
        st.tuples(st.floats(), st.text(max_size=2)),
      ),
    ),
    min_size=1,
    max_size=3,
  )
)
def test_configurations(changes):
  """Whatever a configuration file sets: checked before anything starts."""
  config = default_config()
  for name, value in changes:
    *sections, key = name.split('.')
    section = config
    for part in sections:
      section = section[part]
    with section.ignore_type():
      section[key] = value
  one_line(check_values, config, DEFAULT)


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'image_size': 1e308}, 'image_size is 1e+308, allowed: a whole number'),
    ({'entries': {'layer00_k3_e3': 3.0}}, 'is 3.0, must be an object'),
    ({'name': '[' * 5000, 'threads': 0}, 'threads is 0'),
  ],
)
def test_tables_that_were_found(file, change, words):
  """Each had passed, and ended in a traceback where it was used."""
  file.write_text(json.dumps({**json.loads(TABLES[1]), **change}))
  with pytest.raises(UserError) as e:
    LatencyTable.load(file)
  assert words in str(e.value)


@pytest.mark.parametrize('number', ['9' * 5000, '²', '٣', '1_0'])
def test_numbers_that_were_found(number):
  """5,000 digits are more than int takes; others are digits in Unicode only."""
  text = NETWORK.to_string().replace('stem_k3', f'stem_k{number}')
  with pytest.raises(UserError, match='architecture string: ') as e:
    Architecture.from_string(text)
  assert len(str(e.value)) < 3100


def test_a_file_too_large_is_not_read(tmp_path, monkeypatch):
  monkeypatch.setattr(foreign, 'MOST_BYTES', 10)
  path = epath.Path(tmp_path / 'x')
  path.write_text('12345678901')
  with pytest.raises(UserError, match='latency_table: x has 0 MiB, allowed'):
    foreign.read_text(path, 'latency_table: x')
