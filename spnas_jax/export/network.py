"""A network as a TFLite model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from spnas_jax.export import int8_ranges, tflite
from spnas_jax.models.convnet import ConvNet
from spnas_jax.networks.architecture import Architecture

# precision -> (file, ending of result keys; the float32 file needs none).
FILES = {
  'float32': ('model.tflite', ''),
  'float16': ('model_fp16.tflite', '_fp16'),
  'int8': ('model_int8.tflite', '_int8'),
}


def to_tflite(
  arch: Architecture,
  variables: dict[str, Any],
  image_size: int,
  *,
  precision: str = 'float32',
  scale_and_offset: tuple[np.ndarray, np.ndarray] | None = None,
  calibration: Iterable[np.ndarray] | None = None,
  batch_size: int = 1,
  output: str = 'logits',
  integers: str = 'uint8',
) -> bytes:
  """A network as a TFLite model of builtin operations.

  By default the bare float32 network: input [1, H, W, C], already normalised,
  output logits [1, num_classes]. Batch norm is folded, activations are fused.

  Args:
    arch: the network.
    variables: {'params', 'batch_stats'} of `ConvNet(arch)`.
    image_size: side of the input, px.
    precision: 'float32', 'float16' or 'int8', see `tflite.convert`.
    scale_and_offset: [C] each; puts `pixels * scale + offset` in front, two
      more operations, so that the input is pixels 0..255.
    calibration: 'int8' only: inputs [H, W, C] as the model gets them.
    batch_size: images of one inference; 0 = any number.
    output: 'logits', or 'probabilities': their softmax, one more operation.
    integers: 'int8' only: type of input and output, see `tflite.convert`.

  Returns:
    The model's bytes. int8: a `NarrowRange` warning names layers that gave
    nothing but 0 on all of `calibration`.
  """
  network = ConvNet(arch, implementation='primitive')
  # Arrays of an accelerator cannot become constants of a CPU's program.
  variables = jax.device_get(variables)

  def scores(images):
    if scale_and_offset is not None:
      scale, offset = scale_and_offset
      images = images * scale[None, None, None] + offset[None, None, None]
    logits: Any = network.apply(variables, images)
    return jax.nn.softmax(logits) if output == 'probabilities' else logits

  batch = batch_size or 1
  if calibration is not None:
    calibration = (
      np.broadcast_to(image, (batch, *image.shape)) for image in calibration
    )
  model = tflite.convert(
    scores,
    (batch, image_size, image_size, arch.input_channels),
    precision=precision,
    calibration=calibration,
    integers=integers,
  )
  if precision == 'int8':
    model = int8_ranges.widen(model)
  return model if batch_size else tflite.with_any_batch(model)
