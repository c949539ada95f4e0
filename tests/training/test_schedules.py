"""Values of every schedule at its boundaries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from spnas_jax.training.schedules import (
  Phases,
  ema_decay,
  learning_rate_schedule,
)


def recipe(**changes):
  """The published recipe: 0.016 per 256 images, batch 1024."""
  return ConfigDict(
    {
      'learning_rate': 0.016,
      'batch_size': 1024,
      'lr_warmup_epochs': 5.0,
      'schedule': 'exponential',
      'decay_rate': 0.97,
      'decay_epochs': 2.4,
      **changes,
    }
  )


def test_linear_scaling_and_warm_up():
  """0 at step 0, half of 0.064 halfway, and no jump at the end of warm-up.

  5 epochs of 100 steps; behind them the two stairs that began meanwhile count,
  as in the MnasNet recipe, whose decay starts with step 0.
  """
  rate = learning_rate_schedule(recipe(), 100, 10_000)
  assert rate(0) == 0.0
  np.testing.assert_allclose(rate(250), 0.032, rtol=1e-6)
  np.testing.assert_allclose(rate(499), 0.064 * 499 / 500, rtol=1e-6)
  np.testing.assert_allclose(rate(500), 0.064 * 0.97**2, rtol=1e-6)


def test_exponential_stairs():
  """x 0.97 at each 2.4 epochs exactly, constant between (the search: 0.064)."""
  rate = learning_rate_schedule(recipe(lr_warmup_epochs=0.0), 1250, 10_008)
  for step, stairs in (
    (0, 0),
    (2999, 0),
    (3000, 1),
    (5999, 1),
    (6000, 2),
    (9000, 3),
  ):
    np.testing.assert_allclose(rate(step), 0.064 * 0.97**stairs, rtol=1e-6)


def test_stairs_do_not_need_a_whole_number_of_steps():
  """2.4 epochs of 1251 steps end at 3002.4: step 3002 is on the old stair."""
  rate = learning_rate_schedule(recipe(lr_warmup_epochs=0.0), 1251, 10_008)
  np.testing.assert_allclose(rate(3002), 0.064, rtol=1e-6)
  np.testing.assert_allclose(rate(3003), 0.064 * 0.97, rtol=1e-6)


def test_cosine():
  """Peak at the end of warm-up, half in the middle, 0 at the end and after."""
  rate = learning_rate_schedule(
    recipe(schedule='cosine', lr_warmup_epochs=1.0), 100, 1100
  )
  wanted = {50: 0.032, 100: 0.064, 600: 0.032, 1100: 0.0, 5000: 0.0}
  for step, value in wanted.items():
    # cos(pi) in float32 is -1 to rounding; 1e-8 of a peak of 0.064.
    np.testing.assert_allclose(rate(step), value, rtol=1e-6, atol=1e-8)
  falling = [float(rate(s)) for s in range(100, 1101, 100)]
  assert falling == sorted(falling, reverse=True)


def test_constant():
  """One value, after the warm-up if there is one."""
  rate = learning_rate_schedule(
    recipe(schedule='constant', lr_warmup_epochs=0.0), 10, 100
  )
  for step in (0, 1, 99, 10_000):
    np.testing.assert_allclose(rate(step), 0.064, rtol=1e-6)


def test_schedules_are_traceable():
  """A traced int32 step gives the eager float32 value."""
  for schedule in ('exponential', 'cosine', 'constant'):
    rate = learning_rate_schedule(recipe(schedule=schedule), 10, 200)
    for step in (0, 49, 50, 199):
      traced = jax.jit(rate)(jnp.int32(step))
      assert traced.dtype == jnp.float32
      # A fused power or cosine may differ in the last place.
      np.testing.assert_allclose(traced, rate(step), rtol=1e-6, atol=1e-9)


def test_ema_decay():
  """min(limit, (1 + t) / (10 + t)): 0.1 at first, the limit when it is met."""
  for step, wanted in ((0, 0.1), (8, 0.5), (89, 90 / 99), (10**6, 0.9999)):
    got = ema_decay(0.9999, jnp.int32(step))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
  # (1 + t) / (10 + t) reaches 0.99 at t = 890.
  np.testing.assert_allclose(ema_decay(0.99, jnp.int32(889)), 890 / 899)
  assert ema_decay(0.99, jnp.int32(891)) == np.float32(0.99)


def test_phases():
  """Progress is 0 up to the first search step, 1 at the end."""
  phases = Phases(warm_up=40, total=140)
  assert phases.search == 100
  for step, wanted in ((0, 0), (39, 0), (40, 0), (90, 0.5), (140, 1), (999, 1)):
    np.testing.assert_allclose(phases.progress(step), wanted, atol=1e-7)


def test_phases_without_a_search():
  """Only warm-up: no division by zero, progress stays 0 until its end."""
  phases = Phases(warm_up=10, total=10)
  assert phases.search == 1
  assert phases.progress(9) == 0.0
  assert np.isfinite(phases.temperature(10))


@pytest.mark.parametrize('end', [0.05, 1.0])
def test_temperature(end):
  """Constant, then geometric between two fractions of the search, constant."""
  phases = Phases(
    warm_up=100,
    total=1100,
    temperature_start=1.0,
    temperature_end=end,
    fall_start=0.2,
    fall_end=0.9,
  )
  for step, wanted in (
    (0, 1.0),
    (100, 1.0),
    (300, 1.0),
    (650, end**0.5),
    (1000, end),
    (1100, end),
  ):
    # float32 power.
    np.testing.assert_allclose(phases.temperature(step), wanted, rtol=1e-5)


def test_temperature_may_fall_at_once():
  """fall_start == fall_end is a step, not a division by zero."""
  phases = Phases(0, 100, 1.0, 0.1, fall_start=0.5, fall_end=0.5)
  np.testing.assert_allclose(phases.temperature(49), 1.0, rtol=1e-5)
  np.testing.assert_allclose(phases.temperature(51), 0.1, rtol=1e-5)
