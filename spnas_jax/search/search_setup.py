"""Static parts of a search, made from the configuration and checked."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spnas_jax.config.defaults import default_config
from spnas_jax.config.rules import SHARED_SUPERNET
from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import (
  Workdir,
  differences,
  stage_inputs,
)
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.core.parallel import AXIS
from spnas_jax.latency.table import LatencyTable
from spnas_jax.models.supernet import SuperNet
from spnas_jax.networks.architecture import Architecture
from spnas_jax.search.controller import Controller, ControllerState
from spnas_jax.search.gates import FORMULATIONS
from spnas_jax.search.runtime import RuntimeModel
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.search.search_step import Search
from spnas_jax.search.worth import draw, least_networks
from spnas_jax.training.checkpoint import Checkpoints
from spnas_jax.training.run_setup import (
  class_weights_of,
  init_variables,
  length_of,
)
from spnas_jax.training.schedules import Phases, learning_rate_schedule
from spnas_jax.training.train_state import TrainState
from spnas_jax.training.transfer import (
  check_channels,
  open_source,
  renew_classifier,
  same_classes,
  spell_start,
)


def phases_of(config: ConfigDict) -> Phases:
  """The phases of the configured search, in steps."""
  c = config.search
  length = length_of(config, 'search')
  total = max(1, length.total)
  # These methods need weights that serve every network, not decisions.
  only_warm_up = c.method in SHARED_SUPERNET and not c.evolution.supernet
  # The reference's surrogate has no temperature.
  constant = not FORMULATIONS[c.gates].sampled
  return Phases(
    warm_up=total
    if only_warm_up
    else min(length.steps(c.warmup_epochs), total),
    total=total,
    temperature_start=1.0 if constant else c.temperature_start,
    temperature_end=1.0 if constant else c.temperature_end,
    fall_start=c.temperature_fall[0],
    fall_end=c.temperature_fall[1],
  )


def check_phases(config: ConfigDict) -> None:
  """Refuses a search by gradient that has no step after its warm-up.

  Its thresholds would never start; the projection would decide on noise.

  Raises:
    UserError: naming `search.warmup_epochs`.
  """
  phases = phases_of(config)
  if config.search.method == 'gradient' and phases.warm_up == phases.total:
    raise UserError(
      f'search.warmup_epochs is {config.search.warmup_epochs}, which is all '
      f'{phases.total} steps of search.epochs {config.search.epochs}, allowed: '
      'less, so that thresholds are trained'
    )


def check_worth(config: ConfigDict) -> None:
  """Refuses fewer networks than worths can be fitted to.

  Raises:
    UserError: naming `search.worth.networks`, or what does not give so many.
  """
  if config.search.method != 'worth':
    return
  space = make_space(config)
  least, given = least_networks(space), config.search.worth.networks
  if given < least:
    raise UserError(
      f'search.worth.networks is {given}, allowed: {least} or more, for the '
      f'worths of {len(space.gates)} decisions'
    )
  # The very networks that will be scored.
  probability = config.search.keep_probability
  drawn = draw(space, given, probability, np.random.default_rng(config.seed))
  if len(drawn) < least:
    raise UserError(
      f"search.method is 'worth', which finds only {len(drawn)} different "
      f'networks in this space with search.keep_probability {probability}, '
      f'allowed: where there are {least}'
    )


def make_search(config: ConfigDict, problem: SearchProblem) -> Search:
  """Everything static of the configured search."""
  c = config.search
  formulation = FORMULATIONS[c.gates]
  phases = phases_of(config)
  controller = None
  if problem.target_ms is not None:
    controller = Controller(target_ms=problem.target_ms, **c.controller)
  supernet = SuperNet(
    problem.space,
    placement=formulation.placement,
    num_thresholds=formulation.num_thresholds(problem.space),
    dtype=c.dtype,
    axis_name=AXIS if c.sync_batch_norm else None,
    remat=c.remat,
  )
  return Search(
    supernet=supernet,
    formulation=formulation,
    runtime=RuntimeModel.of(problem.table, problem.space),
    phases=phases,
    controller=controller,
    learning_rate=learning_rate_schedule(
      c, length_of(config, 'search').steps_per_epoch, phases.total
    ),
    recipe=c,
    seed=config.seed,
    class_weights=class_weights_of(config, 'search'),
  )


def blank_state(search: Search, config: ConfigDict) -> TrainState:
  """State at step 0 of a supernet that has learned nothing."""
  return _state(search, _fresh_variables(search, config))


def create_state(search: Search, config: ConfigDict) -> TrainState:
  """State at step 0: `blank_state`, or with the weights of `search.init`.

  Raises:
    UserError: `search.init` cannot be used.
  """
  variables = _fresh_variables(search, config)
  if config.search.init:
    variables = _learned_variables(search, config, variables)
  return _state(search, variables)


def _state(search: Search, variables: dict[str, Any]) -> TrainState:
  return TrainState.create(
    variables, search.optimizer(), ControllerState.create()
  )


def _fresh_variables(search: Search, config: ConfigDict) -> dict[str, Any]:
  space = search.supernet.space
  gates = jnp.ones(len(space.gates))
  return init_variables(
    search.supernet,
    config.dataset.image_size,
    space.input_channels,
    config.seed,
    gates,
  )


def _learned_variables(
  search: Search, config: ConfigDict, fresh: dict[str, Any]
) -> dict[str, Any]:
  """What the supernet of `search.init` has learned; thresholds are fresh.

  The classifier is fresh too where the classes are others.
  """
  workdir, result = _source(config)
  theirs = _as_recorded(search, result)
  like = jax.eval_shape(functools.partial(blank_state, theirs, config))
  with Checkpoints(workdir / 'search' / 'checkpoints') as checkpoints:
    state = jax.device_get(checkpoints.restore(like))
  params = {**state.params, 'thresholds': fresh['params']['thresholds']}
  kept = same_classes(config, result, theirs.supernet.space.num_classes)
  if not kept:
    params = renew_classifier(params, fresh['params'])
  say(f'search: {spell_start(config.search.init, kept)}')
  return {'params': params, 'batch_stats': state.batch_stats}


def _as_recorded(search: Search, result: dict[str, Any]) -> Search:
  """The search whose checkpoint it is, as far as it shapes the state."""
  recipe, inputs = default_config().search, result['inputs']
  for key in ('gates', 'optimizer'):
    recipe[key] = inputs.get(f'search.{key}', recipe[key])
  found = Architecture.from_string(result['architecture'])
  space = dataclasses.replace(
    search.supernet.space, num_classes=found.num_classes
  )
  formulation = FORMULATIONS[recipe.gates]
  supernet = search.supernet.clone(
    space=space,
    placement=formulation.placement,
    num_thresholds=formulation.num_thresholds(space),
  )
  return dataclasses.replace(
    search, supernet=supernet, formulation=formulation, recipe=recipe
  )


def _source(config: ConfigDict) -> tuple[Workdir, dict[str, Any]]:
  """The finished search that `search.init` names: (workdir, result).

  Raises:
    UserError: it is not a workdir, no supernet was trained there, or one of
      another space or for images of other channels.
  """
  path = config.search.init
  workdir, result = open_source(
    'search.init', path, 'search', "'', a workdir with a finished search"
  )
  if not (workdir / 'search' / 'checkpoints').exists():
    raise UserError(
      f'search.init is {path!r}, whose search trained no supernet of its own, '
      'allowed: the workdir that its search.evolution.supernet names'
    )
  found = Architecture.from_string(result['architecture'])
  check_channels('search.init', path, found.input_channels, config)
  # The momentum changes running averages only, which are not used.
  theirs, ours = (
    {k: v for k, v in inputs.items() if k.startswith('space.')}
    for inputs in (result['inputs'], stage_inputs(config, 'space'))
  )
  momentum = 'space.batch_norm_momentum'
  theirs[momentum] = ours[momentum]
  if changed := differences(theirs, ours):
    raise UserError(
      f'search.init is {path!r}, which has searched another space ({changed}), '
      'allowed: the same but for the classes'
    )
  return workdir, result


def other_supernet(config: ConfigDict) -> str:
  """The workdir whose supernet this search decides with; '' = its own."""
  c = config.search
  return c.evolution.supernet if c.method in SHARED_SUPERNET else ''


def search_inputs(config: ConfigDict, table: LatencyTable) -> dict[str, Any]:
  """What the result of a search depends on.

  Raises:
    UserError: another search's supernet is wanted and is not finished, or is
      of another space.
  """
  learned = {}
  if config.search.init:
    learned['init_sha256'] = _source(config)[1]['params_sha256']
  if other := other_supernet(config):
    trained = (
      Workdir(other, 'search.evolution.supernet').results().get('search')
    )
    if trained is None:
      raise UserError(
        f'search.evolution.supernet is {other!r}, must be the workdir of a '
        'finished search'
      )
    learned['supernet'] = trained['params_sha256']
  return stage_inputs(
    config,
    'seed',
    'dataset',
    'space',
    'search',
    'evaluate.split',
    table=table.fingerprint(),
    **learned,
  )
