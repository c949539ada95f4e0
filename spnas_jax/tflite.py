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

from spnas_jax.tensorflow_setup import load_tensorflow

PRECISIONS = ('float32', 'float16', 'int8')


def convert(
  function: Callable[[Any], Any],
  input_shape: tuple[int | None, ...],
  *,
  precision: str = 'float32',
  calibration: Iterable[np.ndarray] | None = None,
) -> bytes:
  """Converts a JAX function of one array into a TFLite model.

  Args:
    function: float32 `input_shape` -> float32 array; its weights are constants.
    input_shape: shape of the input; None in front = any batch size.
    precision: 'float32'; 'float16', weights stored in half precision, inputs
      and outputs float32; 'int8', weights (per channel) and activations in 8
      bits, input uint8, output int8.
    calibration: 'int8' only: inputs of `input_shape` (batch 1 where that is
      None) from which the ranges of activations are taken.

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

    # The platform is said because the default is the machine's own: on a TPU
    # VM the model would be lowered for the TPU and could not be converted.
    lowered = jax2tf.convert(
      lambda image: {'logits': function(image)},
      with_gradient=False,
      native_serialization_platforms=('cpu',),
      polymorphic_shapes=['(b, ...)'] if input_shape[0] is None else None,
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
    if precision == 'int8':
      inputs = [np.asarray(x, np.float32) for x in calibration or ()]
      converter.representative_dataset = lambda: ([x] for x in inputs)
      converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS_INT8
      ]
      converter.inference_input_type = tf.uint8
      converter.inference_output_type = tf.int8
    return converter.convert()


def operations(model: bytes) -> list[str]:
  """Names of a model's operations, in order, such as 'CONV_2D'.

  Operations that are not built in are spelled 'CUSTOM:name'.
  """
  from ai_edge_litert import schema_py_generated as schema

  names = {
    code: name
    for name, code in vars(schema.BuiltinOperator).items()
    if not name.startswith('_')
  }
  root = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
  result = []
  for operator in root.subgraphs[0].operators:
    code = root.operatorCodes[operator.opcodeIndex]
    # Codes below 128 may be in the older, narrower field only.
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    name = names[number]
    if name == 'CUSTOM':
      name += f':{code.customCode.decode()}'
    result.append(name)
  return result


def interpreter(model: bytes, threads: int = 1) -> Any:
  """An `ai_edge_litert` interpreter with allocated tensors."""
  with quiet():
    from ai_edge_litert.interpreter import Interpreter

    made = Interpreter(model_content=model, num_threads=threads)
    made.allocate_tensors()
    return made


def run(model: bytes, images: np.ndarray) -> np.ndarray:
  """Outputs of a model on this machine.

  Args:
    model: one input [1 or any, H, W, C], one output [same, N].
    images: [B, H, W, C] in the input's dtype.

  Returns:
    [B, N] float32; integer outputs are translated back to real numbers.
  """
  runner = interpreter(model)
  (source,) = runner.get_input_details()
  (target,) = runner.get_output_details()
  batch = int(source['shape'][0])
  outputs = []
  for start in range(0, len(images), batch):
    part = images[start : start + batch]
    # A last, shorter batch is filled up; what comes of it is dropped.
    full = np.resize(part, (batch, *part.shape[1:]))
    runner.set_tensor(source['index'], full.astype(source['dtype']))
    runner.invoke()
    outputs.append(runner.get_tensor(target['index'])[: len(part)])
  result = np.concatenate(outputs).astype(np.float32)
  scale, zero = target['quantization']
  return (result - zero) * scale if scale else result


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
