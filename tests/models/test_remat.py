"""Computing a block twice instead of keeping it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from spnas_jax.models.supernet import SuperNet
from spnas_jax.training.objective import cross_entropy

# Squeezes and fixed blocks too: everything that may be computed twice.
RICH = tiny.space((3, 5, 7), (2, 4, 6), (0.0, 0.25), fixed_blocks=True)


@functools.cache
def rich_variables():
  return jax.device_get(tiny.variables(SuperNet(RICH)))


@functools.cache
def loss_of(placement, remat):
  """(parameters, x, gates) -> scalar of a training pass."""
  module = SuperNet(RICH, placement=placement, remat=remat)
  stats = rich_variables()['batch_stats']

  def loss(params, x, gates):
    logits, _ = module.apply(
      {'params': params, 'batch_stats': stats},
      x,
      gates,
      train=True,
      mutable=['batch_stats'],
    )
    return cross_entropy(logits, tiny.labels(4), 0.1)

  return loss


@pytest.mark.parametrize('placement', ['after_norm', 'kernel'])
def test_rematerialisation_changes_no_gradient(placement):
  gates = tiny.all_gates(RICH)
  gates = jnp.asarray(gates[len(gates) // 2], jnp.float32) * 0.9
  inputs = (rich_variables()['params'], tiny.images(4, RICH), gates)
  plain, again = (
    tiny.jit(jax.value_and_grad(loss_of(placement, remat), argnums=(0, 2)))(
      *inputs
    )
    for remat in (False, True)
  )
  # Computed twice, sums may be rounded in another order; the norms in between
  # make what follows a few roundings of float32 wide.
  for one, two in zip(
    jax.tree.leaves(plain), jax.tree.leaves(again), strict=True
  ):
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)


def test_rematerialisation_keeps_less_for_the_backward_pass():
  def kept_bytes(remat):
    loss = loss_of('after_norm', remat)

    def residuals(params, x, gates):
      return jax.vjp(loss, params, x, gates)[1]

    shapes = jax.eval_shape(
      residuals,
      rich_variables()['params'],
      tiny.images(4, RICH),
      jnp.ones(len(RICH.gates)),
    )
    return sum(
      leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)
    )

  # All of it but a block's input, which is some tenth of what is in the block,
  # and the stem and head, which are as they were.
  assert kept_bytes(True) < 0.5 * kept_bytes(False)
