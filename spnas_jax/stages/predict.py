"""Stage `predict`: what an exported file says to a folder of photos.

The file is run as an app runs it, by the LiteRT interpreter, and everything
else comes from the metadata inside it: labels, normalisation, how photos are
resized. So it works for a file that was copied away from its workdir.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.core.remote import as_path, reaching
from spnas_jax.data.folder_words import natural_order
from spnas_jax.export import metadata_reader, photos, tflite
from spnas_jax.export.network import FILES

RESULT_FILE = 'predictions.csv'
# Photos that are read before the model sees them: few enough for any memory,
# enough that starting the interpreter does not count.
_CHUNK = 32


def check(config: ConfigDict, workdir: Workdir) -> None:
  """Refuses a model or photos that are not there.

  Raises:
    UserError: as it says.
  """
  find_photos(config.predict.images)
  read_model(config, workdir)


def run(config: ConfigDict, workdir: Workdir) -> list[dict[str, Any]]:
  """Prints and writes a line for each photo.

  Nothing is remembered: another call overwrites predictions.csv.

  Returns:
    For each photo that could be read 'path', and the `predict.top_k` most
    likely 'classes' with their 'confidences', probabilities.

  Raises:
    UserError: no model, no photos, or none of them can be read.
  """
  paths = find_photos(config.predict.images)
  model, described = read_model(config, workdir)
  labels = described['labels']
  top_k = min(config.predict.top_k, len(labels))
  rows: list[dict[str, Any]] = []
  for chunk in _chunks(read_photos(paths, described), _CHUNK):
    probabilities = classify(model, described, [image for _, image in chunk])
    for (path, _), values in zip(chunk, probabilities, strict=True):
      best = np.argsort(-values, kind='stable')[:top_k]
      row = {
        'path': path,
        'classes': [labels[i] for i in best],
        'confidences': [float(values[i]) for i in best],
      }
      say(_csv([_cells(row)]).rstrip('\n'))
      rows.append(row)
  if not rows:
    raise UserError(
      f'predict.images is {config.predict.images!r}: none of its '
      f'{len(paths)} files can be read as an image'
    )
  header = ['path', 'class', 'confidence']
  for n in range(2, top_k + 1):
    header += [f'class_{n}', f'confidence_{n}']
  workdir.write(RESULT_FILE, _csv([header, *map(_cells, rows)]))
  lost = len(paths) - len(rows)
  say(
    f'predict: {len(rows)} images, {lost} files could not be read; '
    f'{workdir / RESULT_FILE}'
  )
  return rows


def find_photos(where: str) -> list[epath.Path]:
  """A file, or all files in and below a folder, in natural order.

  Hidden ones are left out.

  Raises:
    UserError: there are none.
  """
  if not where:
    raise UserError(
      'predict.images is not set; give a folder of images or an image, as in '
      '--config.predict.images=photos'
    )
  root = as_path('predict.images', where).expanduser()
  with reaching('predict.images', where):
    if root.is_file():
      return [root]
    paths = []
    for folder, inner, files in root.walk():
      inner[:] = [name for name in inner if not name.startswith('.')]
      paths += [folder / name for name in files if not name.startswith('.')]
  if not paths:
    raise UserError(
      f'predict.images is {where!r}, must be an image or a folder that has some'
    )
  return sorted(paths, key=lambda path: natural_order(str(path)))


def read_model(
  config: ConfigDict, workdir: Workdir
) -> tuple[bytes, dict[str, Any]]:
  """The .tflite file, and what it says of itself.

  Returns:
    Its content; what `read_metadata` returns, and 'input_shape': [height,
    width, channels].

  Raises:
    UserError: it is not there, or cannot say what it is.
  """
  name = config.predict.model
  path = as_path('predict.model', name).expanduser()
  if not name:
    path = workdir / FILES['float32'][0]
  try:
    with reaching('predict.model', path):
      model = path.read_bytes()
    described = metadata_reader.read_metadata(model)
    runner = tflite.interpreter(model)
  except OSError as e:
    raise UserError(
      f'predict.model is {name!r}: {path} cannot be read '
      f'({e.strerror or e}); give an exported .tflite file, or run '
      '--stage=export first'
    ) from e
  # Of operations that are not built in it raises the latter.
  except (ValueError, RuntimeError) as e:
    raise UserError(
      f'predict.model is {name!r}: {path} cannot be used ({e}); export it '
      'again with this version'
    ) from e
  (source,), (target,) = runner.get_input_details(), runner.get_output_details()
  described['input_shape'] = [int(n) for n in source['shape'][1:]]
  classes, labels = int(target['shape'][-1]), described['labels']
  if classes != len(labels):
    raise UserError(
      f'predict.model is {name!r}: {path} has {classes} classes and '
      f'{len(labels)} labels; export it again with this version'
    )
  return model, described


def read_photos(
  paths: Sequence[epath.Path], described: dict[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
  """Path and pixels [H, W, channels] uint8, at the size of the model's input.

  What cannot be read is named and left out.
  """
  height, width, channels = described['input_shape']
  for path in paths:
    try:
      image = photos.read(path.read_bytes(), channels)
    except (OSError, ValueError) as e:
      reason = getattr(e, 'strerror', None) or e
      say(f'predict: left out, as it cannot be read: {path} ({reason})')
      continue
    yield (
      str(path),
      photos.fit(
        image,
        (height, width),
        described['interpolation'],
        described['eval_crop'],
      ),
    )


def classify(
  model: bytes, described: dict[str, Any], images: Sequence[np.ndarray]
) -> np.ndarray:
  """Probabilities [n, classes] float64 of images [H, W, channels] uint8."""
  mean, std = (np.float32(described[key]) for key in ('mean', 'std'))
  scores = tflite.run(model, (np.stack(images) - mean) / std)
  if described['output'] == 'probabilities':
    return scores.astype(np.float64)
  powers = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def _cells(row: dict[str, Any]) -> list[str]:
  """path, class, confidence, class, confidence, ..."""
  pairs = zip(row['classes'], row['confidences'], strict=True)
  return [row['path'], *(c for k, v in pairs for c in (k, f'{v:.4f}'))]


def _csv(rows: Sequence[Sequence[str]]) -> str:
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows(rows)
  return text.getvalue()


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
  while chunk := list(itertools.islice(items, size)):
    yield chunk
