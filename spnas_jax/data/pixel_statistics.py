"""Mean and standard deviation of pixels, by which images are normalised."""

from __future__ import annotations

from ml_collections import ConfigDict

from spnas_jax.core.errors import UserError
from spnas_jax.data.known_datasets import known

# What mean and std can be in fractions of 255; (0, 1) is no normalisation.
RANGES = {'mean': (0.0, 1.0), 'std': (1e-3, 1.0)}


def check(dataset_config: ConfigDict) -> None:
  """Refuses statistics that cannot be fractions, 0..255 above all."""
  for key, (low, high) in RANGES.items():
    values = tuple(dataset_config[key])
    if not all(low <= value <= high for value in values):
      hint = ''
      if any(value > 1 for value in values):
        hint = f'; {max(values):g} looks like a pixel of 0..255: divide by 255'
      raise UserError(
        f'dataset.{key} is {values}, allowed: {low:g} to {high:g}, fractions '
        f'of the pixel range{hint}.'
      )
  if bool(dataset_config.mean) != bool(dataset_config.std):
    raise UserError(
      f'dataset.mean is {tuple(dataset_config.mean)} and dataset.std is '
      f'{tuple(dataset_config.std)}, allowed: both, or () for both.'
    )


def statistics(
  dataset_config: ConfigDict,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """(mean, std) of the configuration, or those known for the data set's name.

  Raises:
    UserError: neither says; `input_pipeline.fill_statistics` computes them.
  """
  if dataset_config.mean:
    return tuple(dataset_config.mean), tuple(dataset_config.std)
  facts = known(dataset_config)
  if facts is None:
    name = dataset_config.folder or dataset_config.name
    raise UserError(
      f'dataset.mean is unset and not known for {name!r}; '
      'input_pipeline.fill_statistics computes it.'
    )
  return facts.mean, facts.std
