"""lambda of Eq. 9, chosen for the user: a two-sided controller.

The error is e = ln(E[R] / T_t) with T_t a geometric ramp from the runtime at
the end of warm-up to the target. lambda = clip(P e + I integral of e, +-limit),
where the integral runs over the search phase as a fraction of its length, so
that the gains do not depend on how many steps a search has. Negative values are
wanted: a network that has become too fast is pushed back.

What the gates decode to is a network, not a mean: a gate with probability 0.6
counts for all of its milliseconds, not for 60% of them. Behind the ramp the
R that is steered is therefore taken of probabilities that approach decisions.
"""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
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
  sharpness: what log-odds are multiplied by, in the end, for the R that is
    steered; 1 = E[R] itself.
  """

  target_ms: float
  ramp: float
  proportional: float
  integral: float
  limit: float
  sharpness: float

  def probabilities(self, logits: Array, progress: Array) -> Array:
    """Gates of which R is steered, from log-odds, of the same shape.

    As they are until the ramp's end; sharpest from three quarters of the rest
    on, which leaves the thresholds time to follow.
    """
    rise = max(0.75 * (1 - self.ramp), 1e-6)
    share = jnp.clip((progress - self.ramp) / rise, 0.0, 1.0)
    return jax.nn.sigmoid(logits * self.sharpness**share)

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
      runtime_ms: R of `probabilities` now, [] ms.
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
