"""TFLite models: made from JAX functions, read and run on this machine.

The route is jax2tf (native serialisation) and TensorFlow's converter. Nothing
is rewritten in Keras: batch norm is folded into the convolutions and
activations are fused by the converter itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from spnas_jax.config.rules import PRECISIONS
from spnas_jax.core.tensorflow_setup import load_tensorflow


def convert(
  function: Callable[[Any], Any],
  input_shape: tuple[int, ...],
  *,
  precision: str = 'float32',
  calibration: Iterable[np.ndarray] | None = None,
  integers: str = 'uint8',
) -> bytes:
  """Converts a JAX function of one array into a TFLite model.

  Args:
    function: float32 `input_shape` -> float32 array; its weights are constants.
    input_shape: shape of the input.
    precision: 'float32'; 'float16', weights stored in half precision, inputs
      and outputs float32; 'int8', weights (per channel) and activations in 8
      bits, input and output `integers`.
    calibration: 'int8' only: inputs of `input_shape` from which the ranges of
      activations are taken.
    integers: 'int8' only: 'uint8', which apps feed with pixels, or 'int8',
      which tools for microcontrollers want.

  Returns:
    The model's bytes. Its signature has the input 'image' and the output
    'logits'.

  Raises:
    ValueError: unknown precision, or int8 without calibration inputs.
  """
  if precision not in PRECISIONS:
    raise ValueError(
      f'precision is {precision!r}, allowed: {", ".join(PRECISIONS)}'
    )
  if precision == 'int8' and calibration is None:
    raise ValueError('precision int8 needs calibration inputs')
  with quiet():
    tf = load_tensorflow()
    from jax.experimental import jax2tf

    # The platform is named because the default is the machine's own: on a TPU
    # VM the model would be lowered for the TPU and could not be converted.
    lowered = jax2tf.convert(
      lambda image: {'logits': function(image)},
      with_gradient=False,
      native_serialization_platforms=('cpu',),
    )
    module = tf.Module()
    module.serve = tf.function(
      lowered,
      autograph=False,
      input_signature=[tf.TensorSpec(input_shape, tf.float32, name='image')],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
      [module.serve.get_concrete_function()], module
    )
    if precision != 'float32':
      converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == 'float16':
      converter.target_spec.supported_types = [tf.float16]
    if precision == 'int8' and calibration is not None:
      inputs = [np.asarray(x, np.float32) for x in calibration]
      converter.representative_dataset = lambda: ([x] for x in inputs)
      converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS_INT8
      ]
      converter.inference_input_type = tf.as_dtype(integers)
      converter.inference_output_type = tf.as_dtype(integers)
    return converter.convert()


def operations(model: bytes) -> list[str]:
  """Names of a model's operations, in order, such as 'CONV_2D'.

  Operations that are not built in are spelled 'CUSTOM:name'.
  """
  root, codes = unpack(model)
  return [codes[o.opcodeIndex] for o in root.subgraphs[0].operators]


def macs(model: bytes) -> float:
  """Multiply-adds of a model's convolutions and dense layers, one image."""
  root, codes = unpack(model)
  graph, total = root.subgraphs[0], 0.0
  for operator in graph.operators:
    code = codes[operator.opcodeIndex]
    if code in ('CONV_2D', 'DEPTHWISE_CONV_2D', 'FULLY_CONNECTED'):
      weights = np.prod(graph.tensors[operator.inputs[1]].shape)
      places = graph.tensors[operator.outputs[0]].shape[1:-1]
      total += float(weights) * float(np.prod(places))
  return total


def arena_bytes(model: bytes) -> int:
  """Peak memory of the runtime's own kernels for activations, bytes.

  The interpreter gives every activation a place in one arena, where those that
  are not needed at the same time share memory; its extent is what the model
  takes beside its weights. XNNPACK and others have memory of their own.
  """
  from ai_edge_litert.interpreter import Interpreter, OpResolverType

  with quiet():
    runner = Interpreter(
      model_content=model,
      experimental_op_resolver_type=(
        OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
      ),
    )
    runner.allocate_tensors()
  root, _ = unpack(model)
  tensors = root.subgraphs[0].tensors
  starts, ends = [], []
  for index in {int(d['index']) for d in runner.get_tensor_details()}:
    constant = index >= len(tensors) or (
      root.buffers[tensors[index].buffer].data is not None
    )
    if not constant:
      view = runner.tensor(index)()
      starts.append(view.__array_interface__['data'][0])
      ends.append(starts[-1] + view.nbytes)
  return max(ends) - min(starts)


def with_any_batch(model: bytes) -> bytes:
  """The same operations for any batch size; the default stays what it was.

  The runtime recomputes all sizes when the input is resized. What has to be
  changed is the declared shapes and RESHAPE's constants. (Converting a function
  of unknown batch size instead leaves batch norm and activations unfused.)
  """
  root, codes = unpack(model)
  graph = root.subgraphs[0]
  batched = set(graph.inputs)
  for operator in graph.operators:
    if batched.isdisjoint(operator.inputs):
      continue  # Unpacks a constant, such as a float16 weight.
    batched.update(operator.outputs)
    if codes[operator.opcodeIndex] == 'RESHAPE':
      constant = root.buffers[graph.tensors[operator.inputs[1]].buffer]
      shape = np.frombuffer(bytes(constant.data), np.int32).copy()
      shape[0] = -1
      constant.data = np.frombuffer(shape.tobytes(), np.uint8)
      # An older, second place for the same shape.
      operator.builtinOptions, operator.builtinOptionsType = None, 0
  for index in batched:
    tensor = graph.tensors[index]
    tensor.shapeSignature = np.array([-1, *tensor.shape[1:]], np.int32)
  return pack(root)


