"""The search step: devices, phases, compilation, donation, precision."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_search import (
  BATCH,
  SMALL,
  SMALL_TABLE,
  as_one_device,
  assert_all_moved,
  assert_same_states,
  batches,
  compilations,
  initial,
  make_search,
  state_of,
)

from spnas_jax.core import parallel
from spnas_jax.core.parallel import mapped_step, replicas_agree, replicate
from spnas_jax.search.controller import ControllerState
from spnas_jax.search.gates import relative_importance
from spnas_jax.search.search_step import make_search_step

STEPS, WARM_UP, TOTAL = 5, 2, 20


def mapped_search():
  return make_search(warm_up=WARM_UP, total=TOTAL, target_ms=1.0)


@functools.cache
def searched(num_devices, mapping='pmap'):
  """Five steps, two of them warm-up.

  Returns:
    (states, metrics, compiled, agree, donated): NumPy states from step 0 on,
    metrics of each step, what was compiled during each step, whether the final
    replicas agree, whether the state's buffers were gone after a last step.
  """
  search = mapped_search()
  devices = jax.local_devices()[:num_devices]
  parallel.use(mapping)
  step = mapped_step(make_search_step(search), devices=devices)
  parallel.use('pmap')
  state = state_of(search)
  if num_devices == jax.local_device_count():
    state = replicate(state)
  states, metrics, compiled = [jax.device_get(state)], [], []
  for batch in batches(STEPS, num_devices):
    with compilations() as seen:
      state, measured = step(state, batch)
      jax.block_until_ready(state)
    compiled.append(list(seen))
    states.append(jax.device_get(state))
    metrics.append(jax.device_get(measured))
  agree = replicas_agree(state)
  # A fetched state shares its buffers with NumPy and cannot be donated, so two
  # more steps with nothing fetched between.
  old, _ = step(state, batch)
  step(old, batch)
  donated = [leaf.is_deleted() for leaf in jax.tree.leaves(old)]
  return states, metrics, compiled, agree, donated


@pytest.mark.parametrize('mapping', ['pmap', 'shard_map'])
def test_search_step_compiles_once(mapping):
  """Neither a weak type nor the switch of phases compiles it a second time."""
  _, _, compiled, *_ = searched(4, mapping)
  assert len(compiled[0]) == 1
  assert compiled[1:] == [[]] * (STEPS - 1)


def test_replicas_agree_bit_for_bit():
  """After five steps on four devices every replica holds the same bytes."""
  states, _, _, agree, _ = searched(4)
  assert jax.local_device_count() == 4
  assert agree
  assert states[-1].step == STEPS


@pytest.mark.parametrize('mapping', ['pmap', 'shard_map'])
def test_search_state_is_donated(mapping):
  """The old state's buffers are gone after a step: one state in memory."""
  *_, donated = searched(4, mapping)
  assert donated and all(donated)


def test_shard_map_takes_the_same_steps_to_the_bit():
  """How JAX maps a step over devices is not seen in what it computes."""
  ours, theirs = (searched(4, name)[:2] for name in ('pmap', 'shard_map'))
  for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    assert np.array_equal(x, y)


def test_number_of_devices_does_not_change_the_search():
  """One device and four: the same parameters, statistics, averages, metrics.

  With batch norm over all devices, shared gate samples and a global dropout
  mask all that differs is the order of float32 sums. RMSProp's small steps keep
  that to the last place of weights near 1: 2e-6. The thresholds' Adam makes
  steps of its learning rate, 0.4 here, from any gradient: 1e-4.
  """
  four, metrics, *_ = searched(4)
  one, own_metrics, *_ = searched(1)
  assert_same_states(four, one)
  assert_all_moved(four)
  for a, b in zip(metrics, own_metrics, strict=True):
    assert a.keys() == b.keys()
    for key in ('cross_entropy', 'loss', 'runtime_ms', 'lambda', 'accuracy'):
      np.testing.assert_allclose(a[key], b[key], rtol=1e-4, atol=1e-5)


