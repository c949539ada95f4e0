"""Models out, a CSV back: a whole round trip, and what is refused."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import tiny_run

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError, Waiting
from spnas_jax.export import tflite
from spnas_jax.latency import measuring
from spnas_jax.latency.exchange import (
  ExchangeDevice,
  check_units,
  file_names,
  precision_of,
  read_times,
)
from spnas_jax.latency.table import LatencyTable


@pytest.mark.slow
def test_a_table_by_another_harness(tmp_path):
  """The command ends with 0 and leaves everything; a second program, which
  shares no code, times it; the same command makes the table."""
  workdir = tmp_path / 'run'
  command = tiny_run.command(
    'build_table',
    workdir,
    '--config.device=files',
    '--config.profile.device_name=a phone far away',
    '--config.build_table.calibration_networks=2',
  )
  first = tiny_run.run(command)
  folder = workdir / 'measure/build_table'
  manifest = json.loads((folder / 'manifest.json').read_text())
  rows = manifest['models']
  assert f'{len(rows)} models wait' in first.stdout
  assert str(folder / 'times.csv') in first.stdout
  assert manifest['device'] == 'a phone far away'
  for row in rows:
    content = (folder / row['file']).read_bytes()
    assert hashlib.sha256(content).hexdigest() == row['sha256']
    assert row['input_type'] == row['precision'] == 'float32'
    assert row['threads'] == 1 and len(row['input_shape']) == 4
  expected = ['model,ms', *(f'{row["model"]},' for row in rows)]
  assert (folder / 'times.csv').read_text().splitlines() == expected
  # Nothing filled in yet: it waits again, and touches nothing.
  before = tiny_run.snapshot(folder)
  assert 'models wait' in tiny_run.run(command).stdout
  assert tiny_run.snapshot(folder) == before

  subprocess.run(
    [sys.executable, 'tests/other_harness.py', str(folder)], check=True
  )
  second = tiny_run.run(command)
  assert '2 time(s) each' in second.stdout
  table = LatencyTable.load(workdir / 'latency_table.json')
  assert table.device == {'kind': 'files', 'name': 'a phone far away'}
  assert tiny_run.results(workdir)['build_table']['calibration_networks'] == 2
  # What the other program wrote is what the table has, less the call.
  times = read_times(
    (folder / 'times.csv').read_text(), [r['model'] for r in rows], ''
  )
  named = {row['what']: np.median(times[row['model']]) for row in rows}
  call = named['empty model']
  for key, entry in table.entries.items():
    off = 0 if key.startswith('stem') else call
    assert entry['ms'] == pytest.approx(max(named[key] - off, named[key] / 10))
    assert entry['count'] == 2


def test_names_are_fit_for_files_and_lines():
  """No two alike, nothing that a file system or a CSV would take ill."""
  whats = ['ir_k3_s1', 'stem and 3 blocks', 'model.tflite', 'a/b', 'a b']
  whats += [f'stem_k3 {"ir_r1_k3_s1_e6_c24 " * 9}{i}' for i in range(3)]
  names = file_names(dict.fromkeys(whats, b''))
  assert names['ir_k3_s1'] == 'ir_k3_s1'
  assert names['model.tflite'] == 'model'
  assert len(set(names.values())) == len(whats)
  for name in names.values():
    assert name.replace('_', '').replace('.', '').replace('-', '').isalnum()
    assert len(name) <= 80


def test_repeats_are_summed_up(tmp_path):
  """Their median counts; order, spaces and file endings do not matter."""
  text = '\ufeffModel, ms\nb.tflite,4\na,1.0\n\na, 3.0\na,1.5\n'
  assert read_times(text, ['a', 'b'], 'f') == {'a': [1.0, 3.0, 1.5], 'b': [4.0]}
  model = tflite.convert(lambda x: x + 1, (1, 4, 4, 2))
  workdir, device = Workdir(tmp_path), ExchangeDevice('x')
  models = {'a': model, 'b': model}
  with pytest.raises(Waiting, match='2 models wait'):
    measuring.measure('profile', workdir, device, models, None)
  workdir.write('measure/profile/times.csv', text)
  timings = measuring.measure('profile', workdir, device, models, None)
  assert (timings['a'].ms, timings['a'].count) == (1.5, 3)
  assert timings['b'].ms == 4.0


@pytest.mark.parametrize(
  ('lines', 'said'),
  [
    ('name,time\na,1', "begins with 'name,time', must begin"),
    ('', 'must begin with the line'),
    ('model,ms\na,1\nb,2\nz,3\ny,1', "times of 'z', 'y', which nobody"),
    ('model,ms\nz,', "'z', which nobody asked for"),
    ('model,ms\na,1', "no time of 'b'; 1 of 2 models have one"),
    ('model,ms\na,1\nb,fast', "has 'b,fast', allowed: a number of ms"),
    ('model,ms\na,1\nb,nan', "'b,nan'"),
    ('model,ms\na,1\nb,-2', "'b,-2'"),
    ('model,ms\na,1\nb,0', "'b,0'"),
    ('model,ms\na,1\nb,2,5', "'b,2,5'"),
    ('model,ms\na,1\nb,2 ms', "'b,2 ms'"),
  ],
)
def test_lines_that_cannot_be_used(lines, said):
  with pytest.raises(UserError, match=said) as refused:
    read_times(lines, ['a', 'b'], 'times.csv')
  assert 'times.csv' in str(refused.value) and '\n' not in str(refused.value)


def test_a_file_that_was_doubled_is_refused():
  """Every line twice is no repetition; rounded times may well agree."""
  wanted = ['a', 'b', 'c']
  exact = 'a,1.2345\nb,0.98765\nc,3.4567\n'
  with pytest.raises(UserError, match="the same twice of 'a', 'b', 'c'"):
    read_times('model,ms\n' + 2 * exact, wanted, 'f')
  rounded = 'a,1\nb,2\nc,3\n'
  assert read_times('model,ms\n' + 2 * rounded, wanted, 'f')['a'] == [1.0, 1.0]
  other = exact.replace('3.4567', '3.4571')
  assert len(read_times('model,ms\n' + exact + other, wanted, 'f')['a']) == 2


def test_times_in_another_unit_are_refused():
  """One of them, by name, whether calls or multiply-adds decide; or all."""
  macs = {'a': 1e5, 'b': 1e6, 'c': 1e7, 'd': 2e7, 'e': 3e5, 'f': 4e6}
  by_work = {name: [work / 1e7] for name, work in macs.items()}
  alike = {name: [0.3] for name in macs}
  for good in (by_work, alike):
    check_units(good, macs, 'f')
    slip = {**good, 'c': [1000 * good['c'][0]]}
    with pytest.raises(UserError, match=r"has 'c,\d+', some 300 times"):
      check_units(slip, macs, 'f')
  seconds = {name: [work / 1e10] for name, work in macs.items()}
  with pytest.raises(UserError, match='looks like seconds'):
    check_units(seconds, macs, 'f')
  heavy = {name: 1000 * work for name, work in macs.items()}
  micro = {name: [work / 5e4] for name, work in heavy.items()}
  with pytest.raises(UserError, match='looks like microseconds'):
    check_units(micro, heavy, 'f')


def test_multiply_adds_and_precision_of_a_file():
  """By hand: a 3x3 convolution of 2 channels to 4 at stride 2."""
  import jax.numpy as jnp
  from jax import lax

  kernel = jnp.ones((3, 3, 2, 4))

  def conv(x):
    return lax.conv_general_dilated(
      x, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  model = tflite.convert(conv, (1, 8, 8, 2))
  assert tflite.macs(model) == 4 * 4 * 3 * 3 * 2 * 4
  assert precision_of(model) == 'float32'
