"""The supernet under hard gates, and the networks cut out of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from authors import imagenet_space
from hypothesis import given, settings
from hypothesis import strategies as st

from spnas_jax.models.convnet import ConvNet
from spnas_jax.models.layers import LayerGates, MBConv, Style
from spnas_jax.models.supernet import (
  SuperNet,
  _cut,
  inherit,
  layer_gates,
  layer_name,
)
from spnas_jax.networks.architecture import num_params
from spnas_jax.networks.space import Choice
from spnas_jax.search.gates import FORMULATIONS
from spnas_jax.training.objective import cross_entropy

# Everything there is: three kernel sizes, three expansion ratios, searched
# squeeze-and-excitation, fixed blocks in front and behind.
RICH = tiny.space((3, 5, 7), (2, 4, 6), (0.0, 0.25), fixed_blocks=True)
PLAIN = tiny.space()


def rich_net():
  """XLA's own convolution compiles several times faster than ours for CPU."""
  return SuperNet(RICH, implementation='primitive')


@functools.cache
def rich_variables():
  # NumPy, so that cutting weights out compiles nothing.
  return jax.device_get(tiny.variables(rich_net()))


@functools.cache
def jitted(net, train):
  """(variables, x, gates) -> (logits, batch statistics)."""
  if not train:
    return tiny.jit(lambda v, x, g: (net.apply(v, x, g), v['batch_stats']))

  def apply(v, x, g):
    logits, updated = net.apply(v, x, g, train=True, mutable=['batch_stats'])
    return logits, updated['batch_stats']

  return tiny.jit(apply)


def without_thresholds(variables):
  params = {k: v for k, v in variables['params'].items() if k != 'thresholds'}
  return {**variables, 'params': params}


def choices(space):
  """Hypothesis strategy of one choice per layer."""
  return st.tuples(
    *(
      st.sampled_from([*layer.choices, *([None] if layer.skippable else [])])
      for layer in space.layers
    )
  )


@settings(tiny.steady, max_examples=25)
@given(choices(RICH), st.booleans())
def test_hard_gates_equal_the_decoded_network(decision, train):
  """One supernet contains every network of its space: the central claim.

  Under hard gates it computes what the decoded network computes with the
  inherited weights, with running statistics and with those of the batch, and
  leaves the same new statistics. All norms and biases are random first. Both
  are float32 sums in different orders; logits and statistics are of order 1,
  and normalising a batch multiplies rounding by some tens: 1e-4.
  """
  variables = rich_variables()
  x = tiny.images(4, RICH)
  gates = jnp.asarray(RICH.gates_of(decision))
  logits, stats = jitted(rich_net(), train)(variables, x, gates)
  cut = inherit(RICH, decision, without_thresholds(variables))
  # Not jitted: operations of one shape compile once for all networks.
  net = ConvNet(RICH.architecture_of(decision), implementation='primitive')
  if train:
    own, updated = net.apply(cut, x, train=True, mutable=['batch_stats'])
    own_stats = updated['batch_stats']
    wanted = inherit(RICH, decision, {'batch_stats': stats})['batch_stats']
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
      own_stats,
      wanted,
    )
  else:
    own = net.apply(cut, x)
  assert np.std(np.asarray(logits)) > 0.01
  np.testing.assert_allclose(logits, own, rtol=1e-4, atol=1e-4)


def plain_net(**kwargs):
  return SuperNet(PLAIN, implementation='primitive', **kwargs)


@functools.cache
def plain_variables():
  """Of the space with two candidates each, in NumPy."""
  return jax.device_get(tiny.variables(plain_net()))


def batch_norm(x, norm, stats):
  factor = norm['scale'] / np.sqrt(stats['var'] + 1e-3)
  return x * factor + norm['bias'] - stats['mean'] * factor


