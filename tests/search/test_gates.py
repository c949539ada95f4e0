"""The authors' two formulations against NumPy, and what all three share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from authors import imagenet_space
from tiny_gates import SPACE, decision_of, kernels_of, with_thresholds

from spnas_jax.models.supernet import layer_name
from spnas_jax.search.gates import FORMULATIONS, decide


def reference_gates(space, params, thresholds, noise, power):
  """The authors' order of decisions in NumPy, float64.

  `noise` multiplies every indicator: 1, or 0 and 1 / keep in subset dropout.
  Returns (gates, importances) in the order of the space.
  """
  gates, norms = np.zeros((2, len(space.gates)))

  def indicator(position, weights):
    norms[position] = np.sqrt(np.sum(weights**2)) ** power
    gates[position] = noise[position] * (
      norms[position] >= thresholds[position]
    )
    return gates[position]

  for i, layer in enumerate(space.layers):
    kernel = np.asarray(
      params[layer_name(i)]['depthwise']['kernel'], np.float64
    )
    half = layer.in_channels * layer.expansions[0]
    (k5,), (e6,) = (
      space.gate_index[i, 'kernel'],
      space.gate_index[i, 'expansion'],
    )
    core = np.zeros_like(kernel)
    core[1:4, 1:4] = kernel[1:4, 1:4]
    shell = kernel - core
    kernel = core + indicator(k5, shell) * shell
    indicator(e6, kernel[..., half:])
    for keep in space.gate_index[i, 'keep']:
      indicator(keep, kernel[..., :half])
  return gates, norms


@pytest.mark.parametrize(('name', 'power'), [('official', 1), ('paper', 2)])
@pytest.mark.parametrize('keep', [1.0, 0.6])
def test_hard_decisions_follow_the_authors(name, power, keep):
  """Norms, order and dropout of `nas-search/superkernel.py`, re-derived.

  Norms of the expansion and skip subsets are of the kernel *behind* the
  kernel-size decision and its dropout, so a kept 5x5 shell counts 1 / keep
  times. Squares in `paper`. Thresholds lie around the norms, so that decisions
  go both ways; float32 sums of a few hundred squares: relative 1e-5.
  """
  params = kernels_of(SPACE)
  _, norms = reference_gates(SPACE, params, np.zeros(99), np.ones(99), power)
  rng = np.random.default_rng(0)
  run = decision_of(name, SPACE, keep_probability=keep, warm_up=True)
  seen = []
  for seed in range(8):
    thresholds = norms * rng.uniform(0.7, 1.3, len(norms))
    key = jax.random.key(seed)
    got = run(params, thresholds, key)
    drawn = jax.random.uniform(key, (len(norms),)) < keep
    noise = np.asarray(drawn, np.float64) / keep
    gates, importances = reference_gates(
      SPACE, params, np.float32(thresholds), noise, power
    )
    np.testing.assert_allclose(got.importance, importances, rtol=1e-5)
    np.testing.assert_allclose(got.gates, gates, rtol=1e-6)
    np.testing.assert_array_equal(got.runtime_gates, got.gates)
    np.testing.assert_array_equal(got.logits, got.importance - thresholds)
    undropped, _ = reference_gates(
      SPACE, params, np.float32(thresholds), np.ones(99), power
    )
    np.testing.assert_array_equal(got.undropped, undropped)
    seen.append(np.asarray(got.gates))
  # 1 / keep is what inverted dropout makes of the survivors.
  assert set(np.unique(np.float32(seen))) == {0.0, np.float32(1 / keep)}


def test_subset_dropout_keeps_the_share_it_should():
  """Each decision survives with the keep probability, on its own."""
  params = kernels_of(SPACE)
  zeros = np.zeros(len(SPACE.gates))
  run = decision_of('official', SPACE, keep_probability=0.6, warm_up=True)
  keys = jax.random.split(jax.random.key(0), 2000)
  gates = jax.jit(
    lambda keys: jax.vmap(lambda key: run(params, zeros, key).gates)(keys)
  )(keys)
  share = np.asarray(gates > 0).mean(0)
  # 5 sigma of 2000 draws.
  np.testing.assert_allclose(share, 0.6, atol=5 * (0.24 / 2000) ** 0.5)
  # Inverted dropout has mean 1 whatever the probability.
  np.testing.assert_allclose(gates.mean(0), 1.0, atol=5 * (2 / 3 / 2000) ** 0.5)


@pytest.mark.parametrize('name', ['official', 'paper'])
def test_equality_means_use(name):
  """A threshold that equals its norm leaves the subset in, as `>=` does."""
  params = kernels_of(SPACE)
  key = jax.random.key(0)
  run = decision_of(name, SPACE)
  norms = run(params, np.full(len(SPACE.gates), -1.0), key).importance
  at = run(params, norms, key)
  np.testing.assert_array_equal(at.gates, 1.0)
  above = run(params, np.nextafter(np.asarray(norms), np.inf), key)
  # Only the first decision of a layer is surely still compared with the same
  # norm: the others' kernels have lost their shell.
  first = [SPACE.gate_index[i, 'kernel'][0] for i in range(len(SPACE.layers))]
  np.testing.assert_array_equal(above.gates[jnp.array(first)], 0.0)


def test_hard_threshold_gradient_closed_form():
  """d gate / d t = -sigma'(norm - t), and each gate has a threshold of its own.

  Taken at the kernel-size gates, on which nothing else depends through the
  runtime-free sum of themselves. Weights are small so that sigma' is not.
  """
  params = kernels_of(SPACE, scale=0.1)
  run = decision_of('official', SPACE)
  first = jnp.array(
    [SPACE.gate_index[i, 'kernel'][0] for i in range(len(SPACE.layers))]
  )

  def total(thresholds):
    return run(params, thresholds, jax.random.key(0)).gates[first].sum()

  thresholds = jnp.linspace(0.1, 0.5, len(SPACE.gates))
  got = jax.grad(total)(thresholds)
  z = np.float64(run(params, thresholds, jax.random.key(0)).logits)[first]
  wanted = np.zeros(len(SPACE.gates))
  wanted[first] = -np.exp(-z) / (1 + np.exp(-z)) ** 2
  assert np.abs(wanted[first]).min() > 0.01
  # The slope of a float32 sigmoid: some units in the last place.
  np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_unused_thresholds_of_official_are_never_read():
  """The authors create a skip threshold for every layer; 5 of 20 do nothing.

  Here: 2 of 4. Whatever their values, decisions are the same, and their
  gradient is exactly zero.
  """
  official = FORMULATIONS['official']
  used, count = len(SPACE.gates), official.num_thresholds(SPACE)
  assert count == used + 2
  imagenet = imagenet_space()
  assert official.num_thresholds(imagenet) == 60
  for name in ('sampled', 'paper'):
    assert FORMULATIONS[name].num_thresholds(imagenet) == 55
  params = kernels_of(SPACE, scale=0.1)
  run = decision_of('official', SPACE)

  def total(thresholds):
    decision = run(params, thresholds, jax.random.key(0))
    return decision.gates.sum() + decision.logits.sum()

  zeros = jnp.zeros(count)
  gradient = jax.grad(total)(zeros)
  assert np.all(np.asarray(gradient[:used]) != 0)
  np.testing.assert_array_equal(gradient[used:], 0.0)
  assert total(zeros) == total(zeros.at[used:].set(1e6))


def test_official_starts_dead():
  """Why `sampled` exists: at initialisation sigma'(norm) underflows.

  In the ImageNet space every indicator is 1, the first layers' thresholds have
  a vanishing gradient and those from stage 3 on have exactly none in float32.
  """
  space = imagenet_space()
  params = kernels_of(space)

  def total(thresholds):
    decision = decide(
      FORMULATIONS['official'],
      space,
      with_thresholds(params, thresholds),
      jax.random.key(0),
    )
    return decision.gates.sum(), decision

  gradient, decision = tiny.jit(jax.grad(total, has_aux=True))(jnp.zeros(60))
  np.testing.assert_array_equal(decision.gates, 1.0)
  layer_of = np.array([gate.layer for gate in space.gates])
  # Layer 8 is the first of stage 3, still 240 channels wide; 480 from layer 9.
  np.testing.assert_array_equal(gradient[:55][layer_of >= 9], 0.0)
  first = np.abs(np.asarray(gradient[:55][layer_of == 0]))
  assert np.all((first > 0) & (first < 1e-3))
  norms = np.asarray(decision.importance)
  # sqrt(16 taps * 96 channels * 2 / 25) and so on; relative spread 1 / sqrt(2n)
  # of n >= 1200 weights, five times.
  for layer, channels in ((0, 96), (1, 144), (9, 480), (17, 1152)):
    shell = norms[space.gate_index[layer, 'kernel'][0]]
    half = norms[space.gate_index[layer, 'expansion'][0]]
    assert abs(shell / (16 * channels * 0.08) ** 0.5 - 1) < 0.1
    assert abs(half / (25 * channels / 2 * 0.08) ** 0.5 - 1) < 0.1


# --- all three ----------------------------------------------------------------


@pytest.mark.parametrize('name', list(FORMULATIONS))
def test_gradients_at_zero_weights_are_finite(name):
  """A norm has no gradient at 0; weight decay must not run into NaN there."""
  space = tiny.space(squeeze_ratios=(0.0, 0.25))
  params = jax.tree.map(jnp.zeros_like, kernels_of(space))
  thresholds = jnp.zeros(FORMULATIONS[name].num_thresholds(space))
  run = decision_of(name, space)

  def total(p, t):
    decision = run(p, t, jax.random.key(0))
    return decision.gates.sum() + decision.runtime_gates.sum()

  for leaf in jax.tree.leaves(jax.grad(total, (0, 1))(params, thresholds)):
    assert np.all(np.isfinite(leaf))


@pytest.mark.parametrize('name', list(FORMULATIONS))
def test_decisions_are_a_function_of_the_key(name):
  """Same key, same gates, jitted or not: devices with one key decide alike."""
  params = kernels_of(SPACE)
  thresholds = jnp.ones(len(SPACE.gates))
  run = decision_of(name, SPACE, keep_probability=0.5, warm_up=True)
  eager = decide(
    FORMULATIONS[name],
    SPACE,
    with_thresholds(params, thresholds),
    jax.random.key(7),
    keep_probability=0.5,
    warm_up=True,
  )
  once = run(params, thresholds, jax.random.key(7))
  for one, other in zip(once, eager, strict=True):
    # Fusion may change the order of a sum of squares.
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
  others = [
    np.asarray(run(params, thresholds, jax.random.key(k)).gates).tolist()
    for k in range(5)
  ]
  assert len({tuple(o) for o in others}) > 1
