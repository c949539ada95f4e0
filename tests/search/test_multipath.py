"""Multi-path supernets: Eq. 5, the three path weights, runtime, steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax import lax
from tiny import NUM_CLASSES

from spnas_jax.config.spaces import make_space
from spnas_jax.core.parallel import mapped_step, replicate
from spnas_jax.models.layers import MBConv, Style
from spnas_jax.networks.architecture import num_params
from spnas_jax.networks.space import Stage
from spnas_jax.search.contestants import make_contestant, num_trainable
from spnas_jax.search.multipath import (
  MultiPathLayer,
  PathCosts,
  decide_paths,
  layer_paths,
  num_paths,
  padded,
  path_log_likelihoods,
)
from spnas_jax.search.projection import (
  choice_log_likelihoods,
  project,
  project_likelihoods,
)
from spnas_jax.search.runtime import RuntimeModel
from spnas_jax.search.search_problem import SearchProblem

SPACE = tiny.space()
COUNT = int(num_paths(SPACE).sum())


def logits(seed=0, scale=1.0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(scale * rng.normal(size=COUNT), jnp.float32)


# --- Eq. 5 --------------------------------------------------------------------

LAYER = tiny.space(stages=(Stage(8, 2, 1, (3, 5), (2,)),)).layers[1]
STYLE = Style()


@functools.cache
def layer_variables():
  x = jnp.ones((1, 8, 8, 8))
  net = MultiPathLayer(LAYER, STYLE)
  initial = net.init(jax.random.key(0), x, True, jnp.ones(3), None)
  return tiny.randomise(initial)


def run_layer(variables, x, weights, chosen=None):
  out, _ = MultiPathLayer(LAYER, STYLE).apply(
    variables, x, True, weights, chosen, mutable=['batch_stats']
  )
  return out


def candidate(variables, j, x):
  own = {k: v[f'candidates_{j}'] for k, v in variables.items()}
  block = MBConv(LAYER.block(LAYER.choices[j]), STYLE)
  return block.apply(own, x, True, mutable=['batch_stats'])[0]


def test_a_layer_is_the_weighted_sum_of_its_paths():
  variables = layer_variables()
  x = jax.random.normal(jax.random.key(1), (2, 8, 8, 8))
  weights = jnp.array([0.5, 0.2, 0.3])
  expected = (
    0.5 * candidate(variables, 0, x)
    + 0.2 * candidate(variables, 1, x)
    + 0.3 * x
  )
  np.testing.assert_allclose(
    run_layer(variables, x, weights), expected, atol=1e-5
  )


@pytest.mark.parametrize('chosen', [[1], [0, 2], [2, 1]])
def test_chosen_paths_alone_give_the_same_sum(chosen):
  variables = layer_variables()
  x = jax.random.normal(jax.random.key(1), (2, 8, 8, 8))
  weights = jnp.zeros(3).at[jnp.array(chosen)].set(0.7)
  np.testing.assert_allclose(
    run_layer(variables, x, weights, jnp.array(chosen)),
    run_layer(variables, x, weights),
    atol=1e-5,
  )


def test_a_path_that_did_not_run_is_not_trained_and_keeps_its_statistics():
  variables = layer_variables()
  x = jax.random.normal(jax.random.key(1), (2, 8, 8, 8))
  weights, chosen = jnp.array([0.0, 1.0, 0.0]), jnp.array([1])

  def loss(params):
    out, updated = MultiPathLayer(LAYER, STYLE).apply(
      {**variables, 'params': params},
      x,
      True,
      weights,
      chosen,
      mutable=['batch_stats'],
    )
    return (out**2).sum(), updated['batch_stats']

  gradients, stats = jax.grad(loss, has_aux=True)(variables['params'])
  size = [
    sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(g))
    for g in (gradients['candidates_0'], gradients['candidates_1'])
  ]
  assert size[0] == 0 < size[1]
  old = variables['batch_stats']
  same = [
    all(
      jax.tree.leaves(
        jax.tree.map(lambda a, b: bool((a == b).all()), old[n], stats[n])
      )
    )
    for n in ('candidates_0', 'candidates_1')
  ]
  assert same == [True, False]


# --- path weights -------------------------------------------------------------


def test_paths_are_the_candidates_and_the_skip():
  assert [len(p) for p in layer_paths(SPACE)] == [4, 5, 4, 5]
  rows = padded(SPACE, jnp.arange(COUNT, dtype=jnp.float32), -1.0)
  assert rows.tolist() == [
    [0, 1, 2, 3, -1],
    [4, 5, 6, 7, 8],
    [9, 10, 11, 12, -1],
    [13, 14, 15, 16, 17],
  ]


def test_darts_is_the_softmax_of_every_layer():
  values = logits()
  weights = decide_paths('darts', SPACE, values, jax.random.key(0)).weights
  own = np.exp(np.asarray(values[4:9], np.float64))
  np.testing.assert_allclose(weights[1], own / own.sum(), rtol=1e-5)
  np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
  assert weights[0, 4] == 0  # Layer 0 cannot be skipped.


def test_gumbel_softmax_goes_from_uniform_to_one_hot():
  values, key = logits(), jax.random.key(3)
  hot = decide_paths('fbnet', SPACE, values, key, temperature=1e4).weights
  uniform = 1 / num_paths(SPACE)[:, None]
  np.testing.assert_allclose(
    hot, np.where(np.asarray(hot) > 0, uniform, 0), atol=1e-3
  )
  cold = decide_paths('fbnet', SPACE, values, key, temperature=1e-4).weights
  np.testing.assert_allclose(np.sort(cold, 1)[:, -1], 1, atol=1e-5)


def test_gumbel_softmax_samples_from_the_softmax():
  values = logits()
  keys = jax.random.split(jax.random.key(0), 4000)
  cold = jax.vmap(
    lambda k: decide_paths('fbnet', SPACE, values, k, temperature=0.01).weights
  )(keys)
  expected = decide_paths('darts', SPACE, values, keys[0]).weights
  np.testing.assert_allclose(cold.mean(0), expected, atol=0.03)


def test_proxyless_samples_one_path_from_the_softmax():
  values = logits()
  keys = jax.random.split(jax.random.key(0), 4000)
  paths = jax.vmap(lambda k: decide_paths('proxyless', SPACE, values, k))(keys)
  assert paths.chosen.shape == (4000, 4, 1)
  expected = decide_paths('darts', SPACE, values, keys[0]).weights
  np.testing.assert_allclose(paths.weights.mean(0), expected, atol=0.03)


def test_proxyless_gates_are_binary_with_the_gradient_of_the_pair():
  values, key = logits(), jax.random.key(5)
  slopes = jax.random.normal(jax.random.key(6), (4, 5))

  def loss(v):
    paths = decide_paths('proxyless', SPACE, v, key, two_paths=True)
    return (paths.weights * slopes).sum(), paths

  gradient, paths = jax.grad(loss, has_aux=True)(values)
  expected = np.zeros(COUNT)
  starts = np.cumsum(num_paths(SPACE)) - num_paths(SPACE)
  for i, (a, b) in enumerate(np.asarray(paths.chosen)):
    assert a != b
    assert sorted(np.asarray(paths.weights[i, jnp.array([a, b])])) == [0, 1]
    own = np.exp(np.asarray(values)[starts[i] + np.array([a, b])])
    p = own / own.sum()
    g = np.asarray(slopes)[i, [a, b]]
    # dL/dlogit_i = sum_j dL/dg_j p_j (delta_ij - p_i)
    expected[starts[i] + a] = g[0] * p[0] * (1 - p[0]) - g[1] * p[1] * p[0]
    expected[starts[i] + b] = g[1] * p[1] * (1 - p[1]) - g[0] * p[0] * p[1]
  np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_unknown_method():
  with pytest.raises(ValueError, match='fbnet, darts, proxyless'):
    decide_paths('enas', SPACE, logits(), jax.random.key(0))


# --- runtime and decoding -----------------------------------------------------


def test_expected_ms_is_the_single_path_runtime_at_matching_probabilities():
  table = tiny.table(SPACE)
  gate_logits = np.random.default_rng(1).normal(size=len(SPACE.gates))
  values = [
    own[choice]
    for own, choices in zip(
      choice_log_likelihoods(SPACE, gate_logits),
      layer_paths(SPACE),
      strict=True,
    )
    for choice in choices
  ]
  multi = PathCosts.of(table, SPACE).expected_ms(
    SPACE, jnp.asarray(values, jnp.float32)
  )
  single = RuntimeModel.of(table, SPACE)(
    jax.nn.sigmoid(jnp.asarray(gate_logits, jnp.float32)), 'exact'
  )
  np.testing.assert_allclose(multi, single, rtol=1e-5)


def test_projection_by_path_likelihoods_agrees_with_that_by_gates():
  table = tiny.table(SPACE)
  gate_logits = np.random.default_rng(2).normal(size=len(SPACE.gates))
  own = choice_log_likelihoods(SPACE, gate_logits)
  values = [
    layer[choice]
    for layer, choices in zip(own, layer_paths(SPACE), strict=True)
    for choice in choices
  ]
  again = path_log_likelihoods(SPACE, np.asarray(values, np.float32))
  low, high = table.limits(SPACE)
  target = (low + high) / 2
  found = project_likelihoods(SPACE, table, again, target, 0.02)
  assert found == project(SPACE, table, gate_logits, target, 0.02)
  assert table.predict(SPACE.architecture_of(found)) <= target


# --- the whole ----------------------------------------------------------------


@functools.cache
def small_config():
  c = tiny.config()
  c.dataset.image_size = 8
  c.space.update(channels=(8,), layers=(2,), strides=(2,), kernels=(3,))
  c.space.head_channels = 0
  return c


@functools.cache
def contestant(method):
  c = small_config()
  problem = SearchProblem.of(c, tiny.table(make_space(c), 8))
  return make_contestant(c, problem, method)


def test_parameters_are_those_of_every_candidate():
  space = make_space(small_config())
  state = jax.eval_shape(contestant('darts').create)
  frame = sum(x.size for x in jax.tree.leaves(state.network.params['frame']))
  networks = [
    num_params(space.architecture_of((choice,) * 2))
    for choice in space.layers[0].choices
  ]
  paths = int(num_paths(space).sum())
  expected = sum(networks) - (len(networks) - 1) * frame + paths
  assert num_trainable(contestant('darts')) == expected
  single = num_trainable(contestant('single_path'))
  assert single == num_params(space.largest) + len(space.gates)


@pytest.mark.slow
def test_each_step_trains_its_own_part():
  c = contestant('proxyless')
  weight_step, path_step = (mapped_step(step) for step in c.steps)
  rng = np.random.default_rng(0)
  batch = {
    'image': jnp.asarray(rng.normal(size=(4, 2, 8, 8, 1)), jnp.float32),
    'label': jnp.asarray(rng.integers(NUM_CLASSES, size=(4, 2)), jnp.int32),
  }

  def parts(state):
    return jax.device_get((state.network.params, state.path_logits))

  state = replicate(c.create())
  first = parts(state)
  # Step 0 of the learning rate's warm-up moves nothing; none here has one.
  state, metrics = weight_step(state, batch)
  second = parts(state)
  assert np.isfinite(metrics['loss'])
  assert not _equal(first[0], second[0]) and _equal(first[1], second[1])
  # The first path step of the search phase, where lambda's ramp starts.
  step = c.phases.warm_up + 1
  state = replicate(state.replace(step=jnp.asarray(step, jnp.int32)))
  state, metrics = path_step(state, batch)
  third = parts(state)
  assert np.isfinite(metrics['loss']) and int(state.step) == step + 1
  assert state.controller.start_ms == metrics['runtime_ms'] > 0
  assert _equal(second[0], third[0]) and not _equal(second[1], third[1])


def _equal(a, b) -> bool:
  return all(
    np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def test_all_devices_take_the_same_paths():
  """The key of a step does not depend on the device."""
  chosen = jax.pmap(
    lambda x: (
      lax.all_gather(
        decide_paths('proxyless', SPACE, logits(), jax.random.key(1)).chosen,
        'd',
      )
      + x
    ),
    axis_name='d',
  )(jnp.zeros(4, jnp.int32))
  assert (np.asarray(chosen) == np.asarray(chosen)[0, 0]).all()
