"""The search step: weights and thresholds in one pass (paper Eqs 8-9)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from spnas_jax.core.parallel import AXIS
from spnas_jax.models.supernet import SuperNet
from spnas_jax.search.controller import Controller
from spnas_jax.search.gates import (
  Decision,
  Formulation,
  decide,
  relative_importance,
)
from spnas_jax.search.runtime import RuntimeModel
from spnas_jax.training.objective import cross_entropy, objective
from spnas_jax.training.optimizer import decayed, grouped, weight_optimizer
from spnas_jax.training.schedules import Phases
from spnas_jax.training.steps import accuracy, apply_gradients, dropout_mask
from spnas_jax.training.train_state import TrainState

# A gate whose surrogate has a smaller slope than this (|logit| above 5.8) is
# counted as saturated: evidence hardly moves it any more.
SATURATED = 0.003


@dataclasses.dataclass(frozen=True)
class Search:
  """Everything static that a search step closes over.

  Attributes:
    supernet: the network.
    formulation: how gates are decided.
    runtime: milliseconds of the space's decisions.
    phases: warm-up and search, in steps.
    controller: of lambda; None = `recipe.lambda_` from the end of warm-up on.
    learning_rate: of the weights, by step.
    recipe: config section `search`.
    seed: of gates and dropout.
    class_weights: see `cross_entropy`.
  """

  supernet: SuperNet
  formulation: Formulation
  runtime: RuntimeModel
  phases: Phases
  controller: Controller | None
  learning_rate: optax.Schedule
  recipe: Any
  seed: int
  class_weights: np.ndarray | None = None

  def optimizer(self) -> optax.GradientTransformation:
    """Weights by the recipe; thresholds likewise or, sampled, by Adam."""
    weights = weight_optimizer(self.recipe.optimizer, self.learning_rate)
    if not self.formulation.sampled:
      return grouped(weights, weights)
    return grouped(
      weights, optax.adam(self.threshold_learning_rate, b1=0.9, b2=0.99)
    )

  def threshold_learning_rate(self, step: Array) -> Array:
    """Adam's step in units of the threshold; 0 during warm-up.

    Adam moves a threshold by about its learning rate a step whatever the
    gradient, so the rate is the distance a logit may travel in the whole search
    over its number of steps; it falls with tau, in which logits are measured.
    """
    rate = self.recipe.threshold_travel / self.phases.search
    rate = rate * self.phases.temperature(step)
    return jnp.where(step < self.phases.warm_up, 0.0, rate)

  def settled(self, params: Any) -> Decision:
    """The decision after the last step; its logits have no noise."""
    tau = self.phases.temperature(jnp.asarray(self.phases.total))

    def last(params: Any) -> Decision:
      space, key = self.supernet.space, jax.random.key(0)
      return decide(self.formulation, space, params, key, temperature=tau)

    return jax.device_get(jax.jit(last)(params))

  def decide(self, params: Any, step: Array, key: Array) -> Decision:
    """The decisions of a step."""
    return decide(
      self.formulation,
      self.supernet.space,
      params,
      key,
      temperature=self.phases.temperature(step),
      keep_probability=self.recipe.keep_probability,
      warm_up=step < self.phases.warm_up,
    )

  def runtime_ms(self, gates: Array) -> Array:
    """The loss's runtime of gates, [] ms."""
    form = self.recipe.runtime_form or self.formulation.runtime_form
    return self.runtime(gates, form)

  def keys(self, step: Array) -> tuple[Array, Array]:
    """(gates, dropout) keys of a step, the same on all devices."""
    key = jax.random.fold_in(jax.random.key(self.seed), step)
    gates, dropout = jax.random.split(key)
    return gates, dropout

  def start_thresholds(self, params: Any, step: Array) -> Any:
    """At the first step after warm-up: all sampled gates to the same logit."""
    if not self.formulation.sampled:
      return params
    importances = relative_importance(self.supernet.space, params)
    tau = self.phases.temperature(step)
    start = importances - self.recipe.start_logit * tau
    first = step == self.phases.warm_up
    thresholds = jnp.where(first, start, params['thresholds'])
    return {**params, 'thresholds': thresholds}

  def limit_thresholds(self, params: Any, step: Array) -> Any:
    """Keeps every sampled gate's |logit| within `logit_limit`.

    Without it logits grow as tau falls and no later evidence can turn a gate.
    """
    if not self.formulation.sampled:
      return params
    importances = lax.stop_gradient(
      relative_importance(self.supernet.space, params)
    )
    reach = self.recipe.logit_limit * self.phases.temperature(step)
    moved = jnp.clip(
      params['thresholds'], importances - reach, importances + reach
    )
    searching = step >= self.phases.warm_up
    thresholds = jnp.where(searching, moved, params['thresholds'])
    return {**params, 'thresholds': thresholds}

  def loss(
    self,
    params: Any,
    batch_stats: Any,
    batch: dict[str, Array],
    step: Array,
    controller_state: Any,
  ):
    """Objective of one device's batch: (total, auxiliaries)."""
    gates_key, dropout_key = self.keys(step)
    if self.recipe.gate_samples == 'per_device':
      gates_key = jax.random.fold_in(gates_key, lax.axis_index(AXIS))
    decision = self.decide(params, step, gates_key)
    runtime_ms = self.runtime_ms(decision.runtime_gates)
    lambda_, controller_state = self._lambda(runtime_ms, step, controller_state)
    mask = dropout_mask(
      dropout_key,
      self.recipe.dropout,
      batch['label'].shape[0],
      self.supernet.space.largest.feature_channels,
    )
    logits, updated = self.supernet.apply(
      {'params': params, 'batch_stats': batch_stats},
      batch['image'],
      decision.gates,
      train=True,
      dropout_mask=mask,
      mutable=['batch_stats'],
    )
    ce = cross_entropy(
      logits,
      batch['label'],
      self.recipe.label_smoothing,
      self.class_weights,
    )
    terms = objective(
      ce,
      runtime_ms,
      lambda_,
      decayed(params, not self.formulation.sampled),
      self.recipe.weight_decay,
    )
    aux = (
      terms,
      decision,
      lambda_,
      controller_state,
      accuracy(logits, batch['label']),
      updated['batch_stats'],
    )
    return terms.total, aux

  def _lambda(self, runtime_ms, step, state):
    """lambda of this step and the controller's next state."""
    runtime_ms = lax.stop_gradient(runtime_ms)
    searching = step >= self.phases.warm_up
    if self.controller is None:
      value = jnp.where(searching, self.recipe.lambda_, 0.0)
      return value, state
    moved = self.controller.update(
      state, runtime_ms, self.phases.progress(step), 1 / self.phases.search
    )
    state = jax.tree.map(
      lambda new, old: jnp.where(searching, new, old), moved, state
    )
    return jnp.where(searching, state.lambda_, 0.0), state


