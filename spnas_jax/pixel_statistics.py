"""Mean and standard deviation of pixels, by which images are normalised."""

from __future__ import annotations

from ml_collections import ConfigDict

from spnas_jax.errors import UserError
from spnas_jax.known_datasets import KNOWN

# Training images that statistics are taken of where none are known: their error
# is far below a level of grey.
_IMAGES = 2048


# What mean and std can be in fractions of 255; (0, 1) is no normalisation.
_RANGES = {'mean': (0.0, 1.0), 'std': (1e-3, 1.0)}


def check(dataset_config: ConfigDict) -> None:
  """Refuses statistics that cannot be fractions, 0..255 above all."""
  for key, (low, high) in _RANGES.items():
    values = tuple(dataset_config[key])
    if not all(low <= value <= high for value in values):
      hint = ''
      if any(value > 1 for value in values):
        hint = f'; {max(values):g} looks like a pixel of 0..255: divide by 255'
      raise UserError(
        f'dataset.{key}={values}: allowed are {low:g} to {high:g}, fractions '
        f'of the pixel range{hint}.'
      )
  if bool(dataset_config.mean) != bool(dataset_config.std):
    raise UserError(
      f'dataset.mean={tuple(dataset_config.mean)} and dataset.std='
      f'{tuple(dataset_config.std)}: allowed are both, or () for both.'
    )


def statistics(
  dataset_config: ConfigDict,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """(mean, std) of the configuration, or those known for the data set's name.

  Raises:
    UserError: neither says; `fill` computes them.
  """
  if dataset_config.mean:
    return tuple(dataset_config.mean), tuple(dataset_config.std)
  known = KNOWN.get(dataset_config.name)
  if known is None:
    raise UserError(
      f'dataset.mean is unset and not known for {dataset_config.name!r}; '
      'pixel_statistics.fill computes it.'
    )
  return known.mean, known.std


def fill(dataset_config: ConfigDict) -> None:
  """Puts numbers into `mean` and `std` where they are unset.

  Known ones, or those of 2,048 training images in a fixed random order, as
  evaluation sees them, rounded to four decimals: the same in every process and
  every run.

  Raises:
    UserError: the data set is not known and cannot be read.
  """
  if not dataset_config.mean and dataset_config.name not in KNOWN:
    from spnas_jax import record_batches  # TensorFlow.

    plain = dataset_config.copy_and_resolve_references()
    plain.update(mean=(0.0,), std=(1.0,))
    images, _ = record_batches.read(plain, 'train', _IMAGES, shuffle_seed=0)
    pixels = images.reshape(-1, images.shape[-1]) / 255
    low, high = _RANGES['std']
    dataset_config.mean = tuple(pixels.mean(0).round(4).tolist())
    dataset_config.std = tuple(pixels.std(0).clip(low, high).round(4).tolist())
  else:
    dataset_config.mean, dataset_config.std = statistics(dataset_config)
