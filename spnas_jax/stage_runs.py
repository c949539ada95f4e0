"""Which stages there are, and running them in a row."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from spnas_jax.core.errors import UserError

# Each is a module of `spnas_jax.stages` with a run(config, workdir); those that
# train, or come after one that does, have a check(config, workdir).
STAGES = (
  'search',
  'train',
  'evaluate',
  'export',
  'profile',
  'predict',
  'build_table',
  'validate_table',
  'random_search',
  'compare_zoo',
  'compare',
  'compile',
  'ablate',
  'zoo',
  'report',
)
# Those that need the statistics of the images.
_READ_PIXELS = {
  'search',
  'train',
  'evaluate',
  'export',
  'random_search',
  'compare_zoo',
  'compare',
  'ablate',
}
# Those that read the latency table.
_READ_TABLE = {
  'search',
  'profile',
  'validate_table',
  'random_search',
  'compare_zoo',
  'compare',
  'compile',
  'ablate',
}
# `latency_table` of who has none yet.
MEASURE = 'measure'
# The stages that 'all' runs.
ALL = ('search', 'train', 'evaluate', 'export', 'profile', 'report')


def run(stage: str, config: ConfigDict, workdir: str) -> Any:
  """Runs a stage as the command line does.

  Args:
    stage: one of `STAGES`, or 'all'.
    config: see `load_config`.
    workdir: folder of the run, or a bucket path.

  Returns:
    The result of the stage, as results.json holds it; for 'all', that of the
    last stage; for 'predict', which leaves only predictions.csv, its rows.

  Raises:
    UserError: the stage, the configuration or the workdir cannot be used.
  """
  if stage not in ('all', *STAGES):
    raise UserError(f'--stage is {stage!r}, allowed: all, {", ".join(STAGES)}')
  from spnas_jax import startup  # JAX: a wrong flag needs none.
  from spnas_jax.core import peers

  try:
    config, folder = startup.start(config, workdir)
    folder.lock()
    try:
      return run_stages(ALL if stage == 'all' else (stage,), config, folder)
    finally:
      folder.unlock()
  except BaseException as e:
    peers.failed(e)
    raise


def run_stages(names: Iterable[str], config: ConfigDict, workdir: Any) -> Any:
  """Runs stages in a row in a `Workdir`; returns the last one's result.

  What a later stage would refuse is reported before an earlier one trains.
  """
  from spnas_jax.data import input_pipeline  # As above.

  names = tuple(names)
  # Imported only when chosen: a report needs no TensorFlow.
  stages = [importlib.import_module(f'spnas_jax.stages.{n}') for n in names]
  if _READ_PIXELS & set(names):
    input_pipeline.fill_statistics(config.dataset)
  _measure_table(names, config, workdir)
  if {'search', 'train'} <= set(names):
    _check_init(config, workdir)
  for stage in stages:
    getattr(stage, 'check', lambda *_: None)(config, workdir)
  result = None
  for stage in stages:
    result = stage.run(config, workdir)
  return result


def _check_init(config: ConfigDict, workdir: Any) -> None:
  """Refuses, before a search, weights of a network that it is not to find."""
  from spnas_jax.stages import train  # As above.

  if train.from_workdir(config) and not train.has_own_network(config, workdir):
    raise UserError(
      f'train.init is {config.train.init!r}, allowed with a search in the same '
      "command: 'scratch', 'inherit', the path of an .npz file; a search finds "
      'a network of its own, so train the one that has learned with '
      '--stage=train and the stages after it'
    )


def _measure_table(
  names: tuple[str, ...], config: ConfigDict, workdir: Any
) -> None:
  """Where `latency_table` is 'measure', makes the workdir's own, once."""
  if config.latency_table != MEASURE:
    return
  table = workdir / 'latency_table.json'
  config.latency_table = str(table)
  if _READ_TABLE & set(names):
    from spnas_jax.stages import build_table  # As above.

    build_table.run(config, workdir)
  elif not table.exists():
    config.latency_table = ''