def layer_output(net_gates, block, group, stats, x, train):
  """Output of one block; nothing is jitted."""
  out = MBConv(block, Style(implementation='primitive')).apply(
    {'params': group, 'batch_stats': stats},
    x,
    train,
    net_gates,
    mutable=['batch_stats'] if train else False,
  )
  return np.asarray(out[0] if train else out, np.float64)


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('gates', list(np.ndindex(2, 2, 2)))
def test_placement_kernel_leaves_exactly_the_biases(gates, train):
  """Where the published formulation differs from the decoded network, exactly.

  Gates on the kernel zero the input of a batch norm, not its output: a closed
  channel still emits act(bias - mean scale / sqrt(var + eps)), act(bias) in
  training, where the batch's own mean and variance are 0. The projection turns
  these into one constant per output channel, whatever the image; in training
  its own norm takes a constant away again, so only a skip differs there. The
  order of float32 sums is all that remains: 1e-4 of values of order 1, which
  normalising a batch divides by deviations down to some 0.1.
  """
  index = 3  # Skippable; gates in the order kernel, expansion, keep.
  layer, name = PLAIN.layers[index], layer_name(index)
  group = plain_variables()['params'][name]
  stats = plain_variables()['batch_stats'][name]
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(4, 3, 3, 12)), jnp.float32)
  vector = np.ones(len(PLAIN.gates), np.float32)
  vector[-3:] = gates
  choice = PLAIN.choices_of(vector)[index]
  got = layer_output(
    layer_gates(PLAIN, index, jnp.asarray(vector), 'kernel'),
    layer.block(layer.choices[-1]),
    group,
    stats,
    x,
    train,
  )
  norm, own = group['depthwise_bn'], stats['depthwise_bn']
  leak = norm['bias'] if train else batch_norm(0.0, norm, own)
  leak = np.maximum(leak, 0)  # relu
  closed = np.ones(48, bool)
  if choice is not None:
    closed[: 12 * choice.expansion] = False
  constant = (leak * closed) @ group['project_conv']['kernel'][0, 0]
  norm, own = group['project_bn'], stats['project_bn']
  if choice is None:
    # The branch is one constant; of a batch of constants the norm leaves bias.
    branch = norm['bias'] if train else batch_norm(constant, norm, own)
    wanted = np.asarray(x) + branch
  else:
    wanted = layer_output(
      LayerGates(),
      layer.block(choice),
      _cut(group, layer, choice),
      _cut(stats, layer, choice),
      x,
      train,
    )
    if not train:
      factor = norm['scale'] / np.sqrt(own['var'] + 1e-3)
      wanted = wanted + constant * factor
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
  if closed.any() and not train:
    # Not a rounding error: the claim above is about something.
    assert np.abs(constant).max() > 0.1


@settings(tiny.steady, max_examples=10)
@given(choices(PLAIN), st.booleans())
def test_placement_kernel_equals_the_network_once_remasked(decision, train):
  """Masking again behind the norm restores the decoded network.

  Zero rows of the projection for closed channels and a zero norm for skipped
  branches do that here. Same tolerance as under 'after_norm'.
  """
  variables = plain_variables()
  x = tiny.images(4, PLAIN)
  remasked = dict(variables['params'])
  for i, choice in enumerate(decision):
    group = dict(remasked[layer_name(i)])
    if choice is None:
      group['project_bn'] = jax.tree.map(np.zeros_like, group['project_bn'])
    else:
      kernel = group['project_conv']['kernel'].copy()
      kernel[:, :, PLAIN.layers[i].in_channels * choice.expansion :] = 0
      group['project_conv'] = {'kernel': kernel}
    remasked[layer_name(i)] = group
  net = plain_net(placement='kernel')
  gates = jnp.asarray(PLAIN.gates_of(decision))
  got, _ = jitted(net, train)({**variables, 'params': remasked}, x, gates)
  cut = inherit(PLAIN, decision, without_thresholds(variables))
  convnet = ConvNet(PLAIN.architecture_of(decision), implementation='primitive')
  mutable = ['batch_stats'] if train else False
  own = convnet.apply(cut, x, train=train, mutable=mutable)
  np.testing.assert_allclose(
    got, own[0] if train else own, rtol=1e-4, atol=1e-4
  )


