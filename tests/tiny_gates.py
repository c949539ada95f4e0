"""Weights and compiled decisions for the tests of the formulations."""

import functools

import jax
import jax.numpy as jnp
import tiny

from spnas_jax.models.layers import fan_out_normal
from spnas_jax.models.supernet import layer_name
from spnas_jax.search.gates import FORMULATIONS, decide

SPACE = tiny.space()


def kernels_of(space, seed=0, scale=1.0):
  """Initial superkernels (and squeezes), as `decide` reads them."""
  params = {}
  key = jax.random.key(seed)
  for i, layer in enumerate(space.layers):
    size, width = layer.kernels[-1], layer.in_channels * layer.expansions[-1]
    key, own = jax.random.split(key)
    kernel = scale * fan_out_normal(own, (size, size, 1, width))
    params[layer_name(i)] = {'depthwise': {'kernel': kernel}}
    if layer.squeeze_ratios[-1]:
      squeeze = layer.block(layer.choices[-1]).squeeze_channels
      params[layer_name(i)]['squeeze'] = {
        'squeeze_kernel': fan_out_normal(own, (1, 1, width, squeeze))
      }
  return params


def with_thresholds(params, thresholds):
  return {**params, 'thresholds': jnp.asarray(thresholds, jnp.float32)}


@functools.cache
def decision_of(name, space, **kwargs):
  """Jitted decide: (params, thresholds, key) -> Decision."""
  return jax.jit(
    lambda params, thresholds, key: decide(
      FORMULATIONS[name],
      space,
      with_thresholds(params, thresholds),
      key,
      **kwargs,
    )
  )
