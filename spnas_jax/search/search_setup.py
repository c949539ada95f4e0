"""Static parts of a search, made from the configuration and checked."""

from __future__ import annotations

import hashlib
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from spnas_jax.config.defaults import dataset_facts
from spnas_jax.config.workdir import Workdir, stage_inputs
from spnas_jax.core.errors import UserError
from spnas_jax.core.parallel import AXIS
from spnas_jax.latency.table import LatencyTable
from spnas_jax.models.supernet import SuperNet
from spnas_jax.networks.space import SearchSpace
from spnas_jax.search.controller import Controller, ControllerState
from spnas_jax.search.gates import FORMULATIONS
from spnas_jax.search.runtime import RuntimeModel
from spnas_jax.search.search_step import Search
from spnas_jax.training.run_setup import init_variables
from spnas_jax.training.schedules import Phases, learning_rate_schedule
from spnas_jax.training.train_state import TrainState


def load_table(config: ConfigDict) -> LatencyTable:
  """The configured table, checked against the image size.

  Raises:
    UserError: no table is named, or it was measured at another size.
  """
  if not config.latency_table:
    raise UserError(
      "latency_table is '', must be the path of a table; make one with "
      '--stage=build_table'
    )
  table = LatencyTable.load(config.latency_table)
  if table.image_size != config.dataset.image_size:
    raise UserError(
      f'latency_table {config.latency_table!r} was measured at '
      f'{table.image_size} px, dataset.image_size is '
      f'{config.dataset.image_size}; they must be equal'
    )
  return table


def resolve_target(
  config: ConfigDict, space: SearchSpace, table: LatencyTable
) -> tuple[float | None, float, float]:
  """(target or None under a fixed lambda, fastest, slowest network), ms.

  Raises:
    UserError: the space has one network only, or none of its networks can meet
      the target, or all of them do.
  """
  if not space.gates:
    raise UserError(
      f'space.kernels is {tuple(config.space.kernels)}: the space holds one '
      'network only; allowed: several kernels, expansions or layers'
    )
  low, high = table.limits(space)
  c = config.search
  if c.lambda_ is not None:
    if c.method == 'evolution':
      raise UserError(
        f'search.lambda_ is {c.lambda_}, must be unset for search.method '
        "'evolution', which needs a target"
      )
    if c.target_ms is not None:
      raise UserError(
        f'search.lambda_ is {c.lambda_} and search.target_ms is {c.target_ms}, '
        'allowed: one of them; a fixed lambda has no target'
      )
    return None, low, high
  if c.target_ms is None:
    return low + c.target_fraction * (high - low), low, high
  if not low <= c.target_ms <= high:
    raise UserError(
      f'search.target_ms is {c.target_ms:g}, allowed: {low:.4g} to {high:.4g} '
      f'ms, the fastest and the slowest network of the space on '
      f'{table.name!r}{_other_unit(c.target_ms, low, high)}'
    )
  return c.target_ms, low, high


def phases_of(config: ConfigDict) -> Phases:
  """The phases of the configured search, in steps."""
  c = config.search
  per_epoch = dataset_facts(config).steps_per_epoch(c.batch_size)
  total = max(1, round(c.epochs * per_epoch))
  # An evolution needs weights that serve every network, not decisions.
  only_warm_up = c.method == 'evolution' and not c.evolution.supernet
  # The reference's surrogate has no temperature.
  constant = not FORMULATIONS[c.gates].sampled
  return Phases(
    warm_up=total
    if only_warm_up
    else min(round(c.warmup_epochs * per_epoch), total),
    total=total,
    temperature_start=1.0 if constant else c.temperature_start,
    temperature_end=1.0 if constant else c.temperature_end,
    fall_start=c.temperature_fall[0],
    fall_end=c.temperature_fall[1],
  )


def check_phases(config: ConfigDict) -> None:
  """Refuses a search by gradient that has no step after its warm-up.

  Its thresholds would never start, and the projection decide on noise.

  Raises:
    UserError: naming `search.warmup_epochs`.
  """
  phases = phases_of(config)
  if config.search.method == 'gradient' and phases.warm_up == phases.total:
    raise UserError(
      f'search.warmup_epochs is {config.search.warmup_epochs}, which are all '
      f'{phases.total} steps of search.epochs {config.search.epochs}, allowed: '
      'less, so that thresholds are trained'
    )


def _other_unit(target: float, low: float, high: float) -> str:
  """Hint where a target would fit the range [ms] in another unit."""
  for unit, ms, table_unit in (
    ('seconds', 1e3, 'microseconds'),
    ('microseconds', 1e-3, 'seconds'),
  ):
    # Twice as wide as the range: a wrong unit may miss it by a little, too.
    if low / 2 <= target * ms <= 2 * high:
      return (
        f'; {target:g} looks like {unit}: search.target_ms is in ms (or the '
        f'table, whose times must be in ms, is in {table_unit})'
      )
  return ''


def make_search(
  config: ConfigDict,
  space: SearchSpace,
  table: LatencyTable,
  target_ms: float | None,
) -> Search:
  """Everything static of the configured search."""
  c = config.search
  formulation = FORMULATIONS[c.gates]
  facts = dataset_facts(config)
  per_epoch = facts.steps_per_epoch(c.batch_size)
  phases = phases_of(config)
  controller = None
  if target_ms is not None:
    controller = Controller(target_ms=target_ms, **c.controller)
  supernet = SuperNet(
    space,
    placement=formulation.placement,
    num_thresholds=formulation.num_thresholds(space),
    dtype=c.dtype,
    axis_name=AXIS if c.sync_batch_norm else None,
    remat=c.remat,
  )
  return Search(
    supernet=supernet,
    formulation=formulation,
    runtime=RuntimeModel.of(table, space),
    phases=phases,
    controller=controller,
    learning_rate=learning_rate_schedule(c, per_epoch, phases.total),
    recipe=c,
    seed=config.seed,
  )


def create_state(search: Search, config: ConfigDict) -> TrainState:
  """State at step 0."""
  space = search.supernet.space
  gates = jnp.ones(len(space.gates))
  variables = init_variables(
    search.supernet,
    config.dataset.image_size,
    space.input_channels,
    config.seed,
    gates,
  )
  return TrainState.create(
    variables, search.optimizer(), ControllerState.create()
  )


def search_inputs(config: ConfigDict, table: LatencyTable) -> dict[str, Any]:
  """What the result of a search depends on.

  Raises:
    UserError: another search's supernet is wanted and is not finished.
  """
  supernet = {}
  other = config.search.evolution.supernet
  if config.search.method == 'evolution' and other:
    trained = (
      Workdir(other, 'search.evolution.supernet').results().get('search')
    )
    if trained is None:
      raise UserError(
        f'search.evolution.supernet is {other!r}, must be the workdir of a '
        'finished search'
      )
    supernet['supernet'] = trained['params_sha256']
  return stage_inputs(
    config,
    'seed',
    'dataset',
    'space',
    'search',
    'evaluate.split',
    table=hashlib.sha256(table.to_json().encode()).hexdigest()[:16],
    **supernet,
  )
