"""Stage `export`: the trained network as TFLite files for a phone."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import scipy.special
from ml_collections import ConfigDict

from spnas_jax.config.spaces import dataset_facts
from spnas_jax.config.workdir import (
  Workdir,
  fingerprint,
  stage_inputs,
  versions,
)
from spnas_jax.data import augmentation, input_pipeline, pixel_statistics
from spnas_jax.data.folder_names import title
from spnas_jax.export import int8_process, int8_ranges, tflite
from spnas_jax.export.metadata import ModelDescription, with_metadata
from spnas_jax.export.network import FILES, to_tflite
from spnas_jax.latency.table import LatencyTable
from spnas_jax.models.convnet import ConvNet
from spnas_jax.networks.architecture import Architecture
from spnas_jax.stages.frame import Task, stage
from spnas_jax.training.trained import load_trained, trained_hash

SIDECAR_SCHEMA = 1
# Images per step of the JAX network that the files are compared with.
_CHECK_BATCH = 32
# Difference of float32 logits over their range: more means another network
# or another input, such as pixels instead of normalised images.
_MOST_REL_DIFF = 1e-2


def prepare(config: ConfigDict, workdir: Workdir) -> Task:
  """Leaves three models and `model.json`, which describes them.

  The main one has the precision of the latency table: what was searched for.
  Where the int8 model cannot be made or run, the others stay and the result
  says why.

  Raises:
    UserError: nothing was trained in the workdir.
  """
  inputs = stage_inputs(
    config, 'seed', 'dataset', 'export', trained=trained_hash(workdir)
  )
  main = 'float32'
  if config.latency_table:
    main = LatencyTable.load(config.latency_table).precision
  if main != 'float32':  # What an older version exported is float32's.
    inputs['precision'] = main
  return Task(
    inputs,
    lambda: _export(config, workdir, inputs, main),
    lambda result: spell_result(result, str(workdir / 'model.tflite')),
    claim={},
  )


run = stage('export', prepare)


def _export(
  config: ConfigDict, workdir: Workdir, inputs: dict[str, Any], main: str
) -> dict[str, Any]:
  arch, variables = load_trained(config, workdir)
  described = describe(config, arch, workdir, inputs['trained'])
  models = {
    precision: with_metadata(model, described)
    for precision, model in make_models(
      config, arch, variables, ('float32', 'float16')
    ).items()
  }
  # Written before anything is tried that may go wrong.
  for precision, model in models.items():
    workdir.write(FILES[precision][0], model)
  count = config.export.check_images
  if main == 'int8':
    count = dataset_facts(config).num_test
  pixels, labels = input_pipeline.test_images(config.dataset, count)
  normalised = augmentation.normalize(pixels, config.dataset)
  images = pixels if config.export.normalise_inside else normalised
  logits = {p: tflite.run(model, images) for p, model in models.items()}
  int8 = _make_int8(config, arch, variables, images)
  if int8.model is not None and int8.logits is not None:
    models['int8'] = with_metadata(int8.model, described)
    logits['int8'] = int8.logits
    workdir.write(FILES['int8'][0], models['int8'])
  elif jax.process_index() == 0:
    # One that an earlier run left would be taken for this network's.
    (workdir / FILES['int8'][0]).unlink(missing_ok=True)
  reference = _jax_logits(arch, variables, normalised)
  if config.export.output == 'probabilities':
    reference = scipy.special.softmax(reference, -1)
  result = compare(logits, reference, labels)
  for precision, (_, ending) in FILES.items():
    made = precision in models
    result[f'bytes{ending}'] = len(models[precision]) if made else None
    result[f'arena_bytes{ending}'] = (
      tflite.arena_bytes(models[precision]) if made else None
    )
  result['main_file'] = FILES[main][0]
  result['int8_error'] = int8.error or None
  result['int8_guessed_ranges'] = list(int8.guessed)
  sidecar = describe_models(config, arch, models)
  sidecar['main'] = FILES[main][0]
  sidecar['provenance']['inputs_hash'] = fingerprint(inputs)
  workdir.write('model.json', json.dumps(sidecar, indent=1) + '\n')
  return result


def make_models(
  config: ConfigDict,
  arch: Architecture,
  variables: dict[str, Any],
  precisions: Sequence[str] = tuple(FILES),
) -> dict[str, bytes]:
  """Precision -> model, as `config.export` asks for them."""
  return {
    precision: to_tflite(
      arch,
      variables,
      config.dataset.image_size,
      precision=precision,
      scale_and_offset=_inside(config, arch),
      calibration=_calibration_inputs(config) if precision == 'int8' else None,
      **_options(config),
    )
    for precision in precisions
  }


def _make_int8(
  config: ConfigDict,
  arch: Architecture,
  variables: dict[str, Any],
  images: np.ndarray,
) -> int8_process.Attempt:
  """The int8 model as `config.export` asks for it, tried on images."""
  return int8_process.attempt(
    arch,
    variables,
    config.dataset.image_size,
    scale_and_offset=_inside(config, arch),
    calibration=_calibration_inputs(config),
    images=images,
    **_options(config),
  )


def compare(
  logits: dict[str, np.ndarray], reference: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
  """How far the models are from the network in JAX, over test images.

  Args:
    logits: precision -> [B, num_classes] of the model; int8 may be missing.
    reference: [B, num_classes] of the network in JAX.
    labels: [B].

  Returns:
    'max_abs_diff': largest difference of a float32 logit; 'max_rel_diff': the
    same over the range of all logits; 'agreement_*': fraction of images with
    the float32 model's most likely class; 'top1*': fraction labelled right;
    'num_images'. What is not known is None.
  """
  difference = float(np.abs(logits['float32'] - reference).max())
  result: dict[str, Any] = {
    'max_abs_diff': difference,
    'max_rel_diff': difference / max(float(np.ptp(reference)), 1e-30),
    'num_images': len(reference),
  }
  classes = {p: values.argmax(-1) for p, values in logits.items()}
  for precision, (_, ending) in FILES.items():
    found = classes.get(precision)
    result[f'top1{ending}'] = (
      None if found is None else float((found == labels).mean())
    )
    if ending:
      result[f'agreement{ending}'] = (
        None if found is None else float((found == classes['float32']).mean())
      )
  return result


def spell_result(result: dict[str, Any], path: str) -> list[str]:
  """The result in one line, and a line for each thing to look at."""
  int8 = 'none'
  if result['int8_error'] is None:
    int8 = (
      f'{result["bytes_int8"] / 1e6:.2f}, agrees on '
      f'{100 * result["agreement_int8"]:.1f}%'
    )
  lines = [
    f'{path}, {result["bytes"] / 1e6:.2f} MB (float16 '
    f'{result["bytes_fp16"] / 1e6:.2f}, int8 {int8}); scores within '
    f'{result["max_abs_diff"]:.1e} of JAX over {result["num_images"]} images'
  ]
  # An older version's result names no main file: it is float32's.
  if result.get('main_file') == FILES['int8'][0] and int8 != 'none':
    lines.append(
      f'{result["main_file"]} is what was searched for: top-1 '
      f'{100 * result["top1_int8"]:.2f}% of {result["num_images"]:,} test '
      f'images, float32 {100 * result["top1"]:.2f}%'
    )
  if result['max_rel_diff'] > _MOST_REL_DIFF:
    lines.append(
      f'WARNING: the float32 scores are off by '
      f'{100 * result["max_rel_diff"]:.2g}% of their range; the file does not '
      'compute what the network does'
    )
  if result['int8_guessed_ranges']:
    layers = tuple(result['int8_guessed_ranges'])
    lines.append(f'WARNING: {int8_ranges.NarrowRange(layers)}')
  if result['int8_error'] is not None:
    lines.append(
      f'WARNING: there is no int8 model: {result["int8_error"]}; the '
      'float32 and float16 models are not affected'
    )
  return lines


def describe_models(
  config: ConfigDict, arch: Architecture, models: dict[str, bytes]
) -> dict[str, Any]:
  """What an app needs to know about the files: the contents of model.json."""
  inside = config.export.normalise_inside
  size = config.dataset.image_size
  mean, std = pixel_statistics.statistics(config.dataset)
  return {
    'schema': SIDECAR_SCHEMA,
    'task': 'image classification',
    'normalisation': {
      'inside': inside,
      'mean': list(mean),
      'std': list(std),
      'input': 'pixels 0..255, channels last'
      if inside
      else '(pixel / 255 - mean) / std, channels last',
      'resize': f'{size} x {size} px, {config.dataset.interpolation}',
    },
    'output': config.export.output,
    'integers': 'value = (integer - zero_point) * scale',
    'labels': list(dataset_facts(config).label_names),
    'files': {
      FILES[precision][0]: {
        'precision': precision,
        'bytes': len(model),
        'sha256': hashlib.sha256(model).hexdigest(),
        'operations': dict(Counter(tflite.operations(model))),
        **tflite.interface(model),
      }
      for precision, model in models.items()
    },
    'image_size': size,
    'architecture': arch.to_string(),
    'network': json.loads(arch.to_json()),
    'provenance': {
      'dataset': title(config.dataset),
      'calibration_images': config.export.calibration_images,
      'versions': versions(),
    },
  }


def describe(
  config: ConfigDict, arch: Architecture, workdir: Workdir, trained: str
) -> ModelDescription:
  """What the files say of themselves, see `export/metadata.py`.

  Args:
    config: the whole configuration.
    arch: the network.
    workdir: where the network may have been evaluated.
    trained: identity of what was trained, see `trained_hash`.
  """
  from spnas_jax.data import preprocessing  # TensorFlow.

  facts = dataset_facts(config)
  text = (
    f'Classifies images into the {facts.num_classes} classes of '
    f'{title(config.dataset)}; trained on {facts.num_train:,} images.'
  )
  score = workdir.results().get('evaluate', {})
  if score.get('inputs', {}).get('trained') == trained:
    text += (
      f' Top-1 {100 * score["top1"]:.2f}% of {score["num_examples"]:,} '
      f'{score["split"]} images (float32).'
    )
  mean, std = np.zeros(1), np.ones(1)
  if not config.export.normalise_inside:
    mean, std = (
      255 * np.broadcast_to(values, arch.input_channels)
      for values in pixel_statistics.statistics(config.dataset)
    )
  sidecar = describe_models(config, arch, {})
  cropped = config.dataset.augment == 'inception'
  return ModelDescription(
    name=f'{title(config.dataset)} classifier',
    description=text,
    labels=facts.label_names,
    mean=mean.tolist(),
    std=std.tolist(),
    output=config.export.output,
    interpolation=config.dataset.interpolation,
    eval_crop=preprocessing.EVAL_CROP if cropped else None,
    facts={k: v for k, v in sidecar.items() if k not in ('files', 'labels')},
  )


def _options(config: ConfigDict) -> dict[str, Any]:
  """Keys of `config.export` that `to_tflite` takes as they are."""
  return {k: config.export[k] for k in ('batch_size', 'output', 'integers')}


def _inside(
  config: ConfigDict, arch: Architecture
) -> tuple[np.ndarray, np.ndarray] | None:
  """The normalisation that goes into the models, None = left to the app."""
  if not config.export.normalise_inside:
    return None
  return augmentation.scale_and_offset(config.dataset, arch.input_channels)


def _calibration_inputs(config: ConfigDict) -> np.ndarray:
  """[n, H, W, C] float32, as the models get them."""
  pixels = input_pipeline.calibration_images(
    config.dataset, config.export.calibration_images, config.seed
  ).copy()
  # Both ends of the pixel range are seen, so that integer inputs are pixels.
  pixels[0, 0, 0], pixels[0, -1, -1] = 0, 255
  if config.export.normalise_inside:
    return pixels.astype(np.float32)
  return augmentation.normalize(pixels, config.dataset)


def _jax_logits(
  arch: Architecture, variables: dict[str, Any], images: np.ndarray
) -> np.ndarray:
  """Logits [B, num_classes] float32 of the network as it was trained."""
  network = ConvNet(arch)
  step = jax.jit(lambda x: network.apply(variables, x))
  padded = -len(images) % _CHECK_BATCH
  whole = np.pad(images, [(0, padded)] + [(0, 0)] * 3)
  # A TPU rounds products to bfloat16 by default.
  with jax.default_matmul_precision('highest'):
    parts = [
      jax.device_get(step(whole[i : i + _CHECK_BATCH]))
      for i in range(0, len(whole), _CHECK_BATCH)
    ]
  return np.concatenate(parts)[: len(images)]
