"""Reads what Android's `benchmark_model` prints and writes.

All its times are in microseconds, except that the CSV says milliseconds.
"""

from __future__ import annotations

import math
import re
from typing import Any

from spnas_jax.core.console import last_line
from spnas_jax.core.errors import UserError
from spnas_jax.core.tensorflow_setup import load_tensorflow
from spnas_jax.latency.devices import Fallback, OperationTime

_UNIT = re.compile(r'timings in (\w+):')
_AVERAGE = re.compile(r'Inference \(avg\): ([0-9.]+(?:e[+-]?[0-9]+)?)')


def parse_average(text: str) -> float:
  """Mean time of an inference, ms, from the tool's screen output.

  Raises:
    UserError: there is none in it, or it is in another unit.
  """
  for unit in _UNIT.findall(text):
    if unit != 'us':
      raise UserError(
        f'benchmark_model gives its timings in {unit!r}; expected is output '
        "in 'us', microseconds"
      )
  found = _AVERAGE.findall(text)
  if not found or not 0 < float(found[-1]) < math.inf:
    raise UserError(f'benchmark_model gave no time: {last_line(text)}')
  return float(found[-1]) / 1000


def parse_fallback(text: str) -> Fallback:
  """What the tool says of a delegate and of what it did not take.

  The runtime says 'Replacing 29 out of 31 node(s) with delegate', the GPU's
  delegate 'the remaining 2 operations will run on the CPU' and, before that, a
  line for each kind that it does not know. LiteRT's newer interface says only
  whether everything runs there.
  """
  count = 0 if 'Fully accelerated: True' in text else None
  replaced = re.findall(r'Replacing (\d+) out of (\d+) node', text)
  if replaced:
    count = int(replaced[-1][1]) - int(replaced[-1][0])
  if left := re.findall(r'the remaining (\d+) operations? will run', text):
    count = int(left[-1])
  names: dict[str, None] = {}
  listed = False
  for line in text.splitlines():
    if 'are not supported by' in line:
      listed = True
    elif listed and (kind := re.match(r'\s*([A-Z][A-Z0-9_]+):', line)):
      names[kind[1]] = None
    else:
      listed = False
  return Fallback(count, tuple(names))


def parse_proto(content: bytes) -> list[OperationTime]:
  """Operation times from `--op_profiling_output_mode=proto`.

  Raises:
    UserError: it is not such a file, or holds no operations.
  """
  from google.protobuf.message import DecodeError

  try:
    data = profile_message().FromString(content)
  except DecodeError as e:
    raise UserError(
      f'benchmark_model wrote a profile that is no protobuf ({e})'
    ) from e

  def read(profiles) -> list[OperationTime]:
    return [
      OperationTime(
        name=p.node_type,
        # `avg` is rounded to whole microseconds.
        mean_ms=p.inference_microseconds.sum
        / max(p.inference_microseconds.count, 1)
        / 1000,
        count=p.inference_microseconds.count,
      )
      for p in sorted(profiles, key=lambda p: p.run_order)
    ]

  graphs = data.runtime_profile.subgraph_profiles
  delegates = data.runtime_profile.delegate_profiles
  return _innermost(
    read(graphs[0].per_op_profiles) if graphs else [],
    [read(d.per_op_profiles) for d in delegates],
  )


def profile_message() -> Any:
  """The protobuf class of a profile.

  TensorFlow's: ai_edge_litert has the same message under another file name, and
  a process can load only one of the two. The converter needs TensorFlow.
  """
  load_tensorflow()
  from tensorflow.lite.profiling.proto import profiling_info_pb2

  return profiling_info_pb2.BenchmarkProfilingData


def parse_csv(text: str, runs: int) -> list[OperationTime]:
  """Operation times from `--op_profiling_output_mode=csv`.

  The file is a sequence of tables with a title each. Names may contain commas,
  unquoted; the columns between the first and the last hold numbers only.

  Args:
    text: the file.
    runs: inferences in the means, which the file does not say.

  Raises:
    UserError: it holds no operations.
  """
  # The tables before this line are about loading the model.
  text = text.rpartition('Operator-wise Profiling Info')[2]
  graph: list[OperationTime] = []
  delegates: list[list[OperationTime]] = []
  target: list[OperationTime] | None = None
  columns: list[str] = []
  in_delegate = False
  for line in text.splitlines():
    if line.startswith('Delegate internal'):
      in_delegate = True
    elif line.startswith('====='):
      target, columns = None, []
      if 'Run Order' in line:
        target = [] if in_delegate else graph
        if in_delegate:
          delegates.append(target)
    elif target is not None and not columns:
      columns = [name.strip() for name in line.split(',')]
    elif target is not None and line.strip():
      middle = len(columns) - 2
      match = re.fullmatch(
        rf'(.*?)((?:,\s*[-+0-9.enaif]+%?){{{middle}}}),(.*)', line.strip()
      )
      if match is None or 'avg_ms' not in columns:
        raise UserError(
          f'benchmark_model wrote a line that cannot be read: {line!r}'
        )
      values = [v.strip() for v in match[2].split(',')[1:]]
      target.append(
        OperationTime(
          name=match[1].strip(),
          mean_ms=float(values[columns.index('avg_ms') - 1]),
          count=runs,
        )
      )
  return _innermost(graph, delegates)


def _innermost(
  graph: list[OperationTime], delegates: list[list[OperationTime]]
) -> list[OperationTime]:
  """A delegate's operations where it runs the whole graph, else the graph's."""
  if len(graph) == len(delegates) == 1 and delegates[0]:
    return delegates[0]
  if not graph:
    raise UserError('benchmark_model wrote a profile without operations')
  return graph
