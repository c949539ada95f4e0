"""Layers: how convolutions start, and that what is trained is exported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from spnas_jax.models.convnet import ConvNet
from spnas_jax.models.layers import BatchNorm, Conv, Style
from spnas_jax.networks import zoo
from spnas_jax.networks.architecture import Architecture, Block


@pytest.mark.parametrize(
  ('kernel', 'inputs', 'features', 'groups', 'fan_out'),
  [
    (1, 64, 384, 1, 384),
    (1, 64, 64, 2, 32),
    (1, 112, 224, 4, 56),
    (3, 1, 64, 1, 9 * 64),  # A stem for grey images is not depthwise.
  ],
)
def test_convolutions_start_with_a_spread_by_their_fan_out(
  kernel, inputs, features, groups, fan_out
):
  conv = Conv(features, kernel, 1, Style(), groups)
  x = jnp.zeros((1, 4, 4, inputs))
  weights = conv.init(jax.random.key(0), x)['params']['kernel']
  assert weights.shape == (kernel, kernel, inputs // groups, features)
  # The relative error of a standard deviation of n numbers is 1 / sqrt(2 n).
  tolerance = 4 / (2 * weights.size) ** 0.5
  assert np.std(weights) == pytest.approx((2 / fan_out) ** 0.5, rel=tolerance)


def test_fbnet_a_has_the_grouped_convolutions_that_this_is_for():
  assert {block.groups for block in zoo.get('fbnet_a').blocks} == {1, 2}


# --- the training graph is the exported graph ---------------------------------


@st.composite
def architectures(draw) -> Architecture:
  """Two blocks of any kind, every allowed value of every field."""
  blocks = []
  channels = draw(st.sampled_from((4, 8)))
  stem = channels
  for _ in range(2):
    op = draw(st.sampled_from(('ir', 'ds', 'dsa')))
    out = draw(st.sampled_from((4, 8)))
    stride = draw(st.sampled_from((1, 2)))
    blocks.append(
      Block(
        op,
        kernel=draw(st.sampled_from((1, 3, 5, 7))),
        stride=stride,
        in_channels=channels,
        out_channels=out,
        expansion=draw(st.sampled_from((1, 3))) if op == 'ir' else 1,
        squeeze_ratio=draw(st.sampled_from((0.0, 0.25, 1.0))),
        residual=stride == 1 and channels == out and draw(st.booleans()),
        groups=draw(st.sampled_from((1, 2))),
      )
    )
    channels = out
  return Architecture(
    tuple(blocks),
    stem_channels=stem,
    head_channels=draw(st.sampled_from((0, 8))),
    num_classes=3,
    input_channels=draw(st.sampled_from((1, 3))),
    stem_kernel=draw(st.sampled_from((1, 3, 5, 7))),
    stem_stride=draw(st.sampled_from((1, 2))),
    activation=draw(st.sampled_from(('relu', 'relu6'))),
    padding=draw(st.sampled_from(('same', 'symmetric'))),
  )


def assert_exported_as_trained(arch: Architecture, size: int) -> None:
  """Logits by the fast forms of the platform and by XLA's convolution."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(
    rng.normal(size=(2, size, size, arch.input_channels)), jnp.float32
  )
  net = ConvNet(arch)
  variables = tiny.randomise(tiny.jit(net.init)(jax.random.key(0), x))
  trained = tiny.jit(net.apply)(variables, x)
  exported = tiny.jit(ConvNet(arch, implementation='primitive').apply)(
    variables, x
  )
  # Sums of up to some hundred products in another order.
  np.testing.assert_allclose(trained, exported, rtol=1e-4, atol=1e-4)


@settings(tiny.steady, max_examples=8)
@given(architectures(), st.integers(5, 10))
def test_every_layer_is_exported_as_it_was_trained(arch, size):
  assert_exported_as_trained(arch, size)


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('size', [8, 9])
def test_a_1x1_stem_keeps_its_stride(stride, size):
  """The fast 1x1 form has no stride."""
  block = Block('ds', 3, 1, 4, 4)
  arch = Architecture((block,), 4, 0, 3, 1, stem_kernel=1, stem_stride=stride)
  assert_exported_as_trained(arch, size)


# --- batch norm in bfloat16 ---------------------------------------------------


@pytest.mark.parametrize('ratio', [3, 10])
@pytest.mark.parametrize('train', [False, True])
def test_bfloat16_batch_norm_rounds_its_result_only(ratio, train):
  """Where |mean| is `ratio` standard deviations, factor and offset cancel.

  A result of unit variance, rounded to bfloat16, has an RMS error of about
  2^-9 = 0.002; rounding factor and offset first has 0.0087 and 0.028.
  """
  rng = np.random.default_rng(0)
  x = rng.normal(ratio, 1, (8, 16, 16, 32)).astype(jnp.bfloat16)
  wide = x.astype(np.float64)
  wanted = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-3)
  norm = BatchNorm(Style(dtype='bfloat16'))
  variables = {
    'params': {'scale': jnp.ones(32), 'bias': jnp.zeros(32)},
    'batch_stats': {
      'mean': jnp.asarray(wide.mean((0, 1, 2)), jnp.float32),
      'var': jnp.asarray(wide.var((0, 1, 2)), jnp.float32),
    },
  }
  y, _ = norm.apply(variables, jnp.asarray(x), train, mutable=['batch_stats'])
  assert y.dtype == jnp.bfloat16
  error = np.asarray(y, np.float64) - wanted
  assert np.sqrt((error**2).mean()) < 0.0025


def test_batch_statistics_in_numpy():
  """Running mean and variance after one step, of the batch, height and width.

  Biased variance; 0.99 of the old is kept. And what comes out is normalised
  with the batch's own. float32 sums of 200 values: 1e-5.
  """
  rng = np.random.default_rng(0)
  x = rng.normal(1, 2, (8, 5, 5, 3)).astype(np.float32)
  params = {
    'scale': np.float32([0.5, 1, 2]),
    'bias': np.float32([1, 0, -1]),
  }
  old = {'mean': np.float32([0.1, 0.2, 0.3]), 'var': np.float32([1, 2, 3])}
  got, updated = BatchNorm(Style()).apply(
    {'params': params, 'batch_stats': old}, x, True, mutable=['batch_stats']
  )
  mean, var = x.mean((0, 1, 2), np.float64), x.var((0, 1, 2), np.float64)
  wanted = (x - mean) / np.sqrt(var + 1e-3) * params['scale'] + params['bias']
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
  for name, batch in (('mean', mean), ('var', var)):
    np.testing.assert_allclose(
      updated['batch_stats'][name], 0.99 * old[name] + 0.01 * batch, rtol=1e-5
    )
