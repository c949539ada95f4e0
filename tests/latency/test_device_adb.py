"""Phones: what benchmark_model writes, which phone, and what goes wrong."""

import os
import re
import shutil
import stat
import subprocess
import sys

import pytest

from spnas_jax.core.errors import UserError
from spnas_jax.export import tflite
from spnas_jax.latency import adb as device_adb
from spnas_jax.latency import benchmark_output
from spnas_jax.latency.adb import AdbDevice, choose_phone
from spnas_jax.latency.devices import OperationTime


@pytest.fixture(scope='module')
def model() -> bytes:
  return tflite.convert(lambda x: x + 1, (1, 4, 4, 2))


# --- output of benchmark_model ------------------------------------------------

SCREEN = """\
STARTING!
Graph: [/data/local/tmp/model.tflite]
Loaded model /data/local/tmp/model.tflite
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
Running benchmark for at least 1 iterations and at least 0.5 seconds but \
terminate if exceeding 150 seconds.
count=47 first=12904 curr=10621 min=10480 max=12904 avg=10701.2 std=340

Running benchmark for at least 50 iterations and at least 1 seconds but \
terminate if exceeding 150 seconds.
count=93 first=10672 curr=10655 min=10479 max=10972 avg=10662.8 std=78

Inference timings in us: Init: 6144, First inference: 12904, \
Warmup (avg): 10701.2, Inference (avg): {average}
"""


def test_average():
  text = SCREEN.format(average='10662.8')
  assert benchmark_output.parse_average(text) == pytest.approx(10.6628)
  text = SCREEN.format(average='2.95034e+06')
  assert benchmark_output.parse_average(text) == 2950.34


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('', 'printed nothing'),
    ('STARTING!\nERROR: Failed to load model\n', 'Failed to load model'),
    (SCREEN.format(average='0'), r'Inference \(avg\): 0'),
  ],
)
def test_no_average(text, said):
  with pytest.raises(UserError, match=said):
    benchmark_output.parse_average(text)


def profile_proto(graph, delegate=()) -> bytes:
  """A file as the program writes it; (name, [microseconds]) per operation."""
  data = benchmark_output.profile_message()(model_name='model.tflite')
  init = data.init_profile.subgraph_profiles.add()
  init.per_op_profiles.add(node_type='AllocateTensors')

  def fill(profiles, operations):
    # Written in another order than they ran in.
    for order, (name, times) in reversed(list(enumerate(operations))):
      entry = profiles.add(node_type=name, run_order=order, times_called=1)
      stat_ = entry.inference_microseconds
      stat_.sum, stat_.count = sum(times), len(times)
      stat_.avg = sum(times) // len(times)

  target = data.runtime_profile.subgraph_profiles.add(subgraph_index=0)
  fill(target.per_op_profiles, graph)
  if delegate:
    inner = data.runtime_profile.delegate_profiles.add(delegate_name='XNNPACK')
    fill(inner.per_op_profiles, delegate)
  return data.SerializeToString()


def test_proto_of_a_plain_graph():
  content = profile_proto([('CONV_2D', [10, 11]), ('ADD', [1, 2])])
  assert benchmark_output.parse_proto(content) == [
    OperationTime('CONV_2D', 0.0105, 2),
    OperationTime('ADD', 0.0015, 2),
  ]


def test_proto_of_a_delegated_graph():
  inner = [('Convolution (NHWC, F32) IGEMM', [8]), ('Add (ND)', [2])]
  content = profile_proto([('TfLiteXNNPackDelegate', [12])], inner)
  names = [o.name for o in benchmark_output.parse_proto(content)]
  assert names == [name for name, _ in inner]
  # Only a part of the graph was delegated: where in it, nobody says.
  content = profile_proto(
    [('TfLiteXNNPackDelegate', [12]), ('CUSTOM', [3])], inner
  )
  names = [o.name for o in benchmark_output.parse_proto(content)]
  assert names == ['TfLiteXNNPackDelegate', 'CUSTOM']


@pytest.mark.parametrize('content', [b'', b'\xff\xff\xff', b'no such file'])
def test_proto_that_is_none(content):
  with pytest.raises(UserError, match='benchmark_model'):
    benchmark_output.parse_proto(content)


def csv_table(title, rows, start=True) -> str:
  """A table as TensorFlow's statistics print it, with or without `start`."""
  column = ' start,' if start else ''
  lines = [
    f'============================== {title} ==============================',
    f'node type,{column} first, avg_ms, %, cdf%, mem KB, times called, name',
  ]
  for kind, average, name in rows:
    first = ' 0,' if start else ''
    lines.append(
      f'{kind},{first} {average}, {average}, 9.4%, 1e+02%, 0, 1, {name}'
    )
  return '\n'.join([*lines, '', ''])


