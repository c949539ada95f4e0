"""A computer behind ssh: a real sshd on loopback, and what can fail."""

import ctypes.util
import getpass
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from spnas_jax.core.errors import UserError
from spnas_jax.export import tflite
from spnas_jax.latency import benchmark_output
from spnas_jax.latency.ssh import TIMER, SshDevice

SSHD = shutil.which('sshd') or '/usr/sbin/sshd'
needs_sshd = pytest.mark.skipif(
  not (pathlib.Path(SSHD).exists() and shutil.which('ssh-keygen')),
  reason='needs the OpenSSH server',
)


@pytest.fixture(scope='module')
def model() -> bytes:
  return tflite.convert(lambda x: x * 2 + 1, (1, 16, 16, 8))


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  """An sshd of this user's own on loopback; a configuration with host `pi`."""
  folder = tmp_path_factory.mktemp('sshd')
  for name in ('host', 'own'):
    subprocess.run(
      ['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', folder / name],
      check=True,
    )
  shutil.copy(folder / 'own.pub', folder / 'authorized')
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  (folder / 'sshd_config').write_text(
    f'Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\n'
    f'AuthorizedKeysFile {folder}/authorized\nPidFile {folder}/pid\n'
    'StrictModes no\nUsePAM no\nPasswordAuthentication no\n'
  )
  (folder / 'config').write_text(
    f'Host pi gone nokey\n  HostName 127.0.0.1\n  User {getpass.getuser()}\n'
    f'  UserKnownHostsFile {folder}/known\n  StrictHostKeyChecking no\n'
    f'Host pi\n  Port {port}\n  IdentityFile {folder}/own\n'
    f'  IdentitiesOnly yes\nHost gone\n  Port 1\n'
    f'Host nokey\n  Port {port}\n  IdentityFile {folder}/host\n'
    '  IdentitiesOnly yes\n'
  )
  pathlib.Path('/run/sshd').mkdir(exist_ok=True)
  process = subprocess.Popen(
    [SSHD, '-D', '-e', '-f', folder / 'sshd_config'],
    stderr=(folder / 'log').open('w'),
  )
  end = time.monotonic() + 20
  while time.monotonic() < end:
    with socket.socket() as probe:
      if probe.connect_ex(('127.0.0.1', port)) == 0:
        break
    time.sleep(0.1)
  yield str(folder / 'config')
  process.terminate()
  process.wait()


def connect(server: str, **settings) -> SshDevice:
  return SshDevice(
    **{
      'host': 'pi',
      'ssh_config': server,
      'python': sys.executable,
      'cooldown_seconds': 0.0,
      **settings,
    }
  )


def left_behind() -> set[str]:
  return {p.name for p in pathlib.Path('/tmp').glob('spnas_jax_*')}


@needs_sshd
def test_python_there_times_a_model(server, model):
  """The script that goes there really runs the model: a time above 0, facts of
  that computer, and nothing left behind."""
  before = left_behind()
  device = connect(server, threads=2)
  timings = device.measure(
    {'a': model}, warmup_runs=1, rounds=1, runs_per_round=2
  )
  # A few hundred additions: microseconds, however slow the machine is now.
  assert 0 < timings['a'].ms < 100
  facts = device.describe()['device']
  machine = subprocess.run(['uname', '-m'], capture_output=True, text=True)
  assert facts['machine'] == machine.stdout.strip()
  assert facts['kind'] == 'ssh' and int(facts['cores']) > 0 and facts['model']
  assert 'celsius' in device.conditions()
  assert device.operation_times(model, 1) == []
  assert left_behind() == before


SWIFTSHADER = pathlib.Path('/usr/lib/chromium/vk_swiftshader_icd.json')


