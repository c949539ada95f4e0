"""The state of a search or a training: everything a checkpoint holds.

Random keys and the data position are not in it: both are functions of the seed
and `step`.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array


class TrainState(flax.struct.PyTreeNode):
  """Attributes.

  step: int32 [], optimizer steps taken.
  params, batch_stats: of the network.
  ema_params, ema_batch_stats: their moving averages; evaluation uses them.
  opt_state: optimizer accumulators.
  controller: `controller.ControllerState` of a search, () in training.
  """

  step: Array
  params: Any
  batch_stats: Any
  ema_params: Any
  ema_batch_stats: Any
  opt_state: Any
  controller: Any = ()

  @property
  def averaged(self) -> dict[str, Any]:
    """{'params', 'batch_stats'}: the moving averages, for a model's `apply`."""
    return {'params': self.ema_params, 'batch_stats': self.ema_batch_stats}

  @classmethod
  def create(
    cls,
    variables: dict[str, Any],
    optimizer: optax.GradientTransformation,
    controller: Any = (),
  ) -> TrainState:
    """A state at step 0; the averages are copies, since donating a state whose
    leaves share a buffer would free it twice."""

    def copy(tree):
      return jax.tree.map(jnp.copy, tree)

    return cls(
      step=jnp.zeros((), jnp.int32),
      params=variables['params'],
      batch_stats=variables['batch_stats'],
      ema_params=copy(variables['params']),
      ema_batch_stats=copy(variables['batch_stats']),
      opt_state=optimizer.init(variables['params']),
      controller=controller,
    )
