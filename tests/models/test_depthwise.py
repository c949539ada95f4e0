"""The CPU's depthwise form against XLA's convolution, and who gets which."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from spnas_jax.models.depthwise import depthwise_conv

CHANNELS = 4
# [batch, height, width]: even and odd sizes, also below the kernel's; one tile
# of the kernel gradient and several, not all full; examples in fours and one by
# one.
SHAPES = ((4, 5, 4), (3, 2, 1), (8, 9, 18))
# Half a unit in the last place, relative: the error of one operation.
FLOAT32_ROUNDING = 2.0**-24
BFLOAT16_ROUNDING = 2.0**-8


def reference(x, kernel, stride, padding):
  """XLA's convolution, in float32."""
  k = kernel.shape[0]
  pads = 'SAME' if padding == 'same' else [(k // 2, k // 2)] * 2
  return lax.conv_general_dilated(
    x.astype(jnp.float32),
    kernel.astype(jnp.float32),
    (stride, stride),
    pads,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=x.shape[-1],
  )


def with_gradients(conv, x, kernel, weights):
  """conv(x, kernel) and the gradients of sum(weights * conv(x, kernel))."""
  y, pullback = jax.vjp(conv, x, kernel)
  return (y, *pullback(weights.astype(y.dtype)))


def make_inputs(shape, k, stride, dtype=jnp.float32):
  """Random x, kernel and weights of the output."""
  batch, height, width = shape
  output = (batch, -(-height // stride), -(-width // stride), CHANNELS)
  rng = np.random.default_rng([*shape, k, stride])
  return tuple(
    jnp.asarray(rng.standard_normal(s), dtype)
    for s in ((*shape, CHANNELS), (k, k, 1, CHANNELS), output)
  )


def compile_quickly(function):
  """jax.jit without LLVM's optimisations: what takes time here is compiling."""
  return jax.jit(
    function, compiler_options={'xla_backend_optimization_level': 0}
  )


def both_forms(k, stride, padding, dtype):
  """(ours, expected, absolute) of every shape, from one compilation.

  `absolute` is the same sums over absolute values: what rounding errors are
  proportional to.
  """
  ours = functools.partial(depthwise_conv, stride=stride, padding=padding)
  expected = functools.partial(reference, stride=stride, padding=padding)

  def compute(inputs):
    return [
      (
        with_gradients(ours, *args),
        with_gradients(expected, *(a.astype(jnp.float32) for a in args)),
        with_gradients(
          expected, *(jnp.abs(a.astype(jnp.float32)) for a in args)
        ),
      )
      for args in inputs
    ]

  return compile_quickly(compute)(
    [make_inputs(shape, k, stride, dtype) for shape in SHAPES]
  )


def check_close(k, stride, padding, dtype, rounding):
  """Ours differs from the primitive by no more than rounding explains.

  Adding n numbers in float32 in any order is off by at most n roundings of the
  sum of their absolute values, and both forms may be. `rounding` is the
  relative error of storing the result.
  """
  for ours, expected, absolute in both_forms(k, stride, padding, dtype):
    output_positions = ours[0].size // CHANNELS
    counts = (k * k, k * k, output_positions)
    for a, b, size, n in zip(ours, expected, absolute, counts, strict=True):
      assert a.shape == b.shape
      assert a.dtype == dtype
      bound = 2 * n * FLOAT32_ROUNDING * size + rounding * np.abs(b)
      assert np.all(np.abs(a.astype(jnp.float32) - b) <= bound)


@pytest.mark.parametrize('padding', ['same', 'symmetric'])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('k', [1, 3, 5, 7])
def test_equals_the_primitive(k, stride, padding):
  check_close(k, stride, padding, jnp.float32, rounding=0)


@pytest.mark.parametrize('stride', [1, 2])
def test_bfloat16_is_summed_in_float32(stride):
  # Only the result is rounded; 1 % for rounding a sum that is itself inexact.
  check_close(
    5, stride, 'same', jnp.bfloat16, rounding=1.01 * BFLOAT16_ROUNDING
  )


def test_implementations_agree_and_keep_the_type():
  x, kernel, _ = make_inputs((2, 5, 4), 3, 2, jnp.bfloat16)
  y = depthwise_conv(x, kernel, stride=2, implementation='primitive')
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    y.astype(jnp.float32),
    depthwise_conv(x, kernel, stride=2).astype(jnp.float32),
    rtol=2 * BFLOAT16_ROUNDING,
    atol=1e-2,
  )


def test_gradients_by_finite_differences():
  x, kernel, _ = make_inputs((2, 5, 4), 3, 2)
  conv = jax.jit(functools.partial(depthwise_conv, stride=2))
  # Linear in each argument, so central differences are exact and a large step
  # keeps rounding small.
  check_grads(conv, (x, kernel), order=1, modes=['rev'], eps=0.5, rtol=1e-4)


@pytest.mark.parametrize('stride', [1, 2])
def test_masked_5x5_is_its_3x3_centre(stride):
  conv = functools.partial(depthwise_conv, stride=stride)

  @compile_quickly
  def both(inputs):
    results = []
    for x, kernel, _ in inputs:
      centre = kernel[1:4, 1:4]
      masked = jnp.zeros_like(kernel).at[1:4, 1:4].set(centre)
      results.append((conv(x, masked), conv(x, centre)))
    return results

  shapes = ((2, 8, 8), (2, 9, 7), (1, 6, 9))
  for masked, true in both([make_inputs(s, 5, stride) for s in shapes]):
    np.testing.assert_allclose(masked, true, atol=1e-5)


def gradient_of(mean):
  """Gradient of a loss over one device's share of the batch."""

  def gradient(kernel, x):
    def loss(kernel):
      return jnp.sum(jnp.sin(depthwise_conv(x, kernel, stride=2)))

    return mean(jax.grad(loss)(kernel))

  return gradient


def test_devices_share_a_batch():
  """Under pmap, and under the shard_map that replaces it."""
  x, kernel, _ = make_inputs((8, 5, 4), 3, 2)
  expected = gradient_of(lambda g: g / 2)(kernel, x)
  mean = functools.partial(lax.pmean, axis_name='batch')
  devices = jax.devices()[:2]

  pmapped = jax.pmap(
    gradient_of(mean), axis_name='batch', in_axes=(None, 0), devices=devices
  )
  for replica in pmapped(kernel, x.reshape(2, 4, 5, 4, CHANNELS)):
    np.testing.assert_allclose(replica, expected, rtol=1e-4, atol=1e-5)

  mapped = jax.shard_map(
    gradient_of(mean),
    mesh=Mesh(np.asarray(devices), ('batch',)),
    in_specs=(P(), P('batch')),
    out_specs=P(),
    check_vma=False,  # As in pmap.
  )
  np.testing.assert_allclose(
    jax.jit(mapped)(kernel, x), expected, rtol=1e-4, atol=1e-5
  )


def lowered_text(platform, implementation='auto'):
  """StableHLO of y and both gradients, lowered for `platform` from here."""
  conv = functools.partial(
    depthwise_conv, stride=2, implementation=implementation
  )
  x, kernel, weights = make_inputs((2, 8, 8), 5, 2)
  step = jax.jit(functools.partial(with_gradients, conv))
  return (
    step.trace(x, kernel, weights)
    .lower(lowering_platforms=(platform,))
    .as_text()
  )


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
def test_accelerators_get_the_primitive(platform):
  text = lowered_text(platform)
  groups = re.findall(r'feature_group_count = (\d+)', text)
  assert str(CHANNELS) in groups
  assert text.count('stablehlo.convolution') == 3  # y, dx and dkernel
  assert 'stablehlo.slice' not in text
  assert 'stablehlo.while' not in text


def test_cpu_gets_slices_unless_asked_otherwise():
  assert 'stablehlo.convolution' not in lowered_text('cpu')
  assert lowered_text('cpu', 'primitive').count('stablehlo.convolution') == 3


@pytest.mark.parametrize('stride', [1, 2])
def test_tflite_gets_one_depthwise_convolution(stride):
  # Imported here: it takes seconds.
  tf = pytest.importorskip('tensorflow')
  interpreter_module = pytest.importorskip('ai_edge_litert.interpreter')
  jax2tf = pytest.importorskip('jax.experimental.jax2tf')

  x, kernel, _ = make_inputs((1, 8, 8), 5, stride)
  conv = functools.partial(
    depthwise_conv, kernel=kernel, stride=stride, implementation='primitive'
  )
  function = tf.function(
    jax2tf.convert(
      conv, with_gradient=False, native_serialization_platforms=('cpu',)
    ),
    input_signature=[tf.TensorSpec(x.shape, tf.float32)],
    autograph=False,
  )
  converter = tf.lite.TFLiteConverter.from_concrete_functions(
    [function.get_concrete_function()]
  )
  interpreter = interpreter_module.Interpreter(
    model_content=converter.convert()
  )
  interpreter.allocate_tensors()
  names = [
    op['op_name']
    for op in interpreter._get_ops_details()
    if op['op_name'] != 'DELEGATE'
  ]
  assert names == ['DEPTHWISE_CONV_2D']


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'x': jnp.zeros((4, 4, 3))}, r'x has shape \(4, 4, 3\)'),
    ({'x': jnp.zeros((0, 4, 4, 3))}, r'x has shape \(0, 4, 4, 3\)'),
    ({'x': jnp.zeros((1, 4, 4, 3), jnp.int32)}, 'x has dtype int32'),
    ({'kernel': jnp.zeros((3, 3, 1, 2))}, r'kernel has shape \(3, 3, 1, 2\)'),
    ({'kernel': jnp.zeros((4, 4, 1, 3))}, r'kernel has shape \(4, 4, 1, 3\)'),
    ({'kernel': jnp.zeros((3, 5, 1, 3))}, r'kernel has shape \(3, 5, 1, 3\)'),
    (
      {'kernel': jnp.zeros((3, 3, 1, 3), jnp.bfloat16)},
      'kernel has dtype bfloat16; allowed: float32',
    ),
    ({'stride': 3}, r'stride is 3; allowed: \(1, 2\)'),
    ({'padding': 'valid'}, "padding is 'valid'; allowed"),
    ({'implementation': 'fast'}, "implementation is 'fast'; allowed"),
  ],
)
def test_refuses(change, message):
  arguments = {
    'x': jnp.zeros((1, 4, 4, 3)),
    'kernel': jnp.zeros((3, 3, 1, 3)),
    **change,
  }
  with pytest.raises(ValueError, match=message):
    depthwise_conv(arguments.pop('x'), arguments.pop('kernel'), **arguments)
