"""Gradients of the search's objective: closed forms, finite differences."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from tiny_search import (
  BATCH,
  SMALL,
  SPACE,
  TABLE,
  as_one_device,
  initial,
  make_search,
)

from spnas_jax.core.parallel import AXIS
from spnas_jax.search.projection import choice_costs, choice_log_likelihoods
from spnas_jax.training.objective import cross_entropy


@functools.cache
def compiled_gradients():
  """(params, lambda) -> the result of `search_gradients`, one compilation."""
  search = make_search(space=SPACE, dropout=0.0, temperature=0.5)
  batch = {'image': tiny.images(BATCH, SPACE), 'label': tiny.labels(BATCH)}
  stats = initial(SPACE)['batch_stats']
  step = jnp.int32(0)

  def evaluate(params, lambda_):
    # A namespace, since a ConfigDict does not hold what is being traced.
    fields = {**search.recipe, 'lambda_': lambda_}
    own = dataclasses.replace(search, recipe=types.SimpleNamespace(**fields))
    params = own.start_thresholds(params, step)

    def loss(p):
      total, aux = own.loss(p, stats, batch, step, ())
      return total, aux[:3]

    (_, (terms, decision, value)), gradients = jax.value_and_grad(
      loss, has_aux=True
    )(params)

    def ce_of_gates(gates):
      logits, _ = own.supernet.apply(
        {'params': params, 'batch_stats': stats},
        batch['image'],
        gates,
        train=True,
        mutable=['batch_stats'],
      )
      return cross_entropy(logits, batch['label'], own.recipe.label_smoothing)

    by_gates = jax.grad(ce_of_gates)(decision.gates)
    return params, gradients, by_gates, decision, terms, value

  return as_one_device(evaluate)


@functools.cache
def search_gradients(lambda_):
  """One step behind warm-up by autodiff: parameters, gradients and their parts.

  Returns:
    (params, gradients, CE by gates, decision, Eq. 9's terms, lambda).
  """
  params = initial(SPACE)['params']
  result = compiled_gradients()(params, jnp.float32(lambda_))
  return jax.tree.map(lambda x: x[0], jax.device_get(result))


def expected_ms(logits):
  """E[R] in float64: each candidate's probability times its milliseconds."""
  constant, costs = choice_costs(TABLE, SPACE)
  values = choice_log_likelihoods(SPACE, logits)
  return constant + sum(
    np.exp(v[choice]) * ms
    for v, own in zip(values, costs, strict=True)
    for choice, ms in own.items()
  )


def test_every_threshold_has_a_gradient_at_the_first_search_step():
  """No gate of the default formulation starts dead, by the data alone.

  The controller begins with lambda = 0 at the first step behind warm-up, so all
  there is then is the cross-entropy through the sampled gates. Layers that are
  skipped in a sample cannot answer for their inner gates: this one keeps both.
  """
  params, gradients, _, decision, terms, value = search_gradients(0.0)
  keep = [p for i in (1, 3) for p in SPACE.gate_index[i, 'keep']]
  np.testing.assert_array_equal(decision.gates[keep], 1.0)
  assert value == 0.0 and terms.runtime_term == 0.0
  assert np.all(np.abs(gradients['thresholds']) > 1e-5)
  # start_thresholds put every gate to the same log-odds.
  np.testing.assert_allclose(decision.logits, 1.0, atol=1e-5)
  assert np.all(params['thresholds'] != 0)


def test_threshold_gradient_closed_form():
  """The full objective's gradient is the chain rule, written out by hand.

    dL/dt = -(dCE/dgate + lambda / R dR/dp) sigma'(logit) / tau

  dCE/dgate by differentiating with respect to the gates themselves, R and
  dR/dp (mean with the gate open minus mean with it closed) in float64 from the
  candidates' probabilities. float32 gradients through four normalised layers:
  1e-3 relative, 1e-5 absolute of values of about 1e-2.
  """
  _, gradients, by_gates, decision, terms, value = search_gradients(3.0)
  assert value == 3.0
  logits = np.float64(decision.logits)
  runtime = expected_ms(logits)
  np.testing.assert_allclose(terms.runtime_ms, runtime, rtol=1e-6)
  by_p = []
  for i in range(len(logits)):
    ends = []
    for certain in (50.0, -50.0):
      moved = logits.copy()
      moved[i] = certain
      ends.append(expected_ms(moved))
    by_p.append(ends[0] - ends[1])
  p = 1 / (1 + np.exp(-logits))
  outer = by_gates + 3.0 / runtime * np.array(by_p)
  wanted = -outer * p * (1 - p) / 0.5
  np.testing.assert_allclose(
    gradients['thresholds'], wanted, rtol=1e-3, atol=1e-5
  )
  assert np.all(np.abs(by_gates) > 1e-5) and np.all(np.array(by_p) > 1e-3)


def test_runtime_term_by_finite_differences():
  """d (lambda ln E[R]) / d t against central differences in float64."""
  search = make_search(space=SPACE, temperature=0.5)
  params = initial(SPACE)['params']
  rng = np.random.default_rng(0)
  thresholds = rng.uniform(0.2, 1.8, len(SPACE.gates)).astype(np.float32)

  def term(t):
    decision = search.decide(
      {**params, 'thresholds': t}, jnp.int32(0), jax.random.key(0)
    )
    return 3.0 * jnp.log(search.runtime_ms(decision.runtime_gates)), decision

  got, decision = jax.jit(jax.grad(term, has_aux=True))(jnp.array(thresholds))
  importance = np.float64(decision.importance)

  def reference(t):
    return 3.0 * np.log(expected_ms((importance - t) / 0.5))

  wanted = []
  for i in range(len(thresholds)):
    shift = np.zeros(len(thresholds))
    shift[i] = 1e-4
    wanted.append(
      (reference(thresholds + shift) - reference(thresholds - shift)) / 2e-4
    )
  # Differences are good to 1e-8; float32 gradients to 1e-5 relative.
  np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-7)
  assert np.all(np.asarray(got) < 0)  # Opening any gate costs time here.


def test_gate_samples_per_device_or_shared():
  """'shared': one draw for all devices; 'per_device': one each."""

  def draws(gate_samples):
    search = make_search(lambda_=1.0, gate_samples=gate_samples)
    variables = initial()
    batch = {'image': tiny.images(1, SMALL), 'label': tiny.labels(1)}

    def gates(params):
      _, aux = search.loss(
        params, variables['batch_stats'], batch, jnp.int32(5), ()
      )
      return aux[1].gates

    mapped = jax.vmap(gates, in_axes=None, axis_size=4, axis_name=AXIS)
    return np.asarray(tiny.jit(mapped)(variables['params']))

  shared, own = draws('shared'), draws('per_device')
  assert np.all(shared == shared[0])
  assert len({row.tobytes() for row in own}) == 4