def test_phases_of_the_search_step():
  """Thresholds rest in warm-up, start together behind it, keep their limits.

  lambda is 0 through warm-up and at the ramp's first step.
  """
  states, metrics, *_ = searched(4)
  for state in states[: WARM_UP + 1]:
    np.testing.assert_array_equal(state.params['thresholds'], 0.0)
  for step in range(WARM_UP + 1):
    assert metrics[step]['lambda'] == 0.0
  np.testing.assert_array_equal(metrics[0]['threshold_gradient'], 0.0)
  first = metrics[WARM_UP]
  np.testing.assert_allclose(first['logit'], 1.0, atol=1e-5)
  assert np.all(first['threshold_gradient'] != 0)
  assert states[WARM_UP + 1].controller.start_ms == first['runtime_ms']
  # One step of Adam with b1 = 0.9, b2 = 0.99 behind warm-up's zeros: its rate.
  rate = 8.0 / (TOTAL - WARM_UP)
  limit = mapped_search().recipe.logit_limit
  for before, after in zip(
    states[WARM_UP + 1 :], states[WARM_UP + 2 :], strict=False
  ):
    travel = np.abs(after.params['thresholds'] - before.params['thresholds'])
    assert np.all(travel < 3 * rate)
    importance = relative_importance(SMALL, after.params)
    logits = importance - after.params['thresholds']
    assert np.all(np.abs(logits) <= limit + 1e-5)
  # The logged runtimes, fed to the controller again, give the logged lambdas.
  state = ControllerState.create()
  for i, m in enumerate(metrics[WARM_UP:]):
    progress = i / (TOTAL - WARM_UP)
    state = mapped_search().controller.update(
      state, m['runtime_ms'], progress, 1 / (TOTAL - WARM_UP)
    )
    np.testing.assert_allclose(m['lambda'], state.lambda_, atol=1e-5)
  assert metrics[-1]['lambda'] != 0
  # The ramp leads from the start to 1 ms, below it.
  assert 1.0 < metrics[-1]['target_ms'] < first['runtime_ms']


def test_averages_hold_batch_statistics_too():
  """After one step: 0.1 old + 0.9 new, parameters and statistics alike.

  (1 + 0) / (10 + 0) = 0.1 is the first decay; float32.
  """
  states, *_ = searched(4)
  start, after = states[:2]
  for averaged, value in (
    ('ema_params', 'params'),
    ('ema_batch_stats', 'batch_stats'),
  ):
    jax.tree.map(
      lambda a, old, new: np.testing.assert_allclose(
        a, 0.1 * old + 0.9 * new, rtol=1e-5, atol=1e-6
      ),
      getattr(after, averaged),
      getattr(start, value),
      getattr(after, value),
    )
  changed = jax.tree.map(
    lambda x, y: np.abs(x - y).max(), start.batch_stats, after.batch_stats
  )
  assert all(value > 0 for value in jax.tree.leaves(changed))


def test_loss_is_the_sum_of_its_parts():
  """The logged loss minus its logged parts is the weight decay of the weights.

  Under `sampled` the thresholds are no part of it.
  """
  states, metrics, *_ = searched(4)
  for state, m in zip(states[-2:-1], metrics[-1:], strict=True):
    term = m['lambda'] * np.log(m['runtime_ms'])
    squares = sum(
      np.sum(np.square(np.float64(leaf)))
      for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
      if path[-2:][0].key[-3:] != '_bn' and path[0].key != 'thresholds'
    )
    decay = m['loss'] - m['cross_entropy'] - term
    # A difference of float32 numbers near 2: 1e-6.
    np.testing.assert_allclose(decay, 0.5e-5 * squares, atol=2e-6)
    assert 0.5e-5 * squares > 1e-4


def test_keys_depend_on_the_step_alone():
  """Resuming at a step draws what the uninterrupted run would have drawn."""
  search = make_search()
  data = [
    tuple(jax.random.key_data(k).tobytes() for k in search.keys(jnp.int32(s)))
    for s in (0, 1, 2, 1)
  ]
  assert data[1] == data[3]
  assert len({key for pair in data for key in pair}) == 6


def test_threshold_learning_rate():
  """travel / steps per step, with tau; exactly 0 through warm-up."""
  search = make_search(warm_up=10, total=110, temperature=0.5)
  rate = search.threshold_learning_rate
  assert rate(jnp.int32(9)) == 0.0
  np.testing.assert_allclose(rate(jnp.int32(10)), 8.0 / 100 * 0.5, rtol=1e-6)


