"""Folders of pictures that are pictures, and what is made of them."""

from __future__ import annotations

from typing import Any

import fake_photos
import numpy as np
import pytest

from spnas_jax.core.errors import UserError
from spnas_jax.data import datasets

# By class, a colour that JPEG keeps apart.
COLOURS = {'cat': (200, 30, 30), 'dog': (30, 200, 30), 'emu': (30, 30, 200)}


def make_config(folder: Any, **changes: Any) -> Any:
  """A `dataset` section that reads a folder."""
  config = datasets.default_config()
  config.folder = str(folder)
  config.update(changes)
  return config


def table(root, *lines, name='labels.csv', encoding='utf-8'):
  """Writes a table of lines, and returns its path."""
  path = root / name
  path.write_bytes('\n'.join(lines).encode(encoding))
  return path


def error_line(function, *args):
  """Text of the UserError that a call raises; it must be a single line."""
  with pytest.raises(UserError) as error:
    function(*args)
  message = str(error.value)
  assert message and '\n' not in message
  return message


def photo(label, number):
  """A JPEG of a class' colour, different for every number."""
  pixels = np.full((16, 24, 3), COLOURS[label], np.uint8)
  pixels[: number % 16 + 1, : number // 16 + 1] //= 2
  return fake_photos.encode(pixels, quality=95)


def put(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)


def photos(root, **counts):
  """COUNT photos in ROOT/CLASS for every class."""
  for label, count in counts.items():
    for i in range(count):
      put(root / label / f'{i}.jpg', photo(label, i))
  return root


def config_of(root, **changes):
  """Beside the folder, ready to read batches."""
  changes = {'data_dir': str(root.parent / 'data'), 'image_size': 8} | changes
  changes = {'mean': (0.5,), 'std': (0.5,)} | changes
  return make_config(root, **changes)


def members(config):
  """split -> file names, having checked label and picture of each."""
  builder = datasets.open_builder(config)
  names = datasets.info(config).label_names
  found = {}
  for split in builder.info.splits:
    found[split] = set()
    instruction = datasets.read_instruction(config, builder, split)
    for record in builder.as_dataset(split=instruction).as_numpy_iterator():
      label = names[record['label']]
      corner = record['image'][-1, -1].astype(int)
      assert np.abs(corner - COLOURS[label]).max() < 9
      found[split].add(record['file_name'].decode())
  return found


def said(capsys):
  return [
    line.removeprefix('data: ')
    for line in capsys.readouterr().out.splitlines()
    if line.startswith('data: ')
  ]
