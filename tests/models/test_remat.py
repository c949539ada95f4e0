"""Computing a block twice instead of keeping it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from spnas_jax.models.supernet import SuperNet
from spnas_jax.networks.space import Stage
from spnas_jax.training.objective import cross_entropy

# A squeeze too: everything that may be computed twice.
SPACE = tiny.space(stages=(Stage(8, 2, 1, (3, 5), (2, 4), (0.0, 0.25)),))


@functools.cache
def variables():
  net = SuperNet(SPACE, implementation='primitive')
  return jax.device_get(tiny.variables(net))


@functools.cache
def loss_of(placement, remat):
  """(parameters, x, gates) -> scalar of a training pass."""
  module = SuperNet(
    SPACE, placement=placement, remat=remat, implementation='primitive'
  )
  stats = variables()['batch_stats']

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
  gates = tiny.all_gates(SPACE)
  gates = jnp.asarray(gates[len(gates) // 2], jnp.float32) * 0.9
  inputs = (variables()['params'], tiny.images(4, SPACE), gates)
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
      variables()['params'],
      tiny.images(4, SPACE),
      jnp.ones(len(SPACE.gates)),
    )
    return sum(
      leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)
    )

  # All of it but a block's input, which is some tenth of what is in the block,
  # and the stem and head, which are as they were.
  assert kept_bytes(True) < 0.5 * kept_bytes(False)