def test_official_step():
  """The authors' recipe: lambda from the end of warm-up on, thresholds decayed.

  Weight decay is all that moves thresholds of saturated gates, which is how the
  published search gets going.
  """
  search = make_search('official', warm_up=1, lambda_=20.0, weight_decay=0.1)
  state = state_of(search)
  start = np.full(len(SMALL.gates) + 1, 0.5, np.float32)
  state = state.replace(params={**state.params, 'thresholds': start})
  step = as_one_device(make_search_step(search))
  first = jax.tree.map(lambda b: b[0], batches(1, 1)[0])
  state, warm = jax.tree.map(lambda x: x[0], step(state, first))
  _, after = jax.tree.map(lambda x: x[0], step(state, first))
  assert (warm['lambda'], after['lambda']) == (0.0, 20.0)
  # The unused one: decay is its whole gradient.
  np.testing.assert_allclose(
    warm['threshold_gradient'][-1], 0.1 * 0.5, rtol=1e-6
  )
  # Dropped decisions are rescaled, in the runtime too; undropped are all open.
  full = SMALL_TABLE.predict(SMALL.largest)
  np.testing.assert_allclose(warm['undropped_ms'], full, rtol=1e-5)
  assert abs(warm['runtime_ms'] / full - 1) > 0.01
  np.testing.assert_allclose(after['runtime_ms'], full, rtol=1e-5)
  # RMSProp from a mean square of 1: lr g / sqrt(0.9 + 0.1 g^2 + 1e-3).
  rate = search.learning_rate(jnp.int32(0))
  g = np.float64(warm['threshold_gradient'])
  wanted = 0.5 - rate * g / np.sqrt(0.9 + 0.1 * g**2 + 1e-3)
  np.testing.assert_allclose(state.params['thresholds'], wanted, rtol=1e-5)


def test_bfloat16_search_keeps_its_state_in_float32():
  """Compute in bfloat16; thresholds, norms, statistics, losses in float32."""
  search = make_search(target_ms=2.0, dtype='bfloat16')
  step = as_one_device(make_search_step(search))
  batch = jax.tree.map(lambda b: b[0], batches(1, 1)[0])
  batch['image'] = jnp.asarray(batch['image'], jnp.bfloat16)
  state, metrics = jax.tree.map(lambda x: x[0], step(state_of(search), batch))
  for leaf in jax.tree.leaves((state.params, state.batch_stats, metrics)):
    assert leaf.dtype == jnp.float32
    assert np.all(np.isfinite(leaf))
  for leaf in jax.tree.leaves((state.ema_params, state.opt_state)):
    assert leaf.dtype in (jnp.float32, jnp.int32)
  assert np.all(np.asarray(metrics['threshold_gradient']) != 0)


def test_balanced_classes_weigh_the_cross_entropy():
  """Each image's loss is times its class's weight: 3 for all of them is 3 times
  the mean, and classes of weight 0 leave the images of the others."""
  search = make_search(target_ms=1.0)
  params, stats = initial()['params'], initial()['batch_stats']
  batch = jax.tree.map(lambda x: jnp.asarray(x[0]), batches(1, 1)[0])
  labels = np.asarray(batch['label'])
  ones = np.ones(SMALL.num_classes, np.float32)

  def cross_entropy(weights):
    weighted = dataclasses.replace(search, class_weights=weights)

    def loss(params):
      terms, *_ = weighted.loss(
        params, stats, batch, jnp.int32(0), ControllerState.create()
      )[1]
      return terms.cross_entropy

    return as_one_device(loss)(params).item()

  plain = cross_entropy(None)
  # Float32 means of eight losses near 2.
  assert cross_entropy(3 * ones) == pytest.approx(3 * plain, rel=1e-5)
  first = (np.arange(SMALL.num_classes) == labels[0]).astype(np.float32)
  assert 0 < (labels == labels[0]).sum() < BATCH
  parts = cross_entropy(first) + cross_entropy(ones - first)
  assert parts == pytest.approx(plain, rel=1e-5)
