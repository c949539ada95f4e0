"""Ranges of an int8 model that calibration has left too narrow to run.

A map that was 0 on every calibration image (the squeeze of a squeeze-and-
excitation whose ReLU is dead) gets the range [-1e-6, 1e-6]. Its scale is then
thousands of times finer than one step of the sum it is computed from. XNNPACK
does not take such an operation, and some versions free memory twice on the way
out, which ends the process.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np

from spnas_jax.export import tflite

# The converter makes a range of no width this wide: 2e-6 over 255 steps.
_NO_WIDTH = 1e-8
# XNNPACK's limit on steps of a map per step of the sum. Beyond it the smallest
# possible sum overflows the eight bits: the map holds nothing but rounding.
_STEPS_LIMIT = 256.0
# Operations that add up products and have a bias in units of the products.
_SUMS = ('CONV_2D', 'DEPTHWISE_CONV_2D', 'FULLY_CONNECTED')


class NarrowRange(UserWarning):
  """Some ranges were a guess; `layers` names where.

  Attributes:
    layers: such as 'block01/squeeze'.
  """

  def __init__(self, layers: tuple[str, ...]):
    self.layers = layers
    super().__init__(
      f'int8: {", ".join(layers)} gave nothing but 0 on the calibration '
      'images, so the range of its numbers is a guess; raise '
      'export.calibration_images, train longer, or leave squeeze-and-'
      'excitation out'
    )


def widen(model: bytes) -> bytes:
  """Gives ranges that are too narrow the width of their operation's input.

  Integers keep their meaning where they had one: zero points stay, so 0 stays
  0, and biases that were in units of a changed scale are written in the new
  unit. A model without such ranges is returned unchanged.

  Args:
    model: an int8 model as the converter makes it.

  Returns:
    The model. Where it was changed, a `NarrowRange` warning says so.
  """
  root, codes = tflite.unpack(model)
  graph = root.subgraphs[0]
  before: dict[int, np.ndarray] = {}  # Of the tensors that were changed.
  for operator in graph.operators:
    first, output = operator.inputs[0], operator.outputs[0]
    name, target = codes[operator.opcodeIndex], graph.tensors[output]
    scale = _scale(target)
    if name in _SUMS and first in before:
      _rescale_bias(root, operator)
    # An operation that only moves numbers (RESHAPE) must keep their scale.
    moved = first in before and np.array_equal(scale, before[first])
    if moved or _too_narrow(graph, operator, name):
      before[output] = scale
      target.quantization.scale = graph.tensors[first].quantization.scale.copy()
  if not before:
    return model
  names = (layer_name(graph.tensors[i].name.decode()) for i in sorted(before))
  warnings.warn(NarrowRange(tuple(dict.fromkeys(names))), stacklevel=2)
  return tflite.pack(root)


def _too_narrow(graph: Any, operator: Any, name: str) -> bool:
  scales = [
    _scale(graph.tensors[i]) for i in (operator.inputs[0], operator.outputs[0])
  ]
  if not all(len(scale) for scale in scales):
    return False
  limit = scales[1].min()
  if limit < _NO_WIDTH:
    return True
  return name in _SUMS and (
    _unit(graph, operator).max() >= _STEPS_LIMIT * limit
  )


def _unit(graph: Any, operator: Any) -> np.ndarray:
  """What a step of an operation's sums is worth, [channels] or [1]."""
  source, weights = (_scale(graph.tensors[i]) for i in operator.inputs[:2])
  return source * weights


def _rescale_bias(root: Any, operator: Any) -> None:
  """Writes an operation's bias in the unit of its changed input."""
  graph = root.subgraphs[0]
  if len(operator.inputs) < 3 or operator.inputs[2] < 0:
    return
  bias = graph.tensors[operator.inputs[2]]
  unit = _unit(graph, operator)
  values = np.frombuffer(bytes(root.buffers[bias.buffer].data), np.int32)
  limits = np.iinfo(np.int32)
  values = np.rint(values * (_scale(bias) / unit))
  values = values.clip(limits.min, limits.max).astype(np.int32)
  # A buffer of its own: equal constants share one.
  root.buffers.append(type(root.buffers[bias.buffer])())
  root.buffers[-1].data = np.frombuffer(values.tobytes(), np.uint8)
  bias.buffer = len(root.buffers) - 1
  bias.quantization.scale = unit.astype(np.float32)


def _scale(tensor: Any) -> np.ndarray:
  """Scales of a tensor as float64: one, one per channel, or none."""
  quantization = tensor.quantization
  if quantization is None or quantization.scale is None:
    return np.zeros(0)
  return np.asarray(quantization.scale, np.float64)


def layer_name(tensor: str) -> str:
  """'block01/squeeze' of a tensor's long name; without one, the name itself."""
  found = re.search(r'ConvNet/([^;]+)/[^/;]+', tensor)
  return found[1] if found else tensor
