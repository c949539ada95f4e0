"""What search and training set up alike: batches on devices, first weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spnas_jax.config.spaces import dataset_facts
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.core.parallel import AXIS, check_divisible
from spnas_jax.data import augmentation, datasets, input_pipeline
from spnas_jax.data.class_counts import class_counts
from spnas_jax.training.objective import class_weights
from spnas_jax.training.schedules import Length, run_length

MAX_STEPS = 2**31 - 1


def device_batches(config: ConfigDict, recipe: Any, seed: int, first: int):
  """Training batches on the devices, from step `first` on."""
  return input_pipeline.prefetch_to_devices(
    input_pipeline.train_batches(
      config.dataset,
      batch_size=recipe.batch_size,
      seed=seed,
      start_step=first,
      dtype=recipe.dtype,
    ),
    axis_name=AXIS,
  )


def length_of(config: ConfigDict, section: str) -> Length:
  """Steps of a run under `config.search` or `config.train`."""
  recipe = config[section]
  return run_length(
    recipe, dataset_facts(config).steps_per_epoch(recipe.batch_size)
  )


def class_weights_of(config: ConfigDict, section: str) -> np.ndarray | None:
  """What an example of each class counts in the loss of a recipe.

  Returns:
    float32 [classes], see `class_weights`; None = all count the same.
  """
  if not config[section].class_balance:
    return None
  return class_weights(class_counts(config.dataset))


def check_batch(section: str, batch_size: int, key: str = 'batch_size') -> None:
  """Raises UserError unless the batch splits over the devices."""
  try:
    check_divisible(batch_size)
  except ValueError as e:
    raise UserError(f'{section}.{key} is {e}') from e


def check_split(config: ConfigDict) -> None:
  """Raises UserError unless `evaluate.split` has images."""
  split = config.evaluate.split
  try:
    dataset_facts(config).num_examples(split)
  except UserError as e:
    raise UserError(f'evaluate.split is {split!r}: {e}') from e


def check_recipe(config: ConfigDict, workdir: Workdir, section: str) -> None:
  """Refuses a recipe that devices or data do not allow.

  Args:
    config: the configuration.
    workdir: a stage that is finished in it needs no data.
    section: 'search' or 'train', which is also the stage's name.

  Raises:
    UserError: the batch does not split over the devices, the data cannot be
      read or do not fill it, or a trace would begin behind the last step.
  """
  check_batch(section, config[section].batch_size)
  if section not in workdir.results():
    check_data(config, section)
    _check_trace(config, section)


def _check_trace(config: ConfigDict, section: str) -> None:
  begin, total = config[section].trace_step, length_of(config, section).total
  if begin > total:
    raise UserError(
      f'{section}.trace_step is {begin}, allowed: 0 to {total}, the last step'
    )


def check_data(config: ConfigDict, section: str) -> None:
  """Refuses data that cannot be read, normalised or do not fill a batch.

  For a stage to call before it leaves anything in the workdir.

  Raises:
    UserError: naming the key.
  """
  datasets.open_builder(config.dataset)
  facts = dataset_facts(config)
  augmentation.scale_and_offset(config.dataset, facts.channels)
  recipe, count = config[section], facts.num_examples('train')
  if recipe.batch_size > count:
    raise UserError(
      f'{section}.batch_size is {recipe.batch_size}, allowed: up to {count}, '
      'the number of training images'
    )
  per_epoch = count // recipe.batch_size
  if recipe.epochs * per_epoch > MAX_STEPS:
    raise UserError(
      f'{section}.epochs is {recipe.epochs:g}, allowed: up to '
      f'{MAX_STEPS / per_epoch:.4g}; steps are counted in 32 bits'
    )


def init_variables(model, image_size: int, channels: int, seed: int, *args):
  """Initial {'params', 'batch_stats'}; `args` follow the images in the call."""
  images = jnp.zeros((1, image_size, image_size, channels))

  @jax.jit
  def init(key):
    return model.init(key, images, *args)

  return init(jax.random.key(seed))


def image_shape(config: ConfigDict) -> tuple[int, int, int]:
  """[H, W, C] of the configured images."""
  size = config.dataset.image_size
  return size, size, dataset_facts(config).channels
