"""Event files as TensorBoard reads them."""

from tensorboard.compat.proto import event_pb2
from tensorboard.summary.writer.record_writer import RecordWriter


def write_events(folder, name, points):
  """An event file with (step, tag, value) in this order."""
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / f'events.out.tfevents.{name}'
  with path.open('wb') as file:
    writer = RecordWriter(file)
    first = event_pb2.Event(file_version='brain.Event:2')
    writer.write(first.SerializeToString())
    for step, tag, value in points:
      event = event_pb2.Event(step=step)
      entry = event.summary.value.add(tag=tag)
      entry.tensor.dtype = 1
      entry.tensor.float_val.append(value)
      writer.write(event.SerializeToString())
  return path
