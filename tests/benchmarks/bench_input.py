"""Training images per second and core from JPEG records, ours and the usual.

  python -m tests.benchmarks.bench_input [--images=1024] [--rounds=7]

Writes made-up photographs (about 500 x 375 px) as tfds records to a temporary
folder and reads them at 224 px in three ways, taking turns within every round:

  ours    `input_pipeline.train_batches`, augment 'inception';
  usual   one tf.data chain with the same operations in the order most training
          scripts have them: shuffle, repeat, then decode and crop, resize,
          flip, subtract, divide and cast in one parallel map, batch, prefetch;
  decode  reading, shuffling, and decoding the same crops; nothing else.

Prints one JSON object. Decoding's share is ours / decode: what would be left
of the time if everything else were free.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from spnas_jax.core import tensorflow_setup
from spnas_jax.data import (
  datasets,
  image_decoding,
  input_pipeline,
  preprocessing,
)
from tests import fake_imagenet

SIZE = 224
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
UNIQUE_IMAGES = 64


def make_config(data_dir: str) -> Any:
  """The `dataset` section that all three read with."""
  config = datasets.default_config()
  config.name = 'imagenet2012'
  config.data_dir = data_dir
  config.image_size = SIZE
  config.augment = 'inception'
  config.cache = False
  config.mean = MEAN
  config.std = STD
  config.shuffle_buffer = 256
  return config


def usual_batches(config: Any, batch_size: int, dtype: str) -> Iterator[Any]:
  """The chain as it is usually written."""
  tf = tensorflow_setup.load_tensorflow()

  def read(record: dict[str, Any]) -> dict[str, Any]:
    begin, size, _ = tf.image.sample_distorted_bounding_box(
      tf.io.extract_jpeg_shape(record['image']),
      bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
      min_object_covered=0.0,
      area_range=preprocessing.CROP_AREA,
      aspect_ratio_range=preprocessing.CROP_ASPECT,
      max_attempts=preprocessing.CROP_ATTEMPTS,
      use_image_if_no_bounding_boxes=True,
    )
    window = tf.stack([begin[0], begin[1], size[0], size[1]])
    image = tf.image.decode_and_crop_jpeg(record['image'], window, channels=3)
    image = tf.image.resize(image, [SIZE, SIZE], method=config.interpolation)
    image = tf.image.random_flip_left_right(image)
    image -= tf.constant(MEAN, shape=[1, 1, 3]) * 255
    image /= tf.constant(STD, shape=[1, 1, 3]) * 255
    return {'image': tf.cast(image, dtype), 'label': record['label']}

  batches = (
    _encoded(config, shuffle_files=True)
    .shuffle(config.shuffle_buffer)
    .repeat()
    .map(read, num_parallel_calls=tf.data.AUTOTUNE)
    .batch(batch_size, drop_remainder=True)
    .prefetch(tf.data.AUTOTUNE)
  )
  return batches.as_numpy_iterator()


def decoded(config: Any, batch_size: int) -> Iterator[Any]:
  """Random crops decoded and thrown away; yields how many bytes they had."""
  tf = tensorflow_setup.load_tensorflow()

  def read(position: Any, record: dict[str, Any]) -> Any:
    crop = image_decoding.decode_window(
      record['image'],
      3,
      lambda height, width: preprocessing.random_crop_window(
        height, width, tf.stack([tf.constant(0, tf.int64), position])
      ),
    )
    return tf.size(crop)

  batches = (
    _encoded(config, shuffle_files=True)
    .shuffle(config.shuffle_buffer)
    .repeat()
    .enumerate()
    .map(read, num_parallel_calls=tf.data.AUTOTUNE)
    .batch(batch_size)
    .prefetch(tf.data.AUTOTUNE)
  )
  return batches.as_numpy_iterator()


def _encoded(config: Any, shuffle_files: bool) -> Any:
  tfds = tensorflow_setup.load_tfds()
  return datasets.open_builder(config).as_dataset(
    split='train',
    shuffle_files=shuffle_files,
    decoders={'image': tfds.decode.SkipDecoding()},
  )


def measure(
  start: Callable[[], Iterator[Any]], batches: int, batch_size: int
) -> tuple[float, float]:
  """Starts a pipeline, lets it get going for two batches and times the rest.

  Returns:
    Images per second, and per second of processor time of all threads. The
    latter is the rate of a core, and hardly minds what else the machine does.
  """
  iterator = start()
  for _ in range(2):
    next(iterator)
  wall, cpu = time.perf_counter(), time.process_time()
  for _ in range(batches):
    next(iterator)
  images = batches * batch_size
  return (
    images / (time.perf_counter() - wall),
    images / (time.process_time() - cpu),
  )


def main() -> None:
  """Writes the records, takes turns, prints the JSON object."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--images', type=int, default=1024, help='per turn')
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--dtype', default='float32')
  args = parser.parse_args()
  random = np.random.default_rng(0)
  unique = [
    fake_imagenet.random_jpeg(random, *random.permutation([375, 500]))
    for _ in range(UNIQUE_IMAGES)
  ]
  num_batches = args.images // args.batch_size
  # All of a turn lies within one epoch of ours.
  count = (num_batches + 2) * args.batch_size
  with tempfile.TemporaryDirectory() as folder:
    fake_imagenet.write(
      folder,
      {
        'train': [unique[i % UNIQUE_IMAGES] for i in range(count)],
        'validation': unique,
      },
    )
    config = make_config(folder)
    pipelines: dict[str, Callable[[], Iterator[Any]]] = {
      'ours': lambda: input_pipeline.train_batches(
        config, batch_size=args.batch_size, seed=0, dtype=args.dtype
      ),
      'usual': lambda: usual_batches(config, args.batch_size, args.dtype),
      'decode': lambda: decoded(config, args.batch_size),
    }
    per_second: dict[str, list[float]] = {name: [] for name in pipelines}
    per_core: dict[str, list[float]] = {name: [] for name in pipelines}
    names = list(pipelines)
    for turn in range(args.rounds):
      # Nobody always comes first.
      for name in names[turn % 3 :] + names[: turn % 3]:
        wall_rate, cpu_rate = measure(
          pipelines[name], num_batches, args.batch_size
        )
        per_second[name].append(wall_rate)
        per_core[name].append(cpu_rate)
  median = {name: statistics.median(rate) for name, rate in per_core.items()}
  result = {
    'images_per_core_second': _rounded(per_core),
    'images_per_second': _rounded(per_second),
    'ours_over_usual': round(
      statistics.median(
        ours / usual
        for ours, usual in zip(per_core['ours'], per_core['usual'], strict=True)
      ),
      3,
    ),
    'decode_share_of_ours': round(median['ours'] / median['decode'], 3),
    'cores': len(os.sched_getaffinity(0)),
    'load_average_1min': round(os.getloadavg()[0], 2),
    'jpeg_kib': round(sum(map(len, unique)) / len(unique) / 1024, 1),
    'image_size': SIZE,
    'batch_size': args.batch_size,
    'images': args.images,
    'dtype': args.dtype,
    'interpolation': config.interpolation,
  }
  print(json.dumps(result, indent=2))


def _rounded(rates: dict[str, list[float]]) -> dict[str, Any]:
  """Median and the single turns of every pipeline."""
  return {
    name: {
      'median': round(statistics.median(turns), 1),
      'turns': [round(rate) for rate in turns],
    }
    for name, turns in rates.items()
  }


if __name__ == '__main__':
  main()
