"""1x1 convolution: its kernel gradient is the derivative of what it does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.test_util import check_grads

from spnas_jax.models.pointwise import pointwise_conv


def normal(seed, *shape, dtype=jnp.float32):
  return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


@settings(max_examples=10, deadline=None)
@given(
  batch=st.integers(1, 3),
  size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
  inputs=st.integers(1, 6),
  outputs=st.integers(1, 6),
)
def test_gradients_by_finite_differences(batch, size, inputs, outputs):
  """Linear in both arguments, so the differences only round."""
  x = normal(0, batch, *size, inputs)
  kernel = normal(1, inputs, outputs)
  check_grads(
    pointwise_conv, (x, kernel), 1, modes=('rev',), atol=1e-2, rtol=1e-2
  )


@pytest.mark.parametrize('dtype, rtol', [('float32', 1e-5), ('bfloat16', 2e-2)])
def test_it_is_the_convolution_and_its_derivative(dtype, rtol):
  """Sums of 48 products: float32 rounds by 1e-6 of them, bfloat16 by 2^-8."""
  x = normal(0, 3, 4, 4, 5, dtype=dtype)
  kernel = normal(1, 5, 7, dtype=dtype)
  dy = normal(2, 3, 4, 4, 7, dtype=dtype)

  def convolution(x, kernel):
    return lax.conv_general_dilated(
      x,
      kernel[None, None],
      (1, 1),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )

  got, wanted = (
    jax.jit(
      lambda x, kernel, dy, f=f: (f(x, kernel), *jax.vjp(f, x, kernel)[1](dy))
    )(x, kernel, dy)
    for f in (pointwise_conv, convolution)
  )
  for own, reference in zip(got, wanted, strict=True):
    assert own.dtype == dtype
    own, reference = np.float32(own), np.float32(reference)
    np.testing.assert_allclose(
      own, reference, rtol=rtol, atol=rtol * np.abs(reference).max()
    )
