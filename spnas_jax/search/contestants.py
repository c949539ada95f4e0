"""The searches that stage `compare` compares, behind one interface."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spnas_jax.config.defaults import dataset_facts, make_space
from spnas_jax.core.parallel import AXIS
from spnas_jax.core.tpu_compiler import Program
from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.space import Choice
from spnas_jax.search.gates import decide
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
from spnas_jax.search.projection import project, project_likelihoods
from spnas_jax.search.search_setup import (
  create_state,
  make_search,
  resolve_target,
)
from spnas_jax.search.search_step import make_search_step
from spnas_jax.training.run_setup import image_shape, init_variables
from spnas_jax.training.schedules import Phases, learning_rate_schedule

Choices = tuple[Choice | None, ...]


class Contestant(NamedTuple):
  """One method, ready to be priced or run.

  Attributes:
    method: its name.
    steps: pure steps of one device which make up a step of the method.
    create: () -> state at step 0.
    trainable: state -> tree of everything that is trained.
    choices: state -> the choices that it likes best, target or not.
    phases: in batches.
  """

  method: str
  steps: tuple[Callable, ...]
  create: Callable[[], Any]
  trainable: Callable[[Any], Any]
  choices: Callable[[Any], Choices]
  phases: Phases


def make_contestant(
  config: ConfigDict, table: LatencyTable, method: str
) -> Contestant:
  """The configured search by one of `compare.methods`."""
  space = make_space(config)
  target_ms, _, _ = resolve_target(config, space, table)
  slack = config.search.slack
  single = make_search(config, space, table, target_ms)
  phases = single.phases
  if method == 'single_path':

    def single_choices(state) -> Choices:
      decision = decide(
        single.formulation,
        space,
        state.params,
        jax.random.key(0),
        temperature=phases.temperature(jnp.asarray(phases.total)),
      )
      logits = np.asarray(decision.logits)
      if target_ms is None:
        return space.choices_of((logits >= 0).astype(np.float32))
      return project(space, table, logits, target_ms, slack)

    return Contestant(
      method,
      (make_search_step(single),),
      functools.partial(create_state, single, config),
      lambda state: state.params,
      single_choices,
      phases,
    )

  multi = MultiPathSearch(
    net=MultiPathNet(
      space,
      dtype=config.search.dtype,
      axis_name=AXIS if config.search.sync_batch_norm else None,
    ),
    method=method,
    costs=PathCosts.of(table, space),
    phases=phases,
    controller=single.controller,
    learning_rate=learning_rate_schedule(
      config.search,
      dataset_facts(config).steps_per_epoch(config.search.batch_size),
      # Behind the warm-up every other batch is for the weights.
      phases.warm_up + (phases.total - phases.warm_up + 1) // 2,
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
    if target_ms is None:
      return tuple(max(own, key=own.__getitem__) for own in values)
    return project_likelihoods(space, table, values, target_ms, slack)

  return Contestant(
    method,
    (make_weight_step(multi), make_path_step(multi)),
    create,
    lambda state: (state.network.params, state.path_logits),
    choices,
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