@pytest.mark.parametrize('start', [True, False])
def test_csv(start):
  inner = [
    ('Convolution (NHWC, F32) IGEMM', 0.8, 'Convolution (NHWC, F32) IGEMM:0'),
    ('Add (ND)', 2e-05, 'Add (ND):1'),
  ]
  delegate = [('TfLiteXNNPackDelegate', 0.81, '[a, b]:38')]
  text = (
    'Profiling Info for Benchmark Initialization:\n'
    + csv_table('Run Order', [('AllocateTensors', 5, 'AllocateTensors/0')])
    + 'Operator-wise Profiling Info for Regular Benchmark Runs:\n'
    + csv_table('Run Order', delegate, start)
    + csv_table('Top by Computation Time', delegate, start)
    + 'Number of nodes executed: 1\n'
    '============================== Summary by node type =====\n'
    'node type, count, avg_ms, avg %, cdf %, mem KB, times called\n'
    'TfLiteXNNPackDelegate, 1, 0.81, 100%, 100%, 0, 1\n\n'
    'Timings (microseconds): count=50 first=81 curr=81 min=80 max=90 avg=81\n'
    'Memory (bytes): count=0\n1 nodes observed\n\n'
    'Delegate internal: \n'
    + csv_table('Run Order', inner, start)
    + csv_table('Top by Computation Time', reversed(inner), start)
  )
  assert benchmark_output.parse_csv(text, 50) == [
    OperationTime(kind, average, 50) for kind, average, _ in inner
  ]


