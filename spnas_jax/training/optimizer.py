"""Optimizers, their parameter groups by rule, and the moving average."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

# Every parameter's path matches exactly one rule.
GROUPS = (
  ('thresholds', r'thresholds'),
  ('norms', r'.*_bn/(scale|bias)'),
  (
    'weights',
    r'.*/((squeeze_|excite_)?kernel|(classifier/|squeeze_|excite_)bias)',
  ),
)


def path_of(key_path) -> str:
  """'layer03/depthwise/kernel' from a JAX key path."""
  return '/'.join(str(getattr(k, 'key', k)) for k in key_path)


def group_of(path: str) -> str:
  """The group of a parameter.

  Raises:
    ValueError: no rule or more than one fits, which would leave a parameter
      untrained or train it twice.
  """
  fitting = [name for name, rule in GROUPS if re.fullmatch(rule, path)]
  if len(fitting) != 1:
    raise ValueError(f'parameter {path!r} fits rules {fitting}, must fit one')
  return fitting[0]


def groups(params: Any) -> Any:
  """Tree of group names, one for each parameter."""
  return jax.tree_util.tree_map_with_path(
    lambda key_path, _: group_of(path_of(key_path)), params
  )


def decayed(params: Any, with_thresholds: bool) -> list[Any]:
  """The leaves under L2: kernels and biases, never batch norm.

  The authors' code also decays the thresholds.
  """
  leaves = []
  for key_path, leaf in jax.tree_util.tree_leaves_with_path(params):
    group = group_of(path_of(key_path))
    if group == 'weights' or (group == 'thresholds' and with_thresholds):
      leaves.append(leaf)
  return leaves


def weight_optimizer(
  name: str, learning_rate: optax.Schedule
) -> optax.GradientTransformation:
  """The recipe's optimizer; L2 is in the loss, not here.

  'rmsprop' is TensorFlow 1's: accumulator from 1, epsilon inside the root,
  learning rate inside the momentum buffer.
  """
  if name == 'rmsprop':
    return optax.rmsprop(
      learning_rate,
      decay=0.9,
      eps=1e-3,
      initial_scale=1.0,
      eps_in_sqrt=True,
      momentum=0.9,
    )
  if name == 'sgd':
    return optax.sgd(learning_rate, momentum=0.9, nesterov=True)
  if name == 'adamw':
    return optax.adamw(learning_rate, weight_decay=0.0)
  raise ValueError(f'{name!r}, allowed: rmsprop, sgd, adamw')


def train_optimizer(
  recipe: Any, learning_rate: optax.Schedule, frozen_steps: int
) -> optax.GradientTransformation:
  """The optimizer of a training that starts from given weights.

  The classifier follows `learning_rate`. The backbone, which is all the rest,
  follows `backbone_rate` times it; in the first `frozen_steps` it keeps its
  bits. Gradients are accumulated from the first step on, so that it starts as
  evenly as it would later.

  Args:
    recipe: config section `train`; without `freeze_epochs` and at
      `backbone_rate` 1 this is `weight_optimizer`, with the same state.
    learning_rate: by step.
    frozen_steps: `freeze_epochs` in steps.
  """
  if not recipe.freeze_epochs and recipe.backbone_rate == 1:
    return weight_optimizer(recipe.optimizer, learning_rate)

  def backbone_rate(step):
    rate = recipe.backbone_rate * learning_rate(step)
    return jnp.where(step < frozen_steps, 0.0, rate)

  return optax.multi_transform(
    {
      'classifier': weight_optimizer(recipe.optimizer, learning_rate),
      'backbone': weight_optimizer(recipe.optimizer, backbone_rate),
    },
    _parts,
  )


def _parts(params: Any) -> Any:
  """Tree of 'classifier' and 'backbone', one for each parameter."""
  return jax.tree_util.tree_map_with_path(
    lambda key_path, _: (
      'classifier'
      if path_of(key_path).startswith('frame/classifier/')
      else 'backbone'
    ),
    params,
  )


def grouped(
  weights: optax.GradientTransformation,
  thresholds: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """One pass over all parameters, thresholds by their own rule."""
  return optax.multi_transform(
    {'weights': weights, 'norms': weights, 'thresholds': thresholds}, groups
  )


def moving_average(average: Any, value: Any, decay: jax.Array) -> Any:
  """decay * average + (1 - decay) * value, leaf by leaf."""
  return jax.tree.map(lambda a, v: a + (1 - decay) * (v - a), average, value)
