import numpy as np
import pytest
from fake_events import write_events
from tensorboard.compat.proto import event_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from spnas_jax.report.history import read_curves


def test_reads_what_the_metric_writer_writes(tmp_path):
  from clu import metric_writers

  writer = metric_writers.SummaryWriter(str(tmp_path))
  writer.write_scalars(10, {'loss': 2.5, 'lambda': 0.0})
  writer.write_scalars(20, {'loss': 1.25, 'lambda': -3.0})
  writer.write_histograms(20, {'gates': np.arange(5.0)})
  writer.close()
  curves = read_curves(tmp_path)
  assert set(curves) == {'loss', 'lambda'}
  np.testing.assert_array_equal(curves['loss'].steps, [10, 20])
  np.testing.assert_array_equal(curves['loss'].values, [2.5, 1.25])
  np.testing.assert_array_equal(curves['lambda'].values, [0.0, -3.0])


def test_last_value_wins_after_a_resume(tmp_path):
  write_events(
    tmp_path, '100.host', [(10, 'loss', 3), (20, 'loss', 2), (30, 'loss', 9)]
  )
  write_events(tmp_path, '200.host', [(30, 'loss', 1), (40, 'loss', 0.5)])
  curve = read_curves(tmp_path)['loss']
  np.testing.assert_array_equal(curve.steps, [10, 20, 30, 40])
  np.testing.assert_array_equal(curve.values, [3, 2, 1, 0.5])


def test_last_value_wins_within_a_file(tmp_path):
  write_events(tmp_path, '1', [(20, 'a', 1), (10, 'a', 2), (20, 'a', 3)])
  curve = read_curves(tmp_path)['a']
  np.testing.assert_array_equal(curve.steps, [10, 20])
  np.testing.assert_array_equal(curve.values, [2, 3])


def test_no_folder_and_no_files(tmp_path):
  assert read_curves(tmp_path / 'absent') == {}
  assert read_curves(tmp_path) == {}


@pytest.mark.parametrize('cut', [1, 5, 17])
def test_a_half_written_record_ends_the_file(tmp_path, cut):
  path = write_events(tmp_path, '1', [(10, 'a', 1), (20, 'a', 2)])
  path.write_bytes(path.read_bytes()[:-cut])
  np.testing.assert_array_equal(read_curves(tmp_path)['a'].steps, [10])


def test_damage_spoils_only_the_rest_of_its_file(tmp_path):
  path = write_events(tmp_path, '1', [(10, 'a', 1)])
  with path.open('ab') as file:
    RecordWriter(file).write(b'\xff\xff\xff not an event')
  write_events(tmp_path, '2', [(20, 'a', 2)])
  np.testing.assert_array_equal(read_curves(tmp_path)['a'].steps, [10, 20])


def test_plain_old_scalars_and_gaps(tmp_path):
  with (tmp_path / 'events.out.tfevents.1').open('wb') as file:
    event = event_pb2.Event(step=3)
    event.summary.value.add(tag='old', simple_value=0.5)
    event.summary.value.add(tag='gap', simple_value=float('nan'))
    RecordWriter(file).write(event.SerializeToString())
  curves = read_curves(tmp_path)
  assert curves['old'].values[0] == 0.5
  assert np.isnan(curves['gap'].values[0])
