"""Parameter groups, what is decayed, TensorFlow's RMSProp, the average."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from spnas_jax.config.defaults import default_config
from spnas_jax.models.convnet import ConvNet
from spnas_jax.models.supernet import SuperNet
from spnas_jax.networks import zoo
from spnas_jax.training.optimizer import (
  decayed,
  group_of,
  grouped,
  groups,
  moving_average,
  path_of,
  train_optimizer,
  weight_optimizer,
)


def abstract_params(net, *args):
  """Shapes of a network's parameters; nothing is computed."""
  return jax.eval_shape(net.init, jax.random.key(0), *args)['params']


def supernet_params(space, **kwargs):
  x = jnp.zeros((1, 12, 12, space.input_channels))
  return abstract_params(
    SuperNet(space, **kwargs), x, jnp.ones(len(space.gates))
  )


def by_group(params):
  """Group name -> set of paths."""
  result = {}
  for key_path, name in jax.tree_util.tree_leaves_with_path(groups(params)):
    result.setdefault(name, set()).add(path_of(key_path))
  return result


def check_groups(params):
  """By the parameter's own meaning, not by the rules under test."""
  found = by_group(params)
  assert sum(map(len, found.values())) == len(jax.tree.leaves(params))
  for path in found['norms']:
    assert path.split('/')[-2].endswith('_bn')
  for path in found['weights']:
    parent, name = path.split('/')[-2:]
    assert not parent.endswith('_bn')
    assert name.endswith(('kernel', 'bias'))
  assert found.get('thresholds', set()) <= {'thresholds'}
  return found


@pytest.mark.parametrize('name', zoo.names())
def test_every_parameter_of_the_zoo_is_in_one_group(name):
  """A parameter that fits no rule would stay untrained, so none may."""
  arch = zoo.get(name)
  found = check_groups(
    abstract_params(ConvNet(arch), jnp.zeros((1, 32, 32, 3)))
  )
  assert 'thresholds' not in found
  assert 'frame/classifier/bias' in found['weights']
  if name == 'mnasnet_a1':
    assert any('squeeze_bias' in path for path in found['weights'])


def test_every_parameter_of_a_supernet_is_in_one_group():
  """Thresholds, norms, squeezes, fixed blocks and all."""
  space = tiny.space(squeeze_ratios=(0.0, 0.25), fixed_blocks=True)
  found = check_groups(supernet_params(space))
  assert found['thresholds'] == {'thresholds'}
  assert 'layer00/squeeze/excite_kernel' in found['weights']
  assert 'first0/depthwise_bn/scale' in found['norms']


@pytest.mark.parametrize(
  'path', ['frame/stem_conv/scale', 'block00/bias', 'layer00/thresholds', 'x']
)
def test_unknown_parameter_is_refused(path):
  """A new kind of parameter needs a decision, not a default."""
  with pytest.raises(ValueError, match=path):
    group_of(path)


def test_weight_decay_covers_what_the_authors_decay():
  """`official`: all trainables whose name lacks 'batch_normalization'.

  Kernels, the classifier's bias and the thresholds; `sampled` leaves the
  thresholds out, since shrinking them would open gates for no reason.
  """
  params = supernet_params(tiny.space())
  paths = {
    path_of(key_path): leaf
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }
  authors = sorted(
    (leaf.shape for path, leaf in paths.items() if '_bn/' not in path)
  )
  official = sorted(leaf.shape for leaf in decayed(params, True))
  assert official == authors
  sampled = sorted(leaf.shape for leaf in decayed(params, False))
  assert sorted([*sampled, paths['thresholds'].shape]) == authors


