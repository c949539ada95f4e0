"""What depends on the step: epochs become steps here and nowhere else."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import Array


class Length(NamedTuple):
  """How long a run is.

  Attributes:
    steps_per_epoch: full batches in one pass over the training images.
    total: steps of the run; 0 where it has 0 epochs, else at least 1.
  """

  steps_per_epoch: int
  total: int

  def steps(self, epochs: float) -> int:
    """Steps of so much of the run."""
    return round(epochs * self.steps_per_epoch)


def run_length(recipe: Any, steps_per_epoch: int) -> Length:
  """Length of a run under a recipe's `epochs`."""
  total = max(1, round(recipe.epochs * steps_per_epoch))
  return Length(steps_per_epoch, total if recipe.epochs else 0)


def learning_rate_schedule(
  recipe, steps_per_epoch: int, total_steps: int
) -> optax.Schedule:
  """Learning rate by step, float32.

  Args:
    recipe: config section with `learning_rate` (per 256 images), `batch_size`
      (global, images), `lr_warmup_epochs`, `schedule`
      ('exponential': x `decay_rate` every `decay_epochs`, in stairs, as the
      MnasNet recipe; 'cosine' to 0; 'constant').
    steps_per_epoch: steps.
    total_steps: steps, where 'cosine' ends.
  """
  peak = recipe.learning_rate * recipe.batch_size / 256
  warm_up = round(recipe.lr_warmup_epochs * steps_per_epoch)

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    if recipe.schedule == 'exponential':
      stairs = jnp.floor(step / (recipe.decay_epochs * steps_per_epoch))
      rate = peak * recipe.decay_rate**stairs
    elif recipe.schedule == 'cosine':
      share = jnp.clip(
        (step - warm_up) / max(total_steps - warm_up, 1), 0.0, 1.0
      )
      rate = peak * 0.5 * (1 + jnp.cos(jnp.pi * share))
    else:
      rate = jnp.full_like(step, peak)
    if warm_up:
      rate = jnp.where(step < warm_up, peak * step / warm_up, rate)
    return rate

  return schedule


def ema_decay(limit: float, step: Array) -> Array:
  """min(limit, (1 + t) / (10 + t)): TensorFlow's average with a count."""
  step = step.astype(jnp.float32)
  return jnp.minimum(limit, (1 + step) / (10 + step))


@dataclasses.dataclass(frozen=True)
class Phases:
  """The two phases of a search, in steps.

  Attributes:
    warm_up: steps of subset dropout without a runtime term.
    total: steps of the whole search.
    temperature_start, temperature_end: tau before and after its fall.
    fall_start, fall_end: fractions of the search phase between which tau falls
      geometrically.
  """

  warm_up: int
  total: int
  temperature_start: float = 1.0
  temperature_end: float = 1.0
  fall_start: float = 0.0
  fall_end: float = 1.0

  @property
  def search(self) -> int:
    """Steps after the warm-up, at least 1."""
    return max(1, self.total - self.warm_up)

  def progress(self, step: Array) -> Array:
    """Fraction of the search phase that is over; 0 during warm-up."""
    step = jnp.asarray(step, jnp.float32)
    return jnp.clip((step - self.warm_up) / self.search, 0.0, 1.0)

  def temperature(self, step: Array) -> Array:
    """tau at a step."""
    width = max(self.fall_end - self.fall_start, 1e-6)
    share = jnp.clip((self.progress(step) - self.fall_start) / width, 0.0, 1.0)
    ratio = self.temperature_end / self.temperature_start
    return self.temperature_start * ratio**share
