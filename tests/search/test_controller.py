"""The controller of lambda: signs, ramp, limits, any number of steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spnas_jax.search.controller import Controller, ControllerState

PLAIN = Controller(
  target_ms=50.0, ramp=0.6, proportional=2.0, integral=4.0, limit=20.0
)


def run(controller, runtime_of, steps):
  """lambda and runtime of every step; runtime_of(progress, lambda) in ms."""

  def one(state, step):
    progress = step / steps
    runtime_ms = runtime_of(progress, state.lambda_)
    state = controller.update(state, runtime_ms, progress, 1 / steps)
    return state, (state.lambda_, runtime_ms)

  steps_ = jnp.arange(steps, dtype=jnp.float32)
  state, history = jax.jit(lambda state: jax.lax.scan(one, state, steps_))(
    ControllerState.create()
  )
  return state, *map(np.asarray, history)


def closed_loop(controller, steps, start_ms, gain=20.0):
  """A plant of which lambda = 1 would change ln R by `gain` in the phase."""

  def one(carry, step):
    state, log_ms = carry
    state = controller.update(state, jnp.exp(log_ms), step / steps, 1 / steps)
    log_ms = log_ms - gain * state.lambda_ / steps
    return (state, log_ms), (state.lambda_, jnp.exp(log_ms))

  steps_ = jnp.arange(steps, dtype=jnp.float32)
  start = ControllerState.create(), jnp.log(jnp.float32(start_ms))
  _, history = jax.jit(lambda s: jax.lax.scan(one, s, steps_))(start)
  return map(np.asarray, history)


def test_ramp_is_geometric_from_start_to_target():
  """T_t begins at the start, halves evenly on a log scale, stays at the end."""
  progress = jnp.array([0.0, 0.3, 0.6, 0.8, 1.0])
  ramp = PLAIN.ramp_ms(jnp.float32(200.0), progress)
  # 200 -> 50 ms over 60% of the phase: 100 ms halfway. float32 power: 1e-5.
  np.testing.assert_allclose(ramp, [200, 100, 50, 50, 50], rtol=1e-5)
  at_once = dataclasses.replace(PLAIN, ramp=0.0)
  ramp = at_once.ramp_ms(jnp.float32(200.0), jnp.float32(0.01))
  np.testing.assert_allclose(ramp, 50.0, rtol=1e-5)


def test_first_step_sets_the_ramp_and_asks_for_nothing():
  """At progress 0 the error is 0 by definition: lambda starts at 0."""
  state = PLAIN.update(
    ControllerState.create(), jnp.float32(123.0), jnp.float32(0.0), 0.01
  )
  assert state.start_ms == 123.0
  assert state.lambda_ == 0.0 and state.integral == 0.0
  later = PLAIN.update(state, jnp.float32(80.0), jnp.float32(0.3), 0.01)
  assert later.start_ms == 123.0


@pytest.mark.parametrize(('runtime_ms', 'sign'), [(60.0, 1), (40.0, -1)])
def test_both_signs(runtime_ms, sign):
  """Too slow pushes down, too fast pushes back up: lambda may be negative."""
  state = ControllerState(jnp.float32(0), jnp.float32(100.0), jnp.float32(0))
  state = PLAIN.update(state, jnp.float32(runtime_ms), jnp.float32(0.9), 0.01)
  error = np.log(runtime_ms / 50)
  wanted = 2.0 * error + 4.0 * 0.01 * error
  np.testing.assert_allclose(state.lambda_, wanted, rtol=1e-5)
  assert np.sign(state.lambda_) == sign


def test_lambda_stays_within_its_limit_and_does_not_wind_up():
  """While lambda is at its limit the integral stands still.

  A runtime that cannot follow for half of the phase must not leave a debt: as
  soon as the error changes its sign, so does lambda.
  """
  limited = dataclasses.replace(PLAIN, integral=100.0, limit=1.0)

  def runtime(progress, _):
    return jnp.where(progress < 0.5, 100.0, 25.0)

  state, lambdas, _ = run(limited, runtime, 200)
  assert np.abs(lambdas).max() <= 1.0
  assert lambdas[99] == 1.0
  # Two steps: proportional 2 * ln(1/2) = -1.4 outweighs any integral below 1.
  assert lambdas[101] < 0.0
  assert abs(float(state.integral)) < 0.1


def test_result_does_not_depend_on_the_number_of_steps():
  """Gains are per phase, not per step: the same lambda at the same progress.

  1000 and 4000 steps of one runtime curve; the integral is a Riemann sum,
  whose difference is of the order of one step's share, 1e-3 of I * e.
  """

  def runtime(progress, _):
    return 100.0 * (1 - 0.3 * progress)

  _, few, _ = run(PLAIN, runtime, 1000)
  _, many, _ = run(PLAIN, runtime, 4000)
  assert np.abs(few).max() > 0.5
  np.testing.assert_allclose(few, many[::4], atol=4e-3)


@pytest.mark.parametrize('start_ms', [200.0, 20.0])
@pytest.mark.parametrize('steps', [200, 2000])
def test_closed_loop_reaches_the_target(start_ms, steps):
  """With the default gains a plant that obeys lambda ends at the target.

  From above and from below, with few steps and with many; 2% is the default
  slack of the projection, which only has to choose within it.
  """
  lambdas, runtimes = closed_loop(PLAIN, steps, start_ms)
  assert abs(runtimes[-1] / 50.0 - 1) < 0.02
  assert np.all(np.isfinite(lambdas))


def test_state_has_three_buffers():
  """A donated state may not alias itself."""
  leaves = jax.tree.leaves(ControllerState.create())
  pointers = {leaf.unsafe_buffer_pointer() for leaf in leaves}
  assert len(leaves) == len(pointers) == 3
