"""The int8 model, made and run in a process of its own.

Foreign native code makes and runs it, on numbers that nobody has seen
before. Whatever that code does, even a crash without a message, ends only
the process it runs in.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import warnings
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from spnas_jax.core.console import last_line
from spnas_jax.export import int8_ranges, tflite
from spnas_jax.export.network import to_tflite
from spnas_jax.networks.architecture import Architecture

# How long it may take: to start and convert, and for each image that it
# calibrates with or classifies. About a hundred times what two cores need.
_SECONDS, _SECONDS_PER_IMAGE = 600.0, 2.0
_COMMAND = ('-m', 'spnas_jax.export.int8_process')


@dataclasses.dataclass(frozen=True)
class Attempt:
  """The outcome.

  Attributes:
    model: the model, if it was made and ran.
    logits: [B, num_classes] float32 of the images, if it ran.
    guessed: layers whose range is a guess, see `int8_ranges`.
    error: why there is no model, one line; '' if there is one.
  """

  model: bytes | None = None
  logits: np.ndarray | None = None
  guessed: tuple[str, ...] = ()
  error: str = ''


def attempt(
  arch: Architecture,
  variables: dict[str, Any],
  image_size: int,
  *,
  scale_and_offset: tuple[np.ndarray, np.ndarray] | None,
  calibration: np.ndarray,
  images: np.ndarray,
  **options: Any,
) -> Attempt:
  """Makes the int8 model of a network and runs it on images.

  Args:
    arch, variables, image_size, scale_and_offset: as for `to_tflite`.
    calibration: [n, H, W, C] as the model gets them.
    images: [B, H, W, C] as the model gets them.
    **options: what else `to_tflite` takes, as JSON can hold it.

  Returns:
    The outcome. Never raises because of what the model does.
  """
  request = {
    'architecture': arch.to_json(),
    'image_size': image_size,
    'options': options,
    'scale_and_offset': scale_and_offset
    and [part.tolist() for part in scale_and_offset],
  }
  arrays = {'calibration': calibration, 'images': images}
  try:
    with tempfile.TemporaryDirectory() as name:
      return _ask(pathlib.Path(name), request, variables, arrays)
  except OSError as e:
    return Attempt(error=f'its temporary files: {e.strerror or e}')


def _ask(
  folder: pathlib.Path,
  request: dict[str, Any],
  variables: dict[str, Any],
  arrays: dict[str, np.ndarray],
) -> Attempt:
  """Question and answer as files in `folder`."""
  flat = traverse_util.flatten_dict(jax.device_get(variables), sep='/')
  np.savez(folder / 'variables.npz', **flat)
  for name, array in arrays.items():
    np.save(folder / f'{name}.npy', array)
  (folder / 'request.json').write_text(json.dumps(request))
  count = sum(map(len, arrays.values()))
  seconds = _SECONDS + _SECONDS_PER_IMAGE * count
  error = _run(folder, seconds)
  guesses = folder / 'guessed.json'
  guessed = tuple(json.loads(guesses.read_text())) if guesses.exists() else ()
  if not error and not (folder / 'logits.npy').exists():
    error = 'its process left no result'
  if error:
    return Attempt(guessed=guessed, error=error)
  return Attempt(
    (folder / 'model.tflite').read_bytes(),
    np.load(folder / 'logits.npy'),
    guessed,
  )


def _run(folder: pathlib.Path, seconds: float) -> str:
  """Runs the other process; returns why it failed, '' if it did not."""
  # Its modules are ours, wherever ours come from; its devices are none of ours.
  path = os.pathsep.join(os.path.abspath(p) for p in sys.path)
  environment = {**os.environ, 'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu'}
  try:
    done = subprocess.run(
      [sys.executable, *_COMMAND, str(folder)],
      cwd=folder,
      env=environment,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      timeout=seconds,
      check=False,
    )
  except subprocess.TimeoutExpired:
    return f'no answer in {seconds:.0f} s'
  except OSError as e:
    return f'its process cannot be started ({e.strerror})'
  if done.returncode < 0:
    names = {each.value: each.name for each in signal.Signals}
    name = names.get(-done.returncode, f'signal {-done.returncode}')
    return f'native code ended its process with {name}'
  said = last_line(done.stderr.decode(errors='replace'))
  return said if done.returncode else ''


def main(folder: pathlib.Path) -> None:
  """What the other process does; files in `folder` are question and answer."""
  request = json.loads((folder / 'request.json').read_text())
  pair = request['scale_and_offset']
  with np.load(folder / 'variables.npz') as arrays:
    variables = traverse_util.unflatten_dict(dict(arrays), sep='/')
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always', int8_ranges.NarrowRange)
    model = to_tflite(
      Architecture.from_json(request['architecture']),
      variables,
      request['image_size'],
      precision='int8',
      scale_and_offset=pair
      and tuple(np.asarray(part, np.float32) for part in pair),
      calibration=np.load(folder / 'calibration.npy'),
      **request['options'],
    )
  guessed = [
    layer
    for warning in caught
    if isinstance(warning.message, int8_ranges.NarrowRange)
    for layer in warning.message.layers
  ]
  (folder / 'guessed.json').write_text(json.dumps(guessed))
  (folder / 'model.tflite').write_bytes(model)
  logits = tflite.run(model, np.load(folder / 'images.npy'))
  np.save(folder / 'logits.npy', logits)


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
