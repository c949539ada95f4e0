"""What a configuration describes: the data set's facts and the search space."""

from __future__ import annotations

from ml_collections import ConfigDict

from spnas_jax.core.errors import UserError
from spnas_jax.data import datasets
from spnas_jax.data.known_datasets import DatasetInfo
from spnas_jax.networks.architecture import Architecture, Block, round_channels
from spnas_jax.networks.space import SearchSpace, Stage


def dataset_facts(config: ConfigDict) -> DatasetInfo:
  """Counts, classes and channels of the configured data set."""
  return datasets.info(config.dataset)


def make_space(config: ConfigDict) -> SearchSpace:
  """The search space of a configuration.

  Raises:
    UserError: naming the key of `space` that does not fit.
  """
  c = config.space
  facts = dataset_facts(config)
  count = len(c.channels)
  for key in ('layers', 'strides'):
    if len(c[key]) != count:
      raise UserError(
        f'space.{key} is {tuple(c[key])}, must have {count} entries, one for '
        'each of space.channels'
      )

  def each(key):
    """A candidate set for every stage."""
    value = tuple(c[key])
    if value and isinstance(value[0], (tuple, list)):
      if len(value) != count:
        raise UserError(
          f'space.{key} is {value}, must be one tuple or {count} of them'
        )
      return tuple(tuple(v) for v in value)
    return (value,) * count

  def widen(channels):
    return round_channels(channels * c.width) if c.width != 1 else channels

  sets = {k: each(k) for k in ('kernels', 'expansions', 'squeeze_ratios')}
  stages = tuple(
    Stage(
      widen(c.channels[i]),
      c.layers[i],
      c.strides[i],
      **{key: value[i] for key, value in sets.items()},
    )
    for i in range(count)
  )
  stem = widen(c.stem_channels)
  first = _fixed_blocks('space.first', c.first, stem, widen)
  last = _fixed_blocks('space.last', c.last, stages[-1].channels, widen)
  return SearchSpace(
    stages=stages,
    stem_channels=stem,
    first=first,
    last=last,
    head_channels=c.head_channels,
    num_classes=facts.num_classes,
    input_channels=facts.channels,
    stem_kernel=c.stem_kernel,
    stem_stride=c.stem_stride,
    activation=c.activation,
    batch_norm_momentum=c.batch_norm_momentum,
    batch_norm_epsilon=c.batch_norm_epsilon,
  )


def _fixed_blocks(field, text, channels, widen) -> tuple[Block, ...]:
  """Blocks of a block string, at the space's width."""
  if not text:
    return ()
  try:
    plain = Architecture.from_string(f'stem_c{channels} {text} fc_c1').blocks
    words = ' '.join(
      _with_channels(word, widen(block.out_channels))
      for word, block in zip(text.split(), plain, strict=True)
    )
    return Architecture.from_string(f'stem_c{channels} {words} fc_c1').blocks
  except (UserError, ValueError) as e:
    raise UserError(f'{field} is {text!r}: {e}') from e


def _with_channels(word: str, channels: int) -> str:
  return '_'.join(
    f'c{channels}' if part[0] == 'c' and part[1:].isdigit() else part
    for part in word.split('_')
  )
