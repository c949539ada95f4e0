"""Phones: which one, what is measured on it, and what goes wrong."""

import os
import re
import shutil
import stat
import subprocess
import sys

import pytest
from fake_phone import STAND_IN, csv_table, profile_proto

from spnas_jax.config.defaults import default_config
from spnas_jax.core.errors import UserError
from spnas_jax.export import tflite
from spnas_jax.latency import adb as device_adb
from spnas_jax.latency.adb import AdbDevice, choose_phone
from spnas_jax.latency.devices import OperationTime
from spnas_jax.latency.open_device import open_device


@pytest.fixture(scope='module')
def model() -> bytes:
  return tflite.convert(lambda x: x + 1, (1, 4, 4, 2))


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


def test_delegate_and_cores(phone, binary, model):
  """The program's own flags; a table of a GPU is not one of the CPU."""
  device = attach(binary, delegate='gpu', cpu_mask='f0')
  device.measure({'a': model}, warmup_runs=0, rounds=1, runs_per_round=1)
  log = (phone / 'log').read_text()
  assert '--use_gpu=true' in log and 'xnnpack' not in log
  assert re.search(r'shell taskset f0 \S+/benchmark_model ', log)
  facts = device.describe()['device']
  assert (facts['delegate'], facts['cpu_mask']) == ('gpu', 'f0')
  assert device.fallback is not None and device.fallback.count is None
  plain = attach(binary, delegate='none')
  plain.measure({'a': model}, warmup_runs=0, rounds=1, runs_per_round=1)
  assert '--use_xnnpack=false' in (phone / 'log').read_text()
  assert plain.fallback is None


@pytest.mark.parametrize(
  ('device', 'changes', 'said'),
  [
    ('adb', {'adb_cpu_mask': 'f0; reboot'}, 'adb_cpu_mask.*hexadecimal'),
    ('host', {'delegate': 'gpu'}, "delegate is 'gpu', must be 'xnnpack'"),
    (
      'ssh',
      {'delegate': 'nnapi', 'ssh_host': 'x'},
      'for the Python behind ssh',
    ),
  ],
)
def test_placements_that_are_refused(device, changes, said):
  """Before anything is run, and nothing of it reaches a shell."""
  config = default_config()
  config.device = device
  config.profile.update(changes)
  with pytest.raises(UserError, match=said):
    open_device(config)


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
