"""How many training images each class has."""

from __future__ import annotations

import numpy as np
from ml_collections import ConfigDict

from spnas_jax.core import tensorflow_setup
from spnas_jax.data import datasets


def class_counts(dataset_config: ConfigDict) -> np.ndarray:
  """Training images of each class, [num_classes] int64.

  Those of a whole folder are in its report; otherwise labels are read, without
  decoding an image.

  Args:
    dataset_config: the `dataset` section.

  Raises:
    UserError: the data set cannot be read.
  """
  facts = datasets.info(dataset_config)
  builder = datasets.open_builder(dataset_config)
  instruction = datasets.read_instruction(dataset_config, builder, 'train')
  report = datasets.folder_report(dataset_config)
  if report and instruction == f'train[0:{sum(report["counts"]["train"])}]':
    return np.array(report['counts']['train'], np.int64)
  tfds = tensorflow_setup.load_tfds()
  records = builder.as_dataset(
    split=instruction, decoders=tfds.decode.PartialDecoding({'label': True})
  )
  labels = [record['label'] for record in records.as_numpy_iterator()]
  return np.bincount(labels, minlength=facts.num_classes)
