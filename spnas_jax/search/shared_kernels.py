"""The paper's Table 2: kernels shared by subsets against kernels of their own.

One network of 3x3 and one of 5x5 kernels are trained individually; a third has
5x5 superkernels, and its loss is the sum over two subsets, the inner 3x3
weights and all of them ("switchable" training, paper §4.3).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from ml_collections import ConfigDict

from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.console import say
from spnas_jax.core.parallel import AXIS, mapped_step
from spnas_jax.models.convnet import ConvNet
from spnas_jax.models.supernet import SuperNet
from spnas_jax.networks.space import Choice, SearchSpace
from spnas_jax.search.subnets import forced_scores
from spnas_jax.training.loop import run_steps
from spnas_jax.training.objective import cross_entropy, objective
from spnas_jax.training.optimizer import decayed, grouped, weight_optimizer
from spnas_jax.training.run_setup import (
  device_batches,
  init_variables,
  length_of,
)
from spnas_jax.training.schedules import learning_rate_schedule
from spnas_jax.training.scoring import (
  convnet_eval_step,
  score_split,
  spell_scores,
)
from spnas_jax.training.steps import accuracy, apply_gradients, dropout_mask
from spnas_jax.training.train_state import TrainState
from spnas_jax.training.trained import train_network


def shared_kernels(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
  """Accuracies of both kernel sizes, alone and inside the shared network."""
  space = kernels_only(make_space(config))
  kernels = space.stages[0].kernels
  result: dict[str, Any] = {}
  for kernel in kernels:
    arch = space.architecture_of(
      tuple(
        Choice(kernel, x.expansions[-1], x.squeeze_ratios[-1])
        for x in space.layers
      )
    )
    name = f'ablate/kernel{kernel}'
    state = train_network(config, workdir, name, arch)
    result[f'individual_{kernel}x{kernel}'] = score_split(
      convnet_eval_step(ConvNet(arch)),
      state.averaged,
      config,
      config.evaluate.split,
    )
  supernet, state = _train_shared(config, workdir, space)
  for i, kernel in enumerate(kernels):
    result[f'shared_{kernel}x{kernel}'] = forced_scores(
      config, config.train, supernet, state.ema_params, _gates(space, i)
    )
  for name, scores in result.items():
    say(f'ablate: {name} {spell_scores(scores, space.num_classes)}')
  return result


def kernels_only(space: SearchSpace) -> SearchSpace:
  """The same space with nothing but the kernel size left to decide."""
  stages = tuple(
    dataclasses.replace(
      stage,
      kernels=space.stages[0].kernels,
      expansions=stage.expansions[-1:],
      squeeze_ratios=stage.squeeze_ratios[-1:],
      skippable=False,
    )
    for stage in space.stages
  )
  return dataclasses.replace(space, stages=stages)


def _gates(space: SearchSpace, rank: int) -> np.ndarray:
  """All layers at their kernel number `rank`."""
  return np.array([g.rank <= rank for g in space.gates], np.float32)


def _train_shared(config: ConfigDict, workdir: Workdir, space: SearchSpace):
  """(supernet, its state after the recipe of `train`)."""
  recipe, length = config.train, length_of(config, 'train')
  weights = weight_optimizer(
    recipe.optimizer, learning_rate_schedule(recipe, *length)
  )
  # The thresholds are not used here and stay at 0.
  optimizer = grouped(weights, weights)
  supernet = SuperNet(
    space,
    dtype=recipe.dtype,
    axis_name=AXIS if recipe.sync_batch_norm else None,
  )
  variables = init_variables(
    supernet,
    config.dataset.image_size,
    space.input_channels,
    config.seed,
    jnp.ones(len(space.gates)),
  )
  state = run_steps(
    'ablate/shared',
    workdir,
    TrainState.create(variables, optimizer),
    mapped_step(_shared_step(supernet, optimizer, recipe, config.seed)),
    lambda first: device_batches(config, recipe, config.seed, first),
    length=length,
    recipe=recipe,
    describe=lambda m: f'CE {m["cross_entropy"]:.3f}',
  )
  return supernet, state


def _shared_step(supernet: SuperNet, optimizer, recipe: Any, seed: int):
  """A step whose loss is the sum over all kernel sizes."""
  space = supernet.space
  subsets = np.stack(
    [_gates(space, i) for i in range(len(space.stages[0].kernels))]
  )
  features = space.largest.feature_channels

  def step(state: TrainState, batch: dict[str, Array]):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    mask = dropout_mask(key, recipe.dropout, batch['label'].shape[0], features)

    def loss(params):
      ces, stats, logits = [], state.batch_stats, jnp.zeros(())
      for gates in subsets:
        logits, updated = supernet.apply(
          {'params': params, 'batch_stats': stats},
          batch['image'],
          jnp.asarray(gates),
          train=True,
          dropout_mask=mask,
          mutable=['batch_stats'],
        )
        stats = updated['batch_stats']
        ces.append(
          cross_entropy(logits, batch['label'], recipe.label_smoothing)
        )
      terms = objective(
        sum(ces[1:], ces[0]),
        jnp.float32(1),
        0.0,
        decayed(params, False),
        recipe.weight_decay,
      )
      return terms.total, (ces, logits, stats)

    (total_loss, (ces, logits, stats)), gradients = jax.value_and_grad(
      loss, has_aux=True
    )(state.params)
    metrics = lax.pmean(
      {
        'cross_entropy': ces[-1],
        'loss': total_loss,
        'accuracy': accuracy(logits, batch['label']),
      },
      AXIS,
    )
    return apply_gradients(
      state, optimizer, gradients, stats, recipe.ema_decay
    ), metrics

  return step
