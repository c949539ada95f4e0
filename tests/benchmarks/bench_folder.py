"""Images per second from a folder of JPEGs, ours and Keras' usual loader.

  python -m tests.benchmarks.bench_folder [--images=1000] [--rounds=7]

Crops of scikit-learn's two photographs, 200 to 320 px, as JPEG files in two
class folders, read at 128 px by two pipelines that take turns in every round:

  ours   `dataset.folder`, prepared once before (its time is told apart), not
         cached, 'crop_flip', normalised;
  usual  `image_dataset_from_directory` at the same size and batch, then a flip
         and the same normalisation in one parallel map, prefetched.

Prints one JSON object; the ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from spnas_jax.core import tensorflow_setup
from spnas_jax.data import datasets, input_pipeline
from spnas_jax.latency.devices import load_average
from tests.benchmarks.bench_input import measure

SIZE, BATCH = 128, 32
MEAN, STD = 0.45, 0.25


def write_folder(folder: pathlib.Path, count: int) -> None:
  """`count` crops in all, half of them in each class."""
  rng = np.random.default_rng(0)
  for name, whole in zip(
    ('temple', 'flower'), load_sample_images().images, strict=True
  ):
    (folder / name).mkdir(parents=True)
    for i in range(count // 2):
      height, width = rng.integers(200, 320, 2)
      top = rng.integers(whole.shape[0] - height)
      left = rng.integers(whole.shape[1] - width)
      crop = whole[top : top + height, left : left + width]
      Image.fromarray(crop).save(folder / name / f'{i}.jpg', quality=85)


def our_batches(config: Any) -> Iterator[Any]:
  return input_pipeline.train_batches(
    config, batch_size=BATCH, seed=0, process_index=0, process_count=1
  )


def usual_batches(folder: pathlib.Path) -> Iterator[Any]:
  tf = tensorflow_setup.load_tensorflow()

  def prepare(images: Any, labels: Any) -> Any:
    images = tf.image.random_flip_left_right(images)
    return (images / 255 - MEAN) / STD, labels

  read = tf.keras.utils.image_dataset_from_directory(
    str(folder),
    batch_size=BATCH,
    image_size=(SIZE, SIZE),
    seed=0,
    verbose=False,
  )
  batches = read.repeat().map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
  return batches.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--images', type=int, default=1000)
  parser.add_argument('--rounds', type=int, default=7)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    photos = root / 'photos'
    write_folder(photos, args.images)
    config = datasets.default_config()
    config.update(folder=str(photos), data_dir=str(root / 'data'))
    config.update(image_size=SIZE, augment='crop_flip', crop_padding=4)
    config.update(cache=False, mean=(MEAN,), std=(STD,))
    start = time.perf_counter()
    datasets.open_builder(config)
    preparing = time.perf_counter() - start
    batches = args.images // BATCH // 2
    rows = []
    load = load_average()
    for _ in range(args.rounds):
      ours = measure(lambda: our_batches(config), batches, BATCH)
      usual = measure(lambda: usual_batches(photos), batches, BATCH)
      rows.append((*ours, *usual))
  median = [statistics.median(column) for column in zip(*rows, strict=True)]
  print(
    json.dumps(
      {
        'images': args.images,
        'image_size': SIZE,
        'ours_images_per_s': round(median[0], 1),
        'usual_images_per_s': round(median[2], 1),
        'ours_over_usual': round(
          statistics.median(r[0] / r[2] for r in rows), 3
        ),
        'ours_over_usual_per_cpu_s': round(
          statistics.median(r[1] / r[3] for r in rows), 3
        ),
        'preparing_images_per_s': round(args.images / preparing, 1),
        'load_average': [load, load_average()],
      },
      indent=1,
    )
  )


if __name__ == '__main__':
  main()