def test_thresholds_are_not_decayed_when_sampled():
  """No gradient of the L2 term reaches them."""
  params = {
    'thresholds': jnp.ones(3),
    'layer00': {
      'depthwise': {'kernel': jnp.ones((3, 3, 1, 2))},
      'depthwise_bn': {'scale': jnp.ones(2), 'bias': jnp.ones(2)},
    },
  }

  def penalty(p, with_thresholds):
    return sum(0.5 * (w**2).sum() for w in decayed(p, with_thresholds))

  sampled = jax.grad(penalty)(params, False)
  np.testing.assert_array_equal(sampled['thresholds'], 0.0)
  np.testing.assert_array_equal(sampled['layer00']['depthwise']['kernel'], 1.0)
  for leaf in sampled['layer00']['depthwise_bn'].values():
    np.testing.assert_array_equal(leaf, 0.0)
  official = jax.grad(penalty)(params, True)
  np.testing.assert_array_equal(official['thresholds'], 1.0)


def run(optimizer, params, gradients):
  """Parameters after each of the gradients."""

  @jax.jit
  def step(params, state, gradient):
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state

  state, result = optimizer.init(params), []
  for gradient in gradients:
    params, state = step(params, state, gradient)
    result.append(params)
  return result


def test_rmsprop_is_tensorflows():
  """Three steps of TF 1's rule, re-derived in float64.

    mean_square <- 0.9 mean_square + 0.1 g^2     from 1, not 0
    momentum    <- 0.9 momentum + lr g / sqrt(mean_square + 1e-3)
    w           <- w - momentum

  epsilon is inside the root and the learning rate inside the momentum, which
  shows because the rate changes between the steps. Gradients from 1e-4 to 10;
  float32: 1e-6 relative.
  """
  rates = np.array([0.064, 0.032, 0.01])
  rng = np.random.default_rng(0)
  start = rng.normal(size=50)
  scale = 10.0 ** rng.uniform(-4, 1, 50)
  gradients = rng.normal(size=(3, 50)) * scale
  optimizer = weight_optimizer(
    'rmsprop', lambda step: jnp.asarray(rates, jnp.float32)[step]
  )
  got = run(
    optimizer,
    jnp.asarray(start, jnp.float32),
    jnp.asarray(gradients, 'float32'),
  )
  w, mean_square, momentum = start, np.ones(50), np.zeros(50)
  for rate, g, own in zip(rates, gradients, got, strict=True):
    mean_square = 0.9 * mean_square + 0.1 * g**2
    momentum = 0.9 * momentum + rate * g / np.sqrt(mean_square + 1e-3)
    w = w - momentum
    # Near 0 a weight is the difference of two others: absolute 1e-6.
    np.testing.assert_allclose(own, w, rtol=1e-6, atol=1e-6)


def test_sgd_is_nesterovs():
  """Two steps by hand: v <- 0.9 v + g; w <- w - lr (g + 0.9 v)."""
  optimizer = weight_optimizer('sgd', lambda step: 0.1)
  got = run(optimizer, jnp.float32(1.0), [jnp.float32(2.0), jnp.float32(1.0)])
  first = 1.0 - 0.1 * (2.0 + 0.9 * 2.0)
  second = first - 0.1 * (1.0 + 0.9 * (0.9 * 2.0 + 1.0))
  np.testing.assert_allclose(got, [first, second], rtol=1e-6)


def test_adamw_leaves_the_decay_to_the_loss():
  """A parameter without a gradient stays: decay twice would be a bug."""
  optimizer = weight_optimizer('adamw', lambda step: 0.1)
  got = run(optimizer, jnp.float32(3.0), [jnp.float32(0.0)] * 2)
  assert got[-1] == 3.0


def test_unknown_optimizer_is_refused():
  """The message lists what there is."""
  with pytest.raises(ValueError, match='rmsprop, sgd, adamw'):
    weight_optimizer('adam', lambda step: 0.1)


def test_thresholds_move_by_their_own_rule():
  """One pass: weights and norms by one optimizer, thresholds by another."""
  optimizer = grouped(optax.sgd(1.0), optax.sgd(10.0))
  params = {
    'thresholds': jnp.zeros(2),
    'frame': {
      'stem_conv': {'kernel': jnp.zeros(2)},
      'stem_bn': {'scale': jnp.zeros(2), 'bias': jnp.zeros(2)},
    },
  }
  got = run(optimizer, params, [jax.tree.map(jnp.ones_like, params)])[0]
  np.testing.assert_array_equal(got['thresholds'], -10.0)
  for leaf in jax.tree.leaves(got['frame']):
    np.testing.assert_array_equal(leaf, -1.0)


