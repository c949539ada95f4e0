"""What is only nice to have (curves, pictures, the load) never costs a result.

Operation times and conditions of phones are in test_device_adb.py.
"""

import errno
import os
import pathlib
import subprocess

import fake_device
import numpy as np
import pytest
import tiny_run
from fake_device import FakeDevice
from fake_workdir import fill, small_config

from spnas_jax.config.workdir import Workdir
from spnas_jax.latency import devices
from spnas_jax.latency.host import HostDevice
from spnas_jax.report import figures, network_figures, sections
from spnas_jax.stages import profile, report, validate_table
from spnas_jax.training import events
from spnas_jax.training.events import Drawn, event_writer

ROOT = pathlib.Path(__file__).resolve().parents[1]

FULL = OSError(errno.ENOSPC, 'No space left on device')


def refuse(*args, **kwargs):
  raise FULL


# --- event files --------------------------------------------------------------


class Writer:
  """Fails in one of its methods."""

  def __init__(self, fails: str):
    self.fails, self.calls = fails, []

  def __getattr__(self, name):
    def call(*args):
      self.calls.append(name)
      if name == self.fails:
        raise FULL

    return call


@pytest.mark.parametrize(
  'fails', ['write_scalars', 'write_histograms', 'write_hparams', 'close']
)
def test_events_that_fail_are_one_line(monkeypatch, tmp_path, capsys, fails):
  writer = Writer(fails)
  monkeypatch.setattr(events, '_open', lambda *args: writer)
  with event_writer('train', Workdir(tmp_path)) as writes:
    for step in (1, 2):
      writes.scalars(step, {'loss': 1.0})
      writes.draw(step, lambda: Drawn({'gates': np.zeros(3)}))
      writes.settings({'seed': 0})
  # A writer that has failed is not asked again.
  assert writer.calls.count(fails) == 1
  (line,) = capsys.readouterr().out.splitlines()
  assert line.startswith('train: continues without event files')
  assert 'No space left on device' in line


def test_events_that_work_are_silent(monkeypatch, tmp_path, capsys):
  writer = Writer('')
  monkeypatch.setattr(events, '_open', lambda *args: writer)
  with (
    pytest.raises(KeyError),
    event_writer('train', Workdir(tmp_path)) as writes,
  ):
    writes.scalars(1, {'loss': 1.0})
    raise KeyError
  assert writer.calls == ['write_scalars', 'close']
  assert capsys.readouterr().out == ''


def test_a_folder_that_cannot_be_made_costs_the_events_only(tmp_path, capsys):
  """The real writer, in whose folder's place there is a file."""
  workdir = Workdir(tmp_path)
  workdir.write('train/events', 'in the way')
  with event_writer('train', workdir) as writes:
    writes.scalars(1, {'loss': 1.0})
  assert 'continues without event files' in capsys.readouterr().out


def test_a_drawing_that_fails_costs_the_events_only(
  monkeypatch, tmp_path, capsys
):
  writer = Writer('')
  monkeypatch.setattr(events, '_open', lambda *args: writer)
  with event_writer('train', Workdir(tmp_path)) as writes:
    writes.draw(1, refuse)
    writes.scalars(1, {'loss': 1.0})
  assert writer.calls == []
  assert 'No space left on device' in capsys.readouterr().out


# --- pictures -----------------------------------------------------------------


def test_a_picture_that_fails_is_left_out_of_the_page(monkeypatch, tmp_path):
  config = small_config()
  workdir = fill(config, tmp_path)
  monkeypatch.setattr(network_figures, 'layer_times', refuse)
  names = report.run(config, workdir)['figures']
  assert 'report/network.png' in names
  assert 'report/layer_times.png' not in names
  page = (workdir / 'report/index.html').read_text()
  assert 'The picture layer_times is left out' in page


def test_curves_that_cannot_be_read_are_left_out(monkeypatch, tmp_path):
  config = small_config()
  workdir = fill(config, tmp_path)
  monkeypatch.setattr(sections.report_data, '_read_curves', refuse)
  names = report.run(config, workdir)['figures']
  assert 'report/train_learning.png' not in names
  page = (workdir / 'report/index.html').read_text()
  assert 'What train logged is left out' in page


def test_a_validation_stands_without_its_picture(monkeypatch, tmp_path, capsys):
  from spnas_jax.stages import build_table

  device = FakeDevice()
  fake_device.install(monkeypatch, device)
  c = small_config()
  c.build_table.update(rounds=1, calibration_networks=0)
  c.validate_table.update(rounds=1, num_networks=2)
  build_table.run(c, Workdir(tmp_path))
  c.latency_table = str(tmp_path / 'latency_table.json')
  monkeypatch.setattr(figures, 'predicted_measured', refuse)
  assert validate_table.run(c, Workdir(tmp_path))['num_networks'] == 2
  assert 'the picture is left out' in capsys.readouterr().out
  assert 'validate_table' in Workdir(tmp_path).results()


# --- conditions ---------------------------------------------------------------


@pytest.mark.parametrize('trouble', [OSError, AttributeError])
def test_load_that_cannot_be_read_is_none(monkeypatch, trouble):
  def fail():
    raise trouble

  monkeypatch.setattr(os, 'getloadavg', fail)
  assert devices.load_average() is None
  assert HostDevice().conditions() == {'load_1_min': None}


def test_operations_are_asked_for_after_the_times(monkeypatch, tmp_path):
  """A phone that goes in the middle has lost nothing that was measured."""
  order = []
  device = FakeDevice()
  device.tells_operations = True
  fake_device.install(monkeypatch, device)
  monkeypatch.setattr(
    device,
    'operation_times',
    lambda *args: order.append(len(device.taken)) or [],
  )
  c = tiny_run.config(profile__rounds=1)
  arch = profile.Architecture.from_string(
    'stem_k3_s2_i1_c8 ir_r1_k3_s1_e2_c8 fc_c10'
  )
  model = profile.network_tflite(arch, 12, None)
  monkeypatch.setattr(
    profile, 'read_exported', lambda w: (arch, 12, {'model.tflite': model})
  )
  Workdir(tmp_path).record('export', {'inputs': {}})
  result = profile.run(c, Workdir(tmp_path))
  assert order == [2]  # The file and the bare network.
  assert result['operations'] == []
  assert [row['measured_ms'] for row in result['layers']] == [None] * 3
  assert result['median_ms'] > 0
  # There is no int8 file here.
  assert result['median_ms_int8'] is result['spread_ms_int8'] is None


def test_nothing_large_is_tracked():
  """A download that lay in the checkout was committed once. Pictures and tables
  of results are below half a megabyte."""
  listed = subprocess.run(
    ['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, check=False
  )
  names = [name for name in listed.stdout.decode().split('\0') if name]
  if not names:
    pytest.skip('not a git checkout')
  large = [n for n in names if (ROOT / n).stat().st_size > 500_000]
  assert not large and not [n for n in names if n.endswith('.whl')]