def test_both_packages_describe_the_same_message():
  """In a process of its own: together they cannot be loaded."""
  fields = (
    'sorted((m.name, f.name, f.number, f.type) '
    'for m in file.message_types_by_name.values() for f in m.fields)'
  )
  code = (
    'from ai_edge_litert import profiling_info_pb2;'
    f'file = profiling_info_pb2.DESCRIPTOR; print({fields})'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  file = benchmark_output.profile_message().DESCRIPTOR.file
  ours = eval(fields, {'file': file, 'sorted': sorted})
  assert done.stdout.strip() == repr(ours)


def test_csv_that_is_none():
  with pytest.raises(UserError, match='without operations'):
    benchmark_output.parse_csv('ERROR: no such flag', 1)
  broken = csv_table('Run Order', [('CONV_2D', 'fast', 'x')])
  with pytest.raises(UserError, match='cannot be read'):
    benchmark_output.parse_csv(broken, 1)


# --- choosing a phone ---------------------------------------------------------

HEAD = 'List of devices attached\n'


@pytest.mark.parametrize(
  ('listing', 'serial', 'found'),
  [
    ('A1\tdevice\n', '', 'A1'),
    ('A1\tdevice\nB2\tdevice\n', 'B2', 'B2'),
    ('A1\tunauthorized\nB2\tdevice\n', 'B2', 'B2'),
  ],
)
def test_phone_is_chosen(listing, serial, found):
  assert choose_phone(HEAD + listing, serial) == found


@pytest.mark.parametrize(
  ('listing', 'serial', 'said'),
  [
    ('', '', 'no phone is attached'),
    ('A1\tdevice\nB2\toffline\n', '', r'several.*A1 \(device\), B2 \(offline'),
    ('A1\tdevice\n', 'C3', "'C3', which is not attached; attached: A1"),
    ('', 'C3', 'attached: none'),
    ('A1\tunauthorized\n', '', 'unlock it and allow USB debugging'),
    ('A1\toffline\n', 'A1', "'offline'"),
    ('A1\tno permissions (udev rules); see [http]\n', '', 'no permissions'),
  ],
)
def test_phone_is_refused(listing, serial, said):
  with pytest.raises(UserError, match=said):
    choose_phone(HEAD + listing, serial)


# --- adb ----------------------------------------------------------------------

# Stands in for adb and the phone behind it: `push` and `pull` copy files into a
# folder, `shell` answers as Android would.
STAND_IN = """\
#!{python}
import os, pathlib, re, shutil, sys, time
phone = pathlib.Path({phone!r})
what = sys.argv[1:]
with open(phone / 'log', 'a') as log:
  log.write(' '.join(what) + '\\n')
if what[0] == 'devices':
  print('List of devices attached\\nP1\\tdevice\\n')
  sys.exit()
assert what[:2] == ['-s', 'P1']
what = what[2:]
local = lambda path: phone / path.strip('/').replace('/', '|')
broken = (phone / 'broken').read_text() if (phone / 'broken').exists() else ''
if what[0] == 'push':
  if broken == 'push':
    sys.exit('adb: error: failed to copy: No space left on device')
  shutil.copy(what[1], local(what[2]))
elif what[0] == 'pull':
  if not local(what[1]).exists():
    sys.exit('adb: error: failed to stat remote object')
  shutil.copy(local(what[1]), what[2])
elif what[1] == 'getprop':
  print('[ro.product.model]: [Pixel 8]\\r\\n[ro.product.cpu.abi]: [arm64-v8a]')
  print('[ro.build.version.release]: [15]\\n[empty]: []')
elif what[1].startswith('rm -rf'):
  for file in phone.glob(what[1].split()[2].strip('/').replace('/', '|') + '*'):
    file.unlink()
elif what[1].startswith('test -s'):
  print('there' if local(what[1].split()[2]).exists() else 'none')
elif broken == 'conditions' and what[1].startswith(('dumpsys', 'cat')):
  sys.exit(1)  # As `cat` does where governors may not be read.
elif what[1].startswith('dumpsys'):
  print('  level: 80\\n  temperature: 285')
elif what[1].startswith('cat'):
  print('schedutil\\nschedutil')
elif '/benchmark_model' in what[1] and not what[1].startswith('chmod'):
  if broken == 'hang':
    time.sleep(60)
  if broken == 'garbage':
    sys.exit(print('CANNOT LINK EXECUTABLE') or 0)
  if broken == 'gone':
    sys.exit("error: device 'P1' not found")
  flags = dict(re.findall(r'--(\\w+)=(\\S+)', what[1]))
  size = local(flags['graph']).stat().st_size
  if broken == 'strict' and 'op_profiling_output_mode' in flags:
    sys.exit('unknown flag')
  # It knows the flags for which the phone's folder has a file to give.
  for flag, mode in (
    ('op_profiling_output_file', flags.get('op_profiling_output_mode')),
    ('profiling_output_csv_file', 'old'),
  ):
    if flag in flags and (phone / f'profile.{{mode}}').exists():
      shutil.copy(phone / f'profile.{{mode}}', local(flags[flag]))
    elif flag in flags:
      print(f'WARN: Unconsumed cmdline flags: --{{flag}}')
  print('Inference timings in us: Init: 1, First inference: 2, Warmup (avg): '
        f'3, Inference (avg): {{size}}.5')
"""


@pytest.fixture
def phone(tmp_path, monkeypatch):
  """Folder of a phone that the program adb, first on the path, talks to."""
  folder, path = tmp_path / 'phone', tmp_path / 'bin'
  folder.mkdir()
  path.mkdir()
  program = path / 'adb'
  program.write_text(STAND_IN.format(python=sys.executable, phone=str(folder)))
  program.chmod(program.stat().st_mode | stat.S_IEXEC)
  monkeypatch.setenv('PATH', f'{path}{os.pathsep}{os.environ["PATH"]}')
  return folder


@pytest.fixture
def binary(tmp_path) -> str:
  file = tmp_path / 'benchmark_model'
  file.write_text('a program')
  return str(file)


def attach(binary: str, **settings) -> AdbDevice:
  return AdbDevice(benchmark_model=binary, cooldown_seconds=0.0, **settings)


def left_on(phone) -> list[str]:
  return [p.name for p in phone.iterdir() if 'spnas' in p.name]


def test_adb_measures_and_tidies_up(phone, binary, model):
  device = attach(binary, threads=2)
  assert device.describe()['device'] == {
    'kind': 'adb',
    'model': 'Pixel 8',
    'abi': 'arm64-v8a',
  }
  assert device.describe()['software']['android'] == '15'
  conditions = device.conditions()
  assert conditions['battery_celsius'] == 28.5
  assert conditions['governors'] == ['schedutil'] * 2
  timings = device.measure(
    {'a': model, 'b': model + b'1234'},
    warmup_runs=3,
    rounds=2,
    runs_per_round=7,
  )
  size = len(model)
  assert timings['a'].ms == pytest.approx((size + 0.5) / 1000)
  assert timings['b'].ms == pytest.approx((size + 4.5) / 1000)
  assert left_on(phone) == []
  log = (phone / 'log').read_text()
  assert log.count(' push ') == 3  # The program and each model once.
  for flag in ('num_threads=2', 'num_runs=7', 'warmup_runs=3'):
    assert f'--{flag}' in log


@pytest.mark.parametrize(
  ('how', 'said'),
  [
    ('push', 'No space left on device'),
    ('hang', r'no answer in 0\.5 s'),
    ('garbage', 'CANNOT LINK EXECUTABLE'),
    ('gone', "'P1' not found"),
  ],
)
def test_adb_failures_are_one_line_and_leave_nothing(
  phone, binary, model, how, said
):
  device = attach(binary, timeout_seconds=0.5 if how == 'hang' else 60.0)
  (phone / 'broken').write_text(how)
  with pytest.raises(UserError, match=said) as error:
    device.measure({'a': model}, warmup_runs=0, rounds=1, runs_per_round=1)
  assert '\n' not in str(error.value)
  assert left_on(phone) == []


def test_adb_operation_times(phone, binary, model):
  device = attach(binary)
  (phone / 'profile.csv').write_text(
    csv_table('Run Order', [('ADD', 0.25, 'x:0')])
  )
  assert device.operation_times(model, 9) == [OperationTime('ADD', 0.25, 9)]
  (phone / 'profile.proto').write_bytes(profile_proto([('ADD', [500])]))
  assert device.operation_times(model, 9) == [OperationTime('ADD', 0.5, 1)]
  assert left_on(phone) == []


@pytest.mark.parametrize('broken', ['', 'strict'])
def test_operation_times_of_a_program_that_knows_the_older_flag_only(
  phone, binary, model, broken
):
  (phone / 'broken').write_text(broken)
  (phone / 'profile.old').write_text(
    csv_table('Run Order', [('ADD', 0.25, 'x:0')])
  )
  device = attach(binary)
  assert device.operation_times(model, 9) == [OperationTime('ADD', 0.25, 9)]
  assert left_on(phone) == []


@pytest.mark.parametrize(
  ('broken', 'said'),
  [
    ('', 'knows no flag'),
    ('push', 'No space left on device'),
    ('gone', "'P1' not found"),
    ('hang', r'no answer in 0\.5 s'),
  ],
)
def test_no_operation_times_are_a_line_and_no_error(
  phone, binary, model, capsys, broken, said
):
  (phone / 'broken').write_text(broken)
  device = attach(binary, timeout_seconds=0.5 if broken == 'hang' else 60.0)
  assert device.operation_times(model, 9) == []
  (line,) = capsys.readouterr().out.splitlines()
  assert re.search(said, line)
  assert left_on(phone) == []


@pytest.mark.parametrize(
  'content', [b'', b'no protobuf, no table', b'===== Run Order =====\na\nb,c']
)
def test_a_damaged_profile_is_no_error(phone, binary, model, capsys, content):
  for mode in ('proto', 'csv', 'old'):
    (phone / f'profile.{mode}').write_bytes(content)
  assert attach(binary).operation_times(model, 9) == []
  assert 'left out' in capsys.readouterr().out


def test_conditions_that_cannot_be_read_are_no_error(phone, binary):
  (phone / 'broken').write_text('conditions')
  conditions = attach(binary).conditions()
  assert conditions['battery_celsius'] is None
  assert conditions['governors'] == []


def test_adb_needs_its_program(tmp_path):
  for path in ('', str(tmp_path / 'nothing'), str(tmp_path)):
    with pytest.raises(UserError, match=r'profile\.benchmark_model is'):
      attach(path)


def test_without_adb(binary, monkeypatch, tmp_path):
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(UserError, match='apt-get install adb'):
    attach(binary)


@pytest.mark.skipif(shutil.which('adb') is None, reason='adb is not installed')
def test_real_adb_without_a_phone(binary, monkeypatch, tmp_path):
  # A server of its own, so that one in use here is neither seen nor stopped.
  monkeypatch.setenv('ANDROID_ADB_SERVER_PORT', '15037')
  monkeypatch.setenv('HOME', str(tmp_path))  # It keeps keys and a socket.
  try:
    listing = device_adb._adb('devices')
    if '\t' in listing:
      pytest.skip('a phone is attached')
    with pytest.raises(UserError, match='no phone is attached'):
      attach(binary)
    with pytest.raises(UserError, match="'none', which is not attached"):
      attach(binary, serial='none')
    with pytest.raises(UserError, match=r"adb none shell .* failed: .*'none'"):
      device_adb._adb('-s', 'none', 'shell', 'ls')
  finally:
    subprocess.run(['adb', 'kill-server'], capture_output=True, check=False)