def make_search_step(search: Search):
  """The step of a search.

  Returns:
    step(state, {'image' [b, H, W, C], 'label' [b]}) -> (state, metrics) for one
    device under the axis `parallel.AXIS`. `metrics` has the parts of Eq. 9 and,
    per gate, what a user needs to see a stuck search ('logit', 'importance',
    'threshold_gradient').
  """
  optimizer = search.optimizer()

  def search_step(state: TrainState, batch: dict[str, Array]):
    params = search.start_thresholds(state.params, state.step)
    (_, aux), gradients = jax.value_and_grad(search.loss, has_aux=True)(
      params,
      state.batch_stats,
      batch,
      state.step,
      state.controller,
    )
    terms, decision, lambda_, controller, correct, stats = aux
    metrics = lax.pmean(
      {
        'cross_entropy': terms.cross_entropy,
        'runtime_ms': terms.runtime_ms,
        'undropped_ms': search.runtime_ms(decision.undropped),
        'lambda': lambda_,
        'loss': terms.total,
        'accuracy': correct,
        'logit': decision.logits,
        'importance': decision.importance,
        'threshold_gradient': gradients['thresholds'],
      },
      AXIS,
    )
    metrics['learning_rate'] = search.learning_rate(state.step)
    metrics['temperature'] = search.phases.temperature(state.step)
    metrics['open_gates'] = (decision.logits >= 0).astype(jnp.float32).mean()
    slope = jax.nn.sigmoid(decision.logits) * jax.nn.sigmoid(-decision.logits)
    metrics['saturated_gates'] = (slope < SATURATED).astype(jnp.float32).mean()
    if search.controller is not None:
      ramp = search.controller.ramp_ms(
        controller.start_ms, search.phases.progress(state.step)
      )
      metrics['target_ms'] = jnp.where(
        state.step < search.phases.warm_up, search.controller.target_ms, ramp
      )
    step = state.step
    state = apply_gradients(
      state.replace(params=params, controller=controller),
      optimizer,
      gradients,
      stats,
      search.recipe.ema_decay,
    )
    return state.replace(
      params=search.limit_thresholds(state.params, step)
    ), metrics

  return search_step
