"""Search and training steps: gradients, devices, compilation, donation."""

import contextlib
import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from spnas_jax.config.defaults import default_config
from spnas_jax.core.parallel import (
  AXIS,
  average,
  check_divisible,
  pmap_eval,
  pmap_step,
  replicas_agree,
  replicate,
)
from spnas_jax.models.convnet import ConvNet
from spnas_jax.models.supernet import SuperNet
from spnas_jax.networks.space import Stage
from spnas_jax.search.controller import Controller, ControllerState
from spnas_jax.search.gates import FORMULATIONS, relative_importance
from spnas_jax.search.projection import choice_costs, choice_log_likelihoods
from spnas_jax.search.runtime import RuntimeModel
from spnas_jax.search.search_step import Search, make_search_step
from spnas_jax.training.batch_augmentation import mixup
from spnas_jax.training.objective import cross_entropy
from spnas_jax.training.optimizer import weight_optimizer
from spnas_jax.training.schedules import Phases, learning_rate_schedule
from spnas_jax.training.steps import (
  dropout_mask,
  make_eval_step,
  make_train_step,
  score,
)
from spnas_jax.training.train_state import TrainState

SPACE = tiny.space()
TABLE = tiny.table(SPACE)
# What whole steps are compiled for; one stage is enough for what they show.
SMALL = tiny.space(stages=(Stage(8, 2, 2, (3, 5), (2, 4)),))
SMALL_TABLE = tiny.table(SMALL)
BATCH = 8


def recipe(**changes):
  """Section `search` for a few steps of a tiny space."""
  c = default_config().search
  c.update(
    batch_size=BATCH, schedule='constant', lr_warmup_epochs=0.0, dropout=0.2
  )
  c.update(changes)
  return c


def make_search(
  gates='sampled',
  space=SMALL,
  warm_up=0,
  total=20,
  target_ms=None,
  temperature=1.0,
  **changes,
):
  """A search; XLA's own convolutions, which compile fast."""
  c = recipe(gates=gates, **changes)
  formulation = FORMULATIONS[gates]
  return Search(
    supernet=SuperNet(
      space,
      placement=formulation.placement,
      num_thresholds=formulation.num_thresholds(space),
      dtype=c.dtype,
      axis_name=AXIS,
      implementation='primitive',
    ),
    formulation=formulation,
    runtime=RuntimeModel.of(SMALL_TABLE if space is SMALL else TABLE, space),
    phases=Phases(warm_up, total, temperature, temperature),
    controller=target_ms and Controller(target_ms=target_ms, **c.controller),
    learning_rate=learning_rate_schedule(c, 10, total),
    recipe=c,
    seed=0,
  )


@functools.cache
def initial(space=SMALL, num_thresholds=None):
  """Variables in NumPy: a state made of them may be donated."""
  net = SuperNet(
    space, num_thresholds=num_thresholds, implementation='primitive'
  )
  return jax.device_get(tiny.variables(net))


def state_of(search):
  net = search.supernet
  variables = jax.tree.map(jnp.array, initial(net.space, net.num_thresholds))
  return TrainState.create(
    variables, search.optimizer(), ControllerState.create()
  )


