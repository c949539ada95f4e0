"""Reading what benchmark_model prints and writes."""

import subprocess
import sys

import pytest
from fake_phone import csv_table, profile_proto

from spnas_jax.core.errors import UserError
from spnas_jax.latency import benchmark_output
from spnas_jax.latency.devices import OperationTime

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


GPU = """\
INFO: Created TensorFlow Lite delegate for GPU.
ERROR: Following operations are not supported by GPU delegate:
CAST: Operation is not supported.
SPLIT_V: OP is supported, but tensor type/shape isn't compatible.
29 operations will run on the GPU, and the remaining 2 operations will run on \
the CPU.
INFO: Replacing 29 out of 31 node(s) with delegate (TfLiteGpuDelegateV2) \
node, yielding 3 partitions for the whole graph.
"""


@pytest.mark.parametrize(
  ('text', 'count', 'names'),
  [
    (GPU, 2, ('CAST', 'SPLIT_V')),
    ('INFO: Replacing 31 out of 31 node(s) with delegate (X) node', 0, ()),
    ('Inference timings in us: Init: 1', None, ()),
    (
      'INFO: Following operations are not supported by GPU delegate:\n',
      None,
      (),
    ),
  ],
)
def test_what_fell_back_is_counted_and_named(text, count, names):
  """As the GPU's delegate and the runtime print it."""
  found = benchmark_output.parse_fallback(text)
  assert (found.count, found.names) == (count, names)