def fine_tuning(name='rmsprop', frozen_steps=0, **changes):
  recipe = default_config().train
  recipe.update(optimizer=name, **changes)
  return train_optimizer(recipe, lambda step: 0.1 / (1 + step), frozen_steps)


def small_params():
  rng = np.random.default_rng(0)
  kernel, scale, own = (
    jnp.asarray(rng.normal(size=5), jnp.float32) for _ in range(3)
  )
  return {
    'block00': {'project_conv': {'kernel': kernel}},
    'frame': {'stem_bn': {'scale': scale}, 'classifier': {'kernel': own}},
  }


def bits(tree):
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def assert_close(a, b):
  """float32 in another order of operations."""
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6), a, b
  )


GRADIENTS = [
  jax.tree.map(lambda x, f=f: f * x + f, small_params())
  for f in (1.0, -0.5, 2.0)
]


@pytest.mark.parametrize('name', ['rmsprop', 'sgd', 'adamw'])
def test_fine_tuning_at_its_defaults_changes_no_bit(name):
  """Nor the state, so that checkpoints of other versions still fit.

  The same rates through the two parts (frozen for 0 steps) give the same but
  for the last bit, as XLA compiles another program: a part is nothing but the
  optimizer at its own rate.
  """
  plain = weight_optimizer(name, lambda step: 0.1 / (1 + step))
  params = small_params()
  same, parts = fine_tuning(name), fine_tuning(name, freeze_epochs=1e-9)
  trees = [jax.tree.structure(o.init(params)) for o in (plain, same, parts)]
  assert trees[0] == trees[1] != trees[2]
  plainly = run(plain, params, GRADIENTS)
  assert bits(run(same, params, GRADIENTS)) == bits(plainly)
  assert_close(run(parts, params, GRADIENTS), plainly)


@pytest.mark.parametrize('name', ['rmsprop', 'sgd', 'adamw'])
def test_a_frozen_backbone_keeps_its_bits(name):
  """For so many steps; then it moves. The classifier moves all along, as it
  would without freezing."""
  params = small_params()
  got = run(fine_tuning(name, 2, freeze_epochs=1.0), params, GRADIENTS)
  free = run(fine_tuning(name), params, GRADIENTS)
  for i, (own, other) in enumerate(zip(got, free, strict=True)):
    assert (bits(own['block00']) == bits(params['block00'])) is (i < 2)
    stem = bits(own['frame']['stem_bn']) == bits(params['frame']['stem_bn'])
    assert stem is (i < 2)
    assert_close(own['frame']['classifier'], other['frame']['classifier'])


def test_the_backbone_has_a_rate_of_its_own():
  """The first step of SGD by hand: w <- w - 0.1 (1 + 0.9) g, and a quarter
  of it for everything but the classifier."""
  params = small_params()
  (got,) = run(fine_tuning('sgd', backbone_rate=0.25), params, GRADIENTS[:1])
  for path, leaf in jax.tree_util.tree_leaves_with_path(got):
    share = 1 if 'classifier' in path_of(path) else 0.25
    w, g = (np.asarray(_at(t, path), float) for t in (params, GRADIENTS[0]))
    np.testing.assert_allclose(leaf, w - share * 0.19 * g, rtol=1e-6, atol=1e-7)


def _at(tree, path):
  for key in path:
    tree = tree[key.key]
  return tree


def test_moving_average():
  """decay a + (1 - decay) v, leaf by leaf."""
  average = {'a': jnp.array([1.0, 2.0]), 'b': [jnp.float32(-1.0)]}
  value = {'a': jnp.array([3.0, 0.0]), 'b': [jnp.float32(1.0)]}
  got = moving_average(average, value, jnp.float32(0.75))
  np.testing.assert_allclose(got['a'], [1.5, 1.5], rtol=1e-6)
  np.testing.assert_allclose(got['b'][0], -0.5, rtol=1e-6)
