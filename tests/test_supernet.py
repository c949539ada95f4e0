"""The supernet under hard gates, and the networks cut out of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from spnas_jax.architecture import num_params
from spnas_jax.convnet import ConvNet
from spnas_jax.gates import FORMULATIONS
from spnas_jax.layers import MBConv, Style
from spnas_jax.space import imagenet_space
from spnas_jax.supernet import SuperNet, inherit, layer_gates, layer_name

# Three kernel sizes, three expansion ratios, searched squeeze-and-excitation,
# fixed blocks around: 36^2 37^2... networks of everything there is.
RICH = tiny.space((3, 5, 7), (2, 4, 6), (0.0, 0.25), fixed_blocks=True)


@functools.cache
def rich_variables():
  return tiny.variables(SuperNet(RICH))


@functools.cache
def jitted(net, train):
  """(variables, x, gates) -> (logits, batch statistics)."""
  if not train:
    return jax.jit(lambda v, x, g: (net.apply(v, x, g), v['batch_stats']))

  def apply(v, x, g):
    logits, updated = net.apply(v, x, g, train=True, mutable=['batch_stats'])
    return logits, updated['batch_stats']

  return jax.jit(apply)


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


@settings(tiny.steady, max_examples=50)
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
  logits, stats = jitted(SuperNet(RICH), train)(variables, x, gates)
  cut = inherit(RICH, decision, without_thresholds(variables))
  # Not jitted: operations of one shape compile once for all fifty networks.
  net = ConvNet(RICH.architecture_of(decision))
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
