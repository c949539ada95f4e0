"""Wider spaces are configurations, not code branches: each lands on digits."""

import pathlib

import pytest
import tiny
import tiny_run

from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir
from spnas_jax.latency.table import LatencyTable
from spnas_jax.stages import search

# Each by itself, and (the quicker ones to run) several at once.
SPACES = {
  'three of everything': {
    'kernels': (3, 5, 7),
    'expansions': (2, 4, 6),
    'squeeze_ratios': (0.0, 0.25),
  },
  'a choice for each stage, narrower': {
    'kernels': ((3, 5), (5, 7)),
    'expansions': ((3, 6), (2, 4)),
    'width': 0.5,
    'channels': (16, 32),
    'first': 'ds_k3_c16',
  },
  'three kernel sizes': {'kernels': (3, 5, 7)},
  'three expansion ratios': {'expansions': (2, 4, 6)},
  'a choice for each stage': {
    'kernels': ((3, 5), (5, 7)),
    'expansions': ((3, 6), (2, 4)),
  },
  'searched squeeze-and-excitation': {'squeeze_ratios': (0.0, 0.25)},
  'width multiplier': {
    'width': 0.5,
    'channels': (16, 32),
    'first': 'ds_k3_c16',
  },
}


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=() if i < 1 else pytest.mark.slow)
    for i, name in enumerate(SPACES)
  ],
)
def test_search_lands_in_a_wider_space(name, tmp_path):
  """Target met, network inside the space, gates of every kind exist."""
  config = tiny_run.get_config()
  config.search.update(epochs=2.0, warmup_epochs=1.0)
  for key, value in SPACES[name].items():
    with config.unlocked(), config.ignore_type():
      config.space[key] = value
  space = make_space(config)
  table = tiny.table(space, config.dataset.image_size)
  path = pathlib.Path(tmp_path) / 'table.json'
  path.write_text(table.to_json())
  config.latency_table = str(path)
  result = search.run(config, Workdir(tmp_path / 'run'))
  assert result['target_ms'] * 0.9 <= result['predicted_ms']
  assert result['predicted_ms'] <= result['target_ms'] * (1 + 1e-9)
  arch = space.architecture_of(
    space.choices_of(space.encode(_found(space, result)))
  )
  assert LatencyTable.load(path).predict(arch) == pytest.approx(
    result['predicted_ms']
  )


def _found(space, result):
  """The network as its string says, in the space's style."""
  largest = space.largest
  return type(largest).from_string(
    result['architecture'],
    activation=largest.activation,
    batch_norm_momentum=largest.batch_norm_momentum,
    batch_norm_epsilon=largest.batch_norm_epsilon,
    padding=largest.padding,
  )
