"""The searches that stage `compare` compares, behind one interface."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spnas_jax.core.parallel import AXIS
from spnas_jax.core.tpu_compiler import Program
from spnas_jax.networks.space import Choices
from spnas_jax.search.multipath import (
  MultiPathNet,
  PathCosts,
  Paths,
  num_paths,
  path_log_likelihoods,
)
from spnas_jax.search.multipath_step import (
  MultiPathSearch,
  make_path_step,
  make_weight_step,
)
from spnas_jax.search.projection import project_likelihoods
from spnas_jax.search.search_events import paths_drawn, search_drawn
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.search.search_setup import blank_state, make_search
from spnas_jax.search.search_step import Search, make_search_step
from spnas_jax.training.log import Draw
from spnas_jax.training.run_setup import (
  image_shape,
  init_variables,
  length_of,
)
from spnas_jax.training.schedules import Phases, learning_rate_schedule


class Contestant(NamedTuple):
  """One method, ready to be priced or run.

  Attributes:
    method: its name.
    steps: pure steps of one device which make up a step of the method.
    create: () -> state at step 0.
    trainable: state -> tree of everything that is trained.
    choices: state -> the likeliest choices, on target or not.
    draw: (state, metrics) -> what event files show of it.
    phases: in batches.
  """

  method: str
  steps: tuple[Callable, ...]
  create: Callable[[], Any]
  trainable: Callable[[Any], Any]
  choices: Callable[[Any], Choices]
  draw: Draw
  phases: Phases


def make_contestant(
  config: ConfigDict, problem: SearchProblem, method: str
) -> Contestant:
  """The configured search by one of `compare.methods`."""
  single = make_search(config, problem)
  if method != 'single_path':
    return _multi_path(config, problem, method, single)
  return Contestant(
    method,
    (make_search_step(single),),
    functools.partial(blank_state, single, config),
    lambda state: state.params,
    lambda state: problem.project(
      np.asarray(single.settled(state.params).logits), config.search.slack
    ),
    functools.partial(search_drawn, single),
    single.phases,
  )


def _multi_path(
  config: ConfigDict, problem: SearchProblem, method: str, single: Search
) -> Contestant:
  """One path per candidate, under the phases and the controller of `single`."""
  space, phases = problem.space, single.phases
  # After the warm-up every other batch is for the weights.
  weight_steps = phases.warm_up + (phases.total - phases.warm_up + 1) // 2
  per_epoch = length_of(config, 'search').steps_per_epoch
  multi = MultiPathSearch(
    net=MultiPathNet(
      space,
      dtype=config.search.dtype,
      axis_name=AXIS if config.search.sync_batch_norm else None,
    ),
    method=method,
    costs=PathCosts.of(problem.table, space),
    phases=phases,
    controller=single.controller,
    learning_rate=learning_rate_schedule(
      config.search, per_epoch, weight_steps
    ),
    recipe=config.search,
    seed=config.seed,
  )

  def create():
    size = (len(space.layers), num_paths(space).max())
    variables = init_variables(
      multi.net,
      config.dataset.image_size,
      space.input_channels,
      config.seed,
      Paths(jnp.ones(size, jnp.float32)),
    )
    return multi.create(variables)

  def choices(state) -> Choices:
    values = path_log_likelihoods(space, np.asarray(state.path_logits))
    if problem.target_ms is None:
      return tuple(max(own, key=own.__getitem__) for own in values)
    return project_likelihoods(
      space, problem.table, values, problem.target_ms, config.search.slack
    )

  return Contestant(
    method,
    (make_weight_step(multi), make_path_step(multi)),
    create,
    lambda state: (state.network.params, state.path_logits),
    choices,
    lambda state, metrics: paths_drawn(space, state),
    phases,
  )


def num_trainable(contestant: Contestant) -> int:
  """Trainable parameters, thresholds or path logits among them."""
  trained = contestant.trainable(jax.eval_shape(contestant.create))
  return sum(leaf.size for leaf in jax.tree.leaves(trained))


def programs(contestant: Contestant, config: ConfigDict) -> list[Program]:
  """The contestant's steps with the shapes that they take."""
  state = jax.eval_shape(contestant.create)
  image = image_shape(config)
  return [
    Program(step, state, image, config.search.dtype)
    for step in contestant.steps
  ]