def unpack(model: bytes) -> tuple[Any, list[str]]:
  """The model as objects, and the names of its operation codes."""
  from ai_edge_litert import schema_py_generated as schema

  names = {
    code: name
    for name, code in vars(schema.BuiltinOperator).items()
    if not name.startswith('_')
  }
  root = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
  codes = []
  for code in root.operatorCodes:
    # Codes below 128 may be in the older, narrower field only.
    name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
    if name == 'CUSTOM':
      name += f':{code.customCode.decode()}'
    codes.append(name)
  return root, codes


def pack(root: Any) -> bytes:
  """A model's bytes; the other direction of `unpack`."""
  import flatbuffers

  builder = flatbuffers.Builder(0)
  builder.Finish(root.Pack(builder), b'TFL3')
  return bytes(builder.Output())


def interpreter(model: bytes, threads: int = 1) -> Any:
  """An `ai_edge_litert` interpreter with allocated tensors."""
  with quiet():
    from ai_edge_litert.interpreter import Interpreter

    made = Interpreter(model_content=model, num_threads=threads)
    made.allocate_tensors()
    return made


def interface(model: bytes) -> dict[str, dict[str, Any]]:
  """{'input', 'output'}: name, shape (-1 = any), dtype, scale, zero point.

  Scale and zero point are None for real numbers.
  """
  runner = interpreter(model)
  ((_, names),) = runner.get_signature_list().items()
  described = {}
  for side, details in (
    ('input', runner.get_input_details()[0]),
    ('output', runner.get_output_details()[0]),
  ):
    scale, zero = details['quantization']
    described[side] = {
      'name': names[f'{side}s'][0],
      'tensor': details['name'],
      'shape': [int(n) for n in details['shape_signature']],
      'dtype': np.dtype(details['dtype']).name,
      'scale': float(scale) if scale else None,
      'zero_point': int(zero) if scale else None,
    }
  return described


def run(model: bytes, images: np.ndarray) -> np.ndarray:
  """Outputs of a model on this machine.

  Args:
    model: one input [1 or any, H, W, C], one output [same, N].
    images: [B, H, W, C] in the unit of the model's input, pixels or normalised;
      translated where the input takes integers.

  Returns:
    [B, N] float32; integer outputs are translated back to real numbers.

  Raises:
    ValueError: the input takes integers, and `images` cannot be in its unit.
  """
  runner = interpreter(model)
  (source,) = runner.get_input_details()
  (target,) = runner.get_output_details()
  scale, zero = source['quantization']
  if scale:
    limits = np.iinfo(source['dtype'])
    _check_unit(images, *((n - zero) * scale for n in (limits.min, limits.max)))
    images = np.rint(images / scale + zero).clip(limits.min, limits.max)
  batch = int(source['shape'][0])
  outputs = []
  for start in range(0, len(images), batch):
    part = images[start : start + batch]
    # A shorter last batch is filled up; the extra outputs are dropped.
    full = np.resize(part, (batch, *part.shape[1:]))
    runner.set_tensor(source['index'], full.astype(source['dtype']))
    runner.invoke()
    outputs.append(runner.get_tensor(target['index'])[: len(part)])
  result = np.concatenate(outputs).astype(np.float32)
  scale, zero = target['quantization']
  return (result - zero) * scale if scale else result


def _check_unit(images: np.ndarray, low: float, high: float) -> None:
  """Refuses pixels where normalised numbers are expected, and vice versa.

  Args:
    images: what an integer input is to be fed with.
    low, high: range that its integers can represent.
  """
  least, most = float(images.min()), float(images.max())
  width = high - low
  if (low, high) == (0, 255):
    wanted = 'whole numbers, the pixels'
    fits = low <= least and most <= high
    fits = fits and np.array_equal(images, np.rint(images))
  else:
    wanted = 'normalised images'
    # The calibration's range: images have been seen to go a bit further.
    fits = low - width < least and most < high + width
  if not fits:
    raise ValueError(
      f'the model takes {wanted} {low:.4g} to {high:.4g}, these images are '
      f'{least:.4g} to {most:.4g}'
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Keeps what TensorFlow, LiteRT and their C++ say off the screen.

  Exceptions pass; what was said is lost, the exception's own text tells more.
  """
  disabled = logging.root.manager.disable
  sys.stdout.flush()
  sys.stderr.flush()
  with contextlib.ExitStack() as stack:
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter('ignore')
    logging.disable(logging.ERROR)
    stack.callback(logging.disable, disabled)
    sink = stack.enter_context(tempfile.TemporaryFile())
    for number in (1, 2):
      kept = os.dup(number)
      stack.callback(os.close, kept)
      stack.callback(os.dup2, kept, number)
      os.dup2(sink.fileno(), number)
    yield