def test_closed_subsets_are_not_trained():
  """Under 'after_norm' what a decision leaves out has a gradient of exactly 0.

  And everything it uses is trained: the gradients are those of the decoded
  network.
  """
  variables = plain_variables()
  decision = (
    Choice(3, 2, 0.0),
    None,
    Choice(5, 2, 0.0),
    Choice(3, 4, 0.0),
  )
  gates = jnp.asarray(PLAIN.gates_of(decision))
  x, labels = tiny.images(4, PLAIN), tiny.labels(4)
  stats = variables['batch_stats']

  def loss(net, *args):
    def f(params):
      logits, _ = net.apply(
        {'params': params, 'batch_stats': args[0]},
        x,
        *args[1:],
        train=True,
        mutable=['batch_stats'],
      )
      return cross_entropy(logits, labels, 0.1)

    return tiny.jit(jax.grad(f))

  got = jax.device_get(loss(plain_net(), stats, gates)(variables['params']))
  cut = inherit(PLAIN, decision, without_thresholds(variables))
  convnet = ConvNet(PLAIN.architecture_of(decision), implementation='primitive')
  wanted = loss(convnet, cut['batch_stats'])(cut['params'])
  trained = inherit(PLAIN, decision, {'params': got})['params']
  # float32 gradients of order 0.1 through four normalised layers.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
    trained,
    jax.device_get(wanted),
  )
  # What `inherit` did not take has no gradient: compare the sums of squares.
  used = sum(np.sum(np.square(g)) for g in jax.tree.leaves(trained))
  total = sum(np.sum(np.square(g)) for g in jax.tree.leaves(got))
  np.testing.assert_allclose(total, used, rtol=1e-6)
  for leaf in jax.tree.leaves(got[layer_name(1)]):  # The skipped layer.
    np.testing.assert_array_equal(leaf, 0.0)
  shell = got[layer_name(0)]['depthwise']['kernel'].copy()
  shell[1:4, 1:4] = 0
  np.testing.assert_array_equal(shell, 0.0)


def abstract(net, *args):
  """Shapes of a network's variables, nothing computed."""
  return jax.eval_shape(net.init, jax.random.key(0), *args)


@pytest.mark.parametrize(
  ('formulation', 'wanted'), [('official', 4_833_828), ('sampled', 4_833_823)]
)
def test_imagenet_supernet_parameters(formulation, wanted):
  """The authors' supernet to the unit: 4,833,768 weights and 60 thresholds.

  By default the five of them that nothing reads do not exist.
  """
  space = imagenet_space()
  f = FORMULATIONS[formulation]
  net = SuperNet(
    space, placement=f.placement, num_thresholds=f.num_thresholds(space)
  )
  x = jnp.zeros((1, 32, 32, 3))
  params = abstract(net, x, jnp.ones(len(space.gates)))['params']
  sizes = [leaf.size for leaf in jax.tree.leaves(params)]
  assert sum(sizes) == wanted
  # As many weights as its largest network: one path, no copies.
  weights = sum(sizes) - params['thresholds'].size
  assert weights == num_params(space.largest) == 4_833_768


@settings(tiny.steady, max_examples=15)
@given(choices(RICH))
def test_inherit_gives_exactly_the_networks_variables(decision):
  """No leaf missing, none left over, every shape that of the ConvNet."""
  cut = inherit(RICH, decision, without_thresholds(rich_variables()))
  net = ConvNet(RICH.architecture_of(decision))
  wanted = abstract(net, tiny.images(1, RICH))
  assert jax.tree.map(np.shape, cut) == jax.tree.map(np.shape, wanted)


def test_thresholds_start_at_zero_and_float32_rules_everything_kept():
  """Compute type bfloat16: parameters, statistics and logits stay float32."""
  net = plain_net(dtype='bfloat16')
  x, gates = tiny.images(2, PLAIN), jnp.ones(len(PLAIN.gates))
  variables = tiny.jit(net.init)(jax.random.key(0), x, gates)
  np.testing.assert_array_equal(variables['params']['thresholds'], 0.0)
  logits, stats = jitted(net, True)(variables, x, gates)
  for leaf in jax.tree.leaves((variables, logits, stats)):
    assert leaf.dtype == jnp.float32
  wide, _ = jitted(plain_net(), True)(variables, x, gates)
  # Eight bits of mantissa through a dozen normalised layers.
  np.testing.assert_allclose(logits, wide, atol=0.1)


def test_momentum_can_be_overridden():
  """0 leaves the statistics of the batch itself, for re-estimation."""
  x, gates = tiny.images(4, PLAIN), jnp.ones(len(PLAIN.gates))
  variables = plain_variables()
  _, slow = jitted(plain_net(), True)(variables, x, gates)
  _, batch = jitted(plain_net(momentum=0.0), True)(variables, x, gates)
  old = variables['batch_stats']
  # One float32 multiply-add; statistics are of order 1.
  jax.tree.map(
    lambda s, o, b: np.testing.assert_allclose(
      s, 0.99 * o + 0.01 * b, rtol=1e-5, atol=1e-6
    ),
    slow,
    old,
    batch,
  )


def test_unknown_placement_is_refused():
  """A misspelt placement must not fall through to the other one."""
  net = SuperNet(PLAIN, placement='after')
  with pytest.raises(ValueError, match='after_norm, kernel'):
    abstract(net, tiny.images(1, PLAIN), jnp.ones(len(PLAIN.gates)))
