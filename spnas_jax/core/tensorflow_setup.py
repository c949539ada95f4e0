"""The one place where TensorFlow and tfds are imported and told how to behave.

TensorFlow takes seconds to import and, left alone, reserves accelerators,
prints start-up notes and looks for public buckets. Everything in the library
that needs it calls these functions from inside the code that needs it, so a
stage without data or export never pays for the import.
"""

from __future__ import annotations

import os
from typing import Any

# Read when TensorFlow is first imported, whoever imports it. To change them,
# set the variables before the start.
_ENVIRONMENT = {
  # Hides notes and warnings of the C++ runtime, not errors.
  'TF_CPP_MIN_LOG_LEVEL': '2',
  # oneDNN announces itself above that level, and its rounding depends on the
  # machine; nothing that TensorFlow does here is faster with it.
  'TF_ENABLE_ONEDNN_OPTS': '0',
}


def load_tensorflow() -> Any:
  """Imports TensorFlow, hides accelerators from it and returns the module.

  The accelerators belong to JAX: TensorFlow would reserve their memory as soon
  as it runs its first operation.
  """
  _set_environment()
  import tensorflow as tf

  for kind in ('GPU', 'TPU'):
    tf.config.set_visible_devices([], kind)
  # Python's side of TF_CPP_MIN_LOG_LEVEL: notes for those who write data sets.
  tf.get_logger().setLevel('ERROR')
  return tf


def load_tfds() -> Any:
  """Imports tensorflow_datasets with no progress bars and no bucket look-ups.

  tfds imports TensorFlow by itself, and only once records are read or written;
  split sizes and features are read without it.
  """
  _set_environment()
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core.utils import gcs_utils

  tfds.disable_progress_bar()
  # Without a network every look-up in the public bucket is retried for a
  # minute. The switch has no public name.
  gcs_utils._is_gcs_disabled = True
  return tfds


def _set_environment() -> None:
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
