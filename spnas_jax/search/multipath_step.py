"""The steps of a multi-path search, weights and path logits in turn (Eq. 7).

The bi-level problem is solved as the multi-path methods do: a step of the
weights on one batch, then a step of the path logits on the next, so that the
two see different images.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from spnas_jax.core.parallel import AXIS, average
from spnas_jax.search.controller import Controller, ControllerState
from spnas_jax.search.multipath import MultiPathNet, PathCosts, decide_paths
from spnas_jax.training.objective import cross_entropy, objective
from spnas_jax.training.optimizer import decayed, weight_optimizer
from spnas_jax.training.schedules import Phases
from spnas_jax.training.steps import accuracy, apply_gradients, dropout_mask
from spnas_jax.training.train_state import TrainState


class MultiPathState(flax.struct.PyTreeNode):
  """State of a multi-path search.

  step: int32 [], batches seen, of either kind of step.
  network: weights, their statistics, averages and optimizer.
  path_logits: float32 [paths].
  path_opt_state: Adam's.
  controller: of lambda.
  """

  step: Array
  network: TrainState
  path_logits: Array
  path_opt_state: Any
  controller: ControllerState


@dataclasses.dataclass(frozen=True)
class MultiPathSearch:
  """Everything static that the two steps close over.

  Attributes:
    net: the network.
    method: one of `rules.MULTI_PATH`.
    costs: milliseconds of the paths.
    phases: warm-up (weights only) and search, in batches.
    controller: of lambda; None = `recipe.lambda_`.
    learning_rate: of the weights, by step of the weights.
    recipe: config section `search`.
    seed: of paths and dropout.
  """

  net: MultiPathNet
  method: str
  costs: PathCosts
  phases: Phases
  controller: Controller | None
  learning_rate: optax.Schedule
  recipe: Any
  seed: int

  @property
  def weight_optimizer(self) -> optax.GradientTransformation:
    return weight_optimizer(self.recipe.optimizer, self.learning_rate)

  @property
  def path_optimizer(self) -> optax.GradientTransformation:
    """Adam, which moves a logit by about its rate a step.

    The rate is the distance that single-path thresholds may travel, over the
    number of steps there are.
    """
    steps = max(1, self.phases.search // 2)
    return optax.adam(self.recipe.threshold_travel / steps, b1=0.9, b2=0.99)

  def create(self, variables: dict[str, Any]) -> MultiPathState:
    """State at step 0; every path is as likely as the others of its layer."""
    count = len(self.costs.costs)
    path_logits = jnp.zeros(count, jnp.float32)
    return MultiPathState(
      step=jnp.zeros((), jnp.int32),
      network=TrainState.create(variables, self.weight_optimizer),
      path_logits=path_logits,
      path_opt_state=self.path_optimizer.init(path_logits),
      controller=ControllerState.create(),
    )

  def cross_entropy(
    self,
    state: MultiPathState,
    params: Any,
    path_logits: Array,
    batch: dict[str, Array],
    two_paths: bool,
  ):
    """(CE of one device's batch, (accuracy, batch statistics))."""
    key = jax.random.fold_in(jax.random.key(self.seed), state.step)
    paths_key, dropout_key = jax.random.split(key)
    space = self.net.space
    paths = decide_paths(
      self.method,
      space,
      path_logits,
      paths_key,
      temperature=self.phases.temperature(state.step),
      two_paths=two_paths,
    )
    logits, updated = self.net.apply(
      {'params': params, 'batch_stats': state.network.batch_stats},
      batch['image'],
      paths,
      train=True,
      dropout_mask=dropout_mask(
        dropout_key,
        self.recipe.dropout,
        batch['label'].shape[0],
        space.largest.feature_channels,
      ),
      mutable=['batch_stats'],
    )
    ce = cross_entropy(logits, batch['label'], self.recipe.label_smoothing)
    return ce, (accuracy(logits, batch['label']), updated['batch_stats'])


def make_weight_step(search: MultiPathSearch):
  """Step of the weights under fixed path logits.

  Returns:
    step(state, {'image' [b, H, W, C], 'label' [b]}) -> (state, metrics) for one
    device under the axis `parallel.AXIS`.
  """

  def weight_step(state: MultiPathState, batch: dict[str, Array]):
    def loss(params):
      ce, (correct, stats) = search.cross_entropy(
        state, params, state.path_logits, batch, False
      )
      total = objective(
        ce,
        jnp.float32(1),
        0.0,
        decayed(params, False),
        search.recipe.weight_decay,
      ).total
      return total, (ce, correct, stats)

    (total, (ce, correct, stats)), gradients = jax.value_and_grad(
      loss, has_aux=True
    )(state.network.params)
    metrics = _metrics(search, state, total, ce, correct)
    network = apply_gradients(
      state.network,
      search.weight_optimizer,
      gradients,
      stats,
      search.recipe.ema_decay,
    )
    return state.replace(step=state.step + 1, network=network), metrics

  return weight_step


def make_path_step(search: MultiPathSearch):
  """Step of the path logits under fixed weights; see `make_weight_step`."""

  def path_step(state: MultiPathState, batch: dict[str, Array]):
    space = search.net.space
    runtime_ms = search.costs.expected_ms(space, state.path_logits)
    controller = state.controller
    lambda_ = search.recipe.lambda_
    if search.controller is not None:
      controller = search.controller.update(
        controller,
        runtime_ms,
        # The phase's first batch is for the weights; the ramp starts after it.
        search.phases.progress(state.step - 1),
        2 / search.phases.search,
      )
      lambda_ = controller.lambda_

    def loss(path_logits):
      ce, (correct, _) = search.cross_entropy(
        state, state.network.params, path_logits, batch, True
      )
      ms = search.costs.expected_ms(space, path_logits)
      return objective(ce, ms, lambda_, (), 0.0).total, (ce, correct)

    (total, (ce, correct)), gradient = jax.value_and_grad(loss, has_aux=True)(
      state.path_logits
    )
    metrics = _metrics(search, state, total, ce, correct)
    updates, path_opt_state = search.path_optimizer.update(
      average(gradient), state.path_opt_state
    )
    return state.replace(
      step=state.step + 1,
      path_logits=optax.apply_updates(state.path_logits, updates),
      path_opt_state=path_opt_state,
      controller=controller,
    ), metrics

  return path_step


def _metrics(search, state, total, ce, correct):
  metrics = lax.pmean(
    {'loss': total, 'cross_entropy': ce, 'accuracy': correct}, AXIS
  )
  metrics['runtime_ms'] = search.costs.expected_ms(
    search.net.space, state.path_logits
  )
  metrics['lambda'] = state.controller.lambda_
  return metrics
