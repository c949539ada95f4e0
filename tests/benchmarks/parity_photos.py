"""Does an exported file say to the original photos what `evaluate` saw?

  python -m tests.benchmarks.parity_photos --config=NAME --workdir=DIR \
    [--folder=DIR] [--data_dir=DIR]

Reads every test image's original file with Pillow, resizes it as the metadata
inside model.tflite say, runs the file with the LiteRT interpreter, and compares
the class with that of the trained network in JAX behind the training pipeline
(TensorFlow's decoder). Also says how far the pixels differ. Prints one JSON
object.
"""

from __future__ import annotations

import argparse
import json

import jax
import numpy as np

from spnas_jax import startup
from spnas_jax.config.files import load_config
from spnas_jax.core import tensorflow_setup
from spnas_jax.data import augmentation, datasets, input_pipeline
from spnas_jax.export import photos
from spnas_jax.models.convnet import ConvNet
from spnas_jax.stages import predict
from spnas_jax.training.trained import load_trained

BATCH = 100


def originals(config):
  """Bytes of every test image's file, in the order of evaluation."""
  tfds = tensorflow_setup.load_tfds()
  builder = datasets.open_builder(config.dataset)
  records = builder.as_dataset(
    split=datasets.read_instruction(config.dataset, builder, 'test'),
    decoders={'image': tfds.decode.SkipDecoding()},
  )
  for record in records.as_numpy_iterator():
    yield record['image']


def main() -> None:
  """Compares and prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--config', required=True)
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--folder', default='')
  parser.add_argument('--data_dir', default='')
  args = parser.parse_args()
  config = load_config(args.config)
  config.dataset.update(folder=args.folder, data_dir=args.data_dir)
  config, workdir = startup.start(config, args.workdir)
  input_pipeline.fill_statistics(config.dataset)
  arch, variables = load_trained(config, workdir)
  network = ConvNet(arch)
  logits = jax.jit(lambda x: network.apply(variables, x))
  model, described = predict.read_model(config, workdir)
  height, width, channels = described['input_shape']
  files = originals(config)
  same = right = right_file = count = 0
  level = 0
  for batch in input_pipeline.eval_batches(
    config.dataset, batch_size=BATCH, dtype='uint8'
  ):
    n = int(batch['mask'].sum())
    pixels, labels = batch['image'][:n], batch['label'][:n]
    own = [
      photos.fit(
        photos.read(next(files), channels),
        (height, width),
        described['interpolation'],
        described['eval_crop'],
      )
      for _ in range(n)
    ]
    level = max(level, int(np.abs(np.stack(own).astype(int) - pixels).max()))
    normalised = augmentation.normalize(batch['image'], config.dataset)
    seen = np.asarray(logits(normalised))[:n].argmax(-1)
    said = predict.classify(model, described, own).argmax(-1)
    same += int((seen == said).sum())
    right += int((seen == labels).sum())
    right_file += int((said == labels).sum())
    count += n
  print(
    json.dumps(
      {
        'images': count,
        'agreement': same / count,
        'top1_evaluate': right / count,
        'top1_file': right_file / count,
        'largest_pixel_difference': level,
      },
      indent=1,
    )
  )


if __name__ == '__main__':
  main()