def batches(count, devices):
  """Batches as they lie on the devices: [devices, BATCH / devices, ...]."""
  result = []
  for i in range(count):
    batch = {
      'image': np.asarray(tiny.images(BATCH, SMALL, seed=i)),
      'label': np.asarray(tiny.labels(BATCH, seed=i)),
    }
    result.append(
      {
        k: v.reshape(devices, BATCH // devices, *v.shape[1:])
        for k, v in batch.items()
      }
    )
  return result


@contextlib.contextmanager
def compilations():
  """Collects one item for everything that XLA compiles (or loads) meanwhile."""
  seen = []

  def listen(event, duration, **kwargs):
    del duration
    if event == '/jax/core/compile/backend_compile_duration':
      seen.append(kwargs.get('fun_name', ''))

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield seen
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


def as_one_device(f):
  """`f` under the axis that steps expect, without pmap: [1, ...] in and out."""
  return tiny.jit(jax.vmap(f, in_axes=None, axis_size=1, axis_name=AXIS))


# --- gradients of the search's objective --------------------------------------


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


# --- the mapped search step ---------------------------------------------------

STEPS, WARM_UP, TOTAL = 5, 2, 20


def mapped_search():
  return make_search(warm_up=WARM_UP, total=TOTAL, target_ms=1.0)


@functools.cache
def searched(num_devices):
  """Five steps, two of them warm-up, under pmap.

  Returns:
    (states, metrics, compiled, agree, donated): NumPy states from step 0 on,
    metrics of each step, what was compiled during each step, whether the final
    replicas agree, whether the state's buffers were gone after a last step.
  """
  search = mapped_search()
  devices = jax.local_devices()[:num_devices]
  step = pmap_step(make_search_step(search), devices=devices)
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


def test_search_step_compiles_once():
  """Neither a weak type nor the switch of phases compiles it a second time."""
  _, _, compiled, *_ = searched(4)
  assert len(compiled[0]) == 1
  assert compiled[1:] == [[]] * (STEPS - 1)


def test_replicas_agree_bit_for_bit():
  """After five steps on four devices every replica holds the same bytes."""
  states, _, _, agree, _ = searched(4)
  assert jax.local_device_count() == 4
  assert agree
  assert states[-1].step == STEPS


def test_replicas_agree_sees_a_difference():
  """The check itself: one differing bit on one device is found."""
  same = replicate({'a': jnp.ones(3)})
  assert replicas_agree(same)
  shards = [
    jax.device_put(np.ones(3, np.float32) + 1e-7 * (i == 2), d)
    for i, d in enumerate(jax.local_devices())
  ]
  odd = jax.make_array_from_single_device_arrays(
    (3,), same['a'].sharding, shards
  )
  assert not replicas_agree({'a': odd})


def test_search_state_is_donated():
  """The old state's buffers are gone after a step: one state in memory."""
  *_, donated = searched(4)
  assert donated and all(donated)


def test_state_aliases_nothing():
  """Donating a state two of whose leaves share a buffer would free it twice."""
  state = state_of(make_search(target_ms=2.0))
  leaves = jax.tree.leaves(state)
  pointers = [leaf.unsafe_buffer_pointer() for leaf in leaves]
  assert len(set(pointers)) == len(leaves)


def assert_same_states(states, others):
  """States of two runs: equal but for the order of float32 sums."""
  for a, b in zip(states, others, strict=True):
    for name in ('params', 'batch_stats', 'ema_params', 'ema_batch_stats'):
      jax.tree_util.tree_map_with_path(
        lambda path, x, y: np.testing.assert_allclose(
          x, y, rtol=0, atol=1e-4 if path[0].key == 'thresholds' else 2e-6
        ),
        getattr(a, name),
        getattr(b, name),
      )


def assert_all_moved(states):
  """Every parameter is trained, far beyond the tolerance above.

  But for one kind: what a projection's norm adds, the norms behind it subtract.
  """
  moved = jax.tree.map(
    lambda x, y: np.abs(x - y).max(), states[0].params, states[-1].params
  )
  for path, value in jax.tree_util.tree_leaves_with_path(moved):
    if [k.key for k in path[-2:]] != ['project_bn', 'bias']:
      assert value > 4e-5, path


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


# --- training and evaluation steps --------------------------------------------


@functools.cache
def trained(num_devices):
  """Three steps of the smallest network; like `searched`."""
  c = default_config().train
  c.update(
    batch_size=BATCH, schedule='constant', lr_warmup_epochs=0.0, dropout=0.2
  )
  arch = SMALL.smallest
  net = ConvNet(arch, axis_name=AXIS, implementation='primitive')
  schedule = learning_rate_schedule(c, 10, 20)
  optimizer = weight_optimizer(c.optimizer, schedule)
  variables = tiny.jit(net.init)(jax.random.key(0), tiny.images(1, SMALL))
  state = TrainState.create(tiny.randomise(variables), optimizer)
  step = pmap_step(
    make_train_step(net, optimizer, schedule, c, seed=0),
    devices=jax.local_devices()[:num_devices],
  )
  if num_devices == jax.local_device_count():
    state = replicate(state)
  states, metrics, compiled = [jax.device_get(state)], [], []
  for batch in batches(3, num_devices):
    with compilations() as seen:
      state, measured = step(state, batch)
      jax.block_until_ready(state)
    compiled.append(list(seen))
    states.append(jax.device_get(state))
    metrics.append(jax.device_get(measured))
  return states, metrics, compiled, replicas_agree(state)


def test_train_step_on_one_and_four_devices():
  """Compiles once, replicas agree, and four devices change nothing.

  Tolerances as in the search's comparison.
  """
  four, metrics, compiled, agree = trained(4)
  one, own_metrics, *_ = trained(1)
  assert [len(seen) for seen in compiled] == [1, 0, 0]
  assert agree
  assert_same_states(four, one)
  for a, b in zip(metrics, own_metrics, strict=True):
    for key, value in a.items():
      np.testing.assert_allclose(value, b[key], rtol=1e-4, atol=1e-5)


def test_train_step_learns_every_parameter():
  """All of them move, biases of norms and of the classifier included."""
  states, metrics, *_ = trained(4)
  assert_all_moved(states)
  assert states[-1].step == 3
  for m in metrics:
    assert m['loss'] > m['cross_entropy'] > 0


def test_mixup_and_erasing_reach_the_step():
  """Mixup's loss is the blend of both labels' losses, under the step's own
  images; erasing everything it may leaves another loss than erasing nothing."""
  c = default_config().train
  c.update(batch_size=BATCH, label_smoothing=0.1, weight_decay=0.0, dropout=0.0)
  net = ConvNet(SMALL.smallest, axis_name=AXIS, implementation='primitive')
  optimizer = weight_optimizer(c.optimizer, lambda step: 0.0)
  variables = tiny.jit(net.init)(jax.random.key(0), tiny.images(1, SMALL))
  # On the host: a step donates its state.
  variables = jax.device_get(tiny.randomise(variables))
  (batch,) = batches(1, 1)

  def ce(**changes):
    own = c.copy_and_resolve_references()
    own.update(changes)
    step = pmap_step(
      make_train_step(net, optimizer, lambda step: 0.0, own, seed=0),
      devices=jax.local_devices()[:1],
    )
    state = TrainState.create(variables, optimizer)
    return float(step(state, batch)[1]['cross_entropy'])

  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 2)
  images, weight = mixup(key, batch['image'][0], 0.5)

  def expected(labels):
    logits, _ = net.clone(axis_name=None).apply(
      variables, images, train=True, mutable=['batch_stats']
    )
    return float(cross_entropy(logits, labels, 0.1))

  labels = batch['label'][0]
  wanted = weight * expected(labels) + (1 - weight) * expected(labels[::-1])
  assert ce(mixup=0.5) == pytest.approx(float(wanted), rel=1e-5)
  plain = ce()
  assert abs(plain - wanted) > 1e-4
  assert abs(ce(random_erasing=1.0) - plain) > 1e-4