def timed_here(model, tmp_path, timer, icd) -> subprocess.CompletedProcess:
  """The script that goes there, on this machine with this Vulkan driver."""
  (tmp_path / 'model.tflite').write_bytes(model)
  (tmp_path / 'timer.py').write_text(timer)
  return subprocess.run(
    [
      *(sys.executable, tmp_path / 'timer.py', '--use_gpu=true'),
      *(f'--graph={tmp_path / "model.tflite"}', '--num_runs=2'),
    ],
    capture_output=True,
    text=True,
    env={**os.environ, 'VK_ICD_FILENAMES': str(icd), 'XDG_RUNTIME_DIR': '/tmp'},
  )


def test_a_gpu_there_by_its_interface_on_a_processor(model, tmp_path):
  """The same calls, on a processor: a time, and nothing fell back."""
  timer = TIMER.replace(
    'HardwareAccelerator.GPU | HardwareAccelerator.CPU',
    'HardwareAccelerator.CPU',
  )
  assert timer != TIMER
  done = timed_here(model, tmp_path, timer, '/none')
  assert 0 < benchmark_output.parse_average(done.stdout) < 100
  assert benchmark_output.parse_fallback(done.stdout).count == 0


@pytest.mark.skipif(
  not (SWIFTSHADER.exists() and ctypes.util.find_library('vulkan')),
  reason="needs Chromium's GPU in software and libvulkan.so.1, which finds it",
)
def test_a_gpu_there_waits_for_its_results(tmp_path):
  """A GPU made of software takes long for a large product: were a run over
  when it is handed over, it would take microseconds."""
  large = tflite.convert(lambda x: x @ np.ones((4096, 4096)), (64, 4096))
  done = timed_here(large, tmp_path, TIMER, SWIFTSHADER)
  assert done.returncode == 0, done.stderr
  assert benchmark_output.parse_average(done.stdout) > 1
  assert benchmark_output.parse_fallback(done.stdout).count == 0


def test_no_gpu_there(model, tmp_path):
  done = timed_here(model, tmp_path, TIMER, '/none')
  assert done.returncode == 1
  said = done.stderr.splitlines()[-1]
  assert said.startswith('LiteRT finds no GPU that it can use')
  assert 'libvulkan.so.1' in said, 'says what to install'


@needs_sshd
def test_a_benchmark_model_of_its_own(server, model, tmp_path):
  """The program goes there, is started with the flags, and its words are
  read."""
  program = tmp_path / 'benchmark_model'
  program.write_text(
    '#!/bin/sh\necho "$@" >&2\n'
    'echo "Inference timings in us: Init: 1, First inference: 2, '
    'Warmup (avg): 3, Inference (avg): 1234.5"\n'
  )
  device = connect(server, benchmark_model=str(program))
  timings = device.measure(
    {'a': model}, warmup_runs=0, rounds=2, runs_per_round=1
  )
  assert timings['a'].ms == pytest.approx(1.2345)
  assert device.describe()['software']['runtime'].startswith('benchmark_model')


@needs_sshd
@pytest.mark.parametrize(
  ('settings', 'said'),
  [
    ({'host': ''}, "profile.ssh_host is '', must be a host"),
    ({'host': '-oProxyCommand=x'}, 'must be a host as ssh takes it'),
    ({'host': 'gone'}, "'gone' cannot be reached .*refused"),
    ({'host': 'nokey'}, "'nokey' cannot be reached .*Permission denied"),
    ({'benchmark_model': '/none'}, "benchmark_model is '/none', must be"),
  ],
)
def test_refusals(server, settings, said):
  with pytest.raises(UserError, match=said) as refused:
    connect(server, **settings)
  assert '\n' not in str(refused.value)


@needs_sshd
def test_a_python_without_runtime_says_what_to_install(server, model):
  """The system's own Python has no LiteRT here."""
  device = connect(server, python='/usr/bin/env -i python-that-is-not-there')
  with pytest.raises(UserError, match='failed'):
    device.measure({'a': model}, warmup_runs=0, rounds=1, runs_per_round=1)
  assert not left_behind()


def test_no_ssh_program(monkeypatch, tmp_path):
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(UserError, match='install the OpenSSH client'):
    SshDevice(host='pi')
