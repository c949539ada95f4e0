"""lambda of Eq. 9, chosen for the user: a two-sided controller.

The error is e = ln(E[R] / T_t) with T_t a geometric ramp from the runtime at
the end of warm-up to the target. lambda = clip(P e + I integral of e, +-limit),
where the integral runs over the search phase as a fraction of its length, so
that the gains do not depend on how many steps a search has. Negative values are
wanted: a network that has become too fast is pushed back.
"""

from __future__ import annotations

import dataclasses

import flax.struct
import jax.numpy as jnp
from jax import Array


class ControllerState(flax.struct.PyTreeNode):
  """Attributes: integral of e over the phase; start_ms of the ramp; lambda_."""

  integral: Array
  start_ms: Array
  lambda_: Array

  @classmethod
  def create(cls) -> ControllerState:
    # Three buffers of their own: a donated state may not alias itself.
    return cls(*(jnp.array(v, jnp.float32) for v in (0.0, 1.0, 0.0)))


@dataclasses.dataclass(frozen=True)
class Controller:
  """Attributes are the config keys of the same names under `search.controller`.

  target_ms: where E[R] is to end, ms.
  ramp: fraction of the search phase after which the ramp is at the target.
  proportional, integral: gains P and I.
  limit: largest absolute lambda.
  """

  target_ms: float
  ramp: float
  proportional: float
  integral: float
  limit: float

  def ramp_ms(self, start_ms: Array, progress: Array) -> Array:
    """T_t in ms; `progress` in [0, 1] through the search phase."""
    share = jnp.clip(progress / max(self.ramp, 1e-6), 0.0, 1.0)
    return start_ms * (self.target_ms / start_ms) ** share

  def update(
    self,
    state: ControllerState,
    runtime_ms: Array,
    progress: Array,
    step_share: float,
  ) -> ControllerState:
    """One step of the controller.

    Args:
      state: of the step before.
      runtime_ms: E[R] now, [] ms.
      progress: fraction of the search phase that is over; 0 at its first step,
        which also sets the ramp's start.
      step_share: 1 / number of steps in the phase.
    """
    start = jnp.where(progress <= 0, runtime_ms, state.start_ms)
    error = jnp.log(runtime_ms / self.ramp_ms(start, progress))
    integral = state.integral + error * step_share
    lambda_ = self.proportional * error + self.integral * integral
    bounded = jnp.clip(lambda_, -self.limit, self.limit)
    # No wind-up: the integral stands still while lambda is at its limit.
    integral = jnp.where(lambda_ == bounded, integral, state.integral)
    return ControllerState(integral, start, bounded)