@pytest.mark.parametrize('rate', [0.2, 0.75])
def test_dropout_mask_does_not_depend_on_the_devices(rate):
  """An example meets the same mask on however many devices the batch lies.

  Inverted: kept features are scaled by 1 / (1 - rate); the share that is kept
  is within 5 sigma.
  """

  def mask(devices):
    f = functools.partial(dropout_mask, jax.random.key(3), rate, 32 // devices)
    mapped = jax.vmap(
      lambda _: f(16), axis_name=AXIS, axis_size=devices, in_axes=None
    )
    return np.asarray(mapped(0)).reshape(32, 16)

  whole = mask(1)
  for devices in (2, 4):
    np.testing.assert_array_equal(mask(devices), whole)
  assert set(np.unique(whole)) == {0.0, np.float32(1 / np.float32(1 - rate))}
  sigma = (rate * (1 - rate) / whole.size) ** 0.5
  assert abs((whole > 0).mean() - (1 - rate)) < 5 * sigma


def test_no_dropout_is_no_mask():
  """Rate 0 adds nothing to the network, not even a multiplication by 1."""
  assert dropout_mask(jax.random.key(0), 0.0, 4, 4) is None


def test_score_counts():
  """Sums by hand, over the examples whose mask is 1."""
  logits = np.zeros((4, 7), np.float32)
  logits[0] = [9, 1, 2, 3, 4, 5, 6]  # Right.
  logits[1] = [1, 9, 2, 3, 4, 5, 6]  # Sixth of seven.
  logits[2] = [3, 9, 1, 2, 4, 5, 6]  # Fifth.
  logits[3] = [9, 1, 2, 3, 4, 5, 6]  # Right, but masked.
  labels = np.array([0, 2, 0, 0])
  mask = np.array([1.0, 1.0, 1.0, 0.0])
  got = score(jnp.array(logits), jnp.array(labels), jnp.array(mask))
  assert got['count'] == 3 and got['top1'] == 1 and got['top5'] == 2
  wide = logits.astype(np.float64)
  ce = np.log(np.exp(wide).sum(-1)) - wide[np.arange(4), labels]
  np.testing.assert_allclose(got['cross_entropy'], ce[:3].sum(), rtol=1e-6)


def test_score_of_ties():
  """Fewer than k classes strictly above: ties count, as in TensorFlow."""
  logits = jnp.array([[1.0] * 4 + [2.0] * 4] * 2 + [[1.0] * 3 + [2.0] * 5])
  got = score(logits, jnp.array([0, 4, 0]), jnp.ones(3))
  # Four classes above: fifth, with three others. None above: first, with three
  # others. Five above: not among the first five.
  assert got['top5'] == 2 and got['top1'] == 1


def test_constant_logits_are_no_skill():
  """A dead network answers one class always: right one time in ten."""
  got = score(jnp.zeros((10, 10)), jnp.arange(10), jnp.ones(10))
  assert got['top1'] == 1


def test_score_of_few_classes():
  """Of five classes or fewer every label is among the first five."""
  logits = jnp.array([[3.0, 2.0, 1.0]])
  got = score(logits, jnp.array([2]), jnp.ones(1))
  assert (got['top1'], got['top5']) == (0, 1)


def test_a_network_that_diverged_scores_nothing():
  """NaN compares with nothing; that must not make it the best of all."""
  logits = jnp.full((3, 10), jnp.nan)
  got = score(logits, jnp.array([0, 1, 2]), jnp.ones(3))
  assert got['top1'] == 0 and got['top5'] == 0 and got['count'] == 3
  one = jnp.zeros((1, 10)).at[0, 3].set(jnp.nan)
  assert score(one, jnp.array([3]), jnp.ones(1))['top5'] == 0


def test_eval_step_sums_over_devices():
  """Each example counts once, wherever it lies, and padding never."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(16, 10)).astype(np.float32)
  labels = rng.integers(10, size=16)
  mask = (np.arange(16) < 13).astype(np.float32)
  step = pmap_eval(make_eval_step(lambda scale, x: scale * x))
  batch = {'image': logits, 'label': labels, 'mask': mask}
  got = step(
    replicate(jnp.float32(2.0)),
    {k: v.reshape(4, 4, *v.shape[1:]) for k, v in batch.items()},
  )
  wanted = score(jnp.array(2 * logits), jnp.array(labels), jnp.array(mask))
  for key, value in wanted.items():
    # Sums of 13 float32 numbers in another order.
    np.testing.assert_allclose(got[key], value, rtol=1e-5)
  assert got['count'] == 13


def test_average_is_the_mean_of_every_leaf():
  """Vectors travel in one array; each comes back as its own mean, in place."""
  rng = np.random.default_rng(0)
  tree = {
    'a': rng.normal(size=(4, 3)),
    'b': [rng.normal(size=(4, 2, 3)), rng.normal(size=4)],
    'c': rng.normal(size=(4, 5)),
  }
  tree = jax.tree.map(np.float32, tree)
  got = jax.vmap(average, axis_name=AXIS)(tree)
  for own, whole in zip(
    jax.tree.leaves(got), jax.tree.leaves(tree), strict=True
  ):
    assert own.shape == whole.shape
    # The mean of four float32 numbers.
    np.testing.assert_allclose(
      own, np.broadcast_to(whole.mean(0), whole.shape), rtol=1e-5, atol=1e-7
    )


def test_batches_must_divide():
  """A global batch that does not split over the devices is refused."""
  check_divisible(8)
  with pytest.raises(ValueError, match='multiple of the 4 devices'):
    check_divisible(6)
