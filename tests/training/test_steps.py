"""Training and evaluation steps: devices, mixup, dropout, what is right."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny_search import (
  BATCH,
  SMALL,
  assert_all_moved,
  assert_same_states,
  batches,
  compilations,
)

from spnas_jax.config.defaults import default_config
from spnas_jax.core.parallel import (
  AXIS,
  mapped_eval,
  mapped_step,
  replicas_agree,
  replicate,
)
from spnas_jax.models.convnet import ConvNet
from spnas_jax.training.mixup import mixup
from spnas_jax.training.objective import cross_entropy
from spnas_jax.training.optimizer import weight_optimizer
from spnas_jax.training.schedules import learning_rate_schedule
from spnas_jax.training.steps import (
  dropout_mask,
  make_eval_step,
  make_train_step,
  score,
)
from spnas_jax.training.train_state import TrainState


@functools.cache
def trained(num_devices, class_weights=None):
  """Three steps of the smallest network; like `searched`."""
  if class_weights is not None:
    class_weights = np.array(class_weights, np.float32)
  c = default_config().train
  c.update(
    batch_size=BATCH, schedule='constant', lr_warmup_epochs=0.0, dropout=0.2
  )
  arch = SMALL.smallest
  net = ConvNet(arch, axis_name=AXIS, implementation='primitive')
  schedule = learning_rate_schedule(c, 10, 20)
  optimizer = weight_optimizer(c.optimizer, schedule)
  variables = tiny.jit(net.init)(jax.random.key(0), tiny.images(1, SMALL))
  state = TrainState.create(tiny.randomise(variables), optimizer)
  step = mapped_step(
    make_train_step(net, optimizer, schedule, c, 0, class_weights),
    devices=jax.local_devices()[:num_devices],
  )
  if num_devices == jax.local_device_count():
    state = replicate(state)
  states, metrics, compiled = [jax.device_get(state)], [], []
  for batch in batches(3, num_devices):
    with compilations() as seen:
      state, measured = step(state, batch)
      jax.block_until_ready(state)
    compiled.append(list(seen))
    states.append(jax.device_get(state))
    metrics.append(jax.device_get(measured))
  return states, metrics, compiled, replicas_agree(state)


def test_train_step_on_one_and_four_devices():
  """Compiles once, replicas agree, and four devices change nothing.

  Tolerances as in the search's comparison.
  """
  four, metrics, compiled, agree = trained(4)
  one, own_metrics, *_ = trained(1)
  assert [len(seen) for seen in compiled] == [1, 0, 0]
  assert agree
  assert_same_states(four, one)
  for a, b in zip(metrics, own_metrics, strict=True):
    for key, value in a.items():
      np.testing.assert_allclose(value, b[key], rtol=1e-4, atol=1e-5)


def test_train_step_learns_every_parameter():
  """All of them move, biases of norms and of the classifier included."""
  states, metrics, *_ = trained(4)
  assert_all_moved(states)
  assert states[-1].step == 3
  for m in metrics:
    assert m['loss'] > m['cross_entropy'] > 0


def test_class_weights_do_not_depend_on_the_devices():
  """Though two devices hold different shares of a rare class.

  Weights far apart, so that normalising them by device would show.
  """
  weights = (4.0, 0.25, 1.0, 0.25, 1.0, 0.5)
  two, metrics, *_ = trained(2, weights)
  one, own_metrics, *_ = trained(1, weights)
  assert_same_states(two, one)
  for a, b in zip(metrics, own_metrics, strict=True):
    np.testing.assert_allclose(a['loss'], b['loss'], rtol=1e-4)
  for batch in batches(3, 2):
    shares = np.take(weights, batch['label']).mean(-1)
    assert abs(shares[0] - shares[1]) > 0.05
  plain = trained(1)[1][0]['cross_entropy']
  assert abs(own_metrics[0]['cross_entropy'] - plain) > 1e-2


def test_mixup_reaches_the_step():
  """Mixup's loss is the blend of both labels' losses, under the step's own
  images."""
  c = default_config().train
  c.update(batch_size=BATCH, label_smoothing=0.1, weight_decay=0.0, dropout=0.0)
  net = ConvNet(SMALL.smallest, axis_name=AXIS, implementation='primitive')
  optimizer = weight_optimizer(c.optimizer, lambda step: 0.0)
  variables = tiny.jit(net.init)(jax.random.key(0), tiny.images(1, SMALL))
  # On the host: a step donates its state.
  variables = jax.device_get(tiny.randomise(variables))
  (batch,) = batches(1, 1)

  def ce(**changes):
    own = c.copy_and_resolve_references()
    own.update(changes)
    step = mapped_step(
      make_train_step(net, optimizer, lambda step: 0.0, own, seed=0),
      devices=jax.local_devices()[:1],
    )
    state = TrainState.create(variables, optimizer)
    return float(step(state, batch)[1]['cross_entropy'])

  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 2)
  images, weight = mixup(key, batch['image'][0], 0.5)

  def expected(labels):
    logits, _ = net.clone(axis_name=None).apply(
      variables, images, train=True, mutable=['batch_stats']
    )
    return float(cross_entropy(logits, labels, 0.1))

  labels = batch['label'][0]
  wanted = weight * expected(labels) + (1 - weight) * expected(labels[::-1])
  assert ce(mixup=0.5) == pytest.approx(float(wanted), rel=1e-5)
  assert abs(ce() - wanted) > 1e-4


@pytest.mark.parametrize('rate', [0.2, 0.75])
def test_dropout_mask_does_not_depend_on_the_devices(rate):
  """An example meets the same mask on however many devices the batch lies.

  Inverted: kept features are scaled by 1 / (1 - rate); the share that is kept
  is within 5 sigma.
  """

  def mask(devices):
    f = functools.partial(dropout_mask, jax.random.key(3), rate, 32 // devices)
    mapped = jax.vmap(
      lambda _: f(16), axis_name=AXIS, axis_size=devices, in_axes=None
    )
    return np.asarray(mapped(0)).reshape(32, 16)

  whole = mask(1)
  for devices in (2, 4):
    np.testing.assert_array_equal(mask(devices), whole)
  assert set(np.unique(whole)) == {0.0, np.float32(1 / np.float32(1 - rate))}
  sigma = (rate * (1 - rate) / whole.size) ** 0.5
  assert abs((whole > 0).mean() - (1 - rate)) < 5 * sigma


def test_no_dropout_is_no_mask():
  """Rate 0 adds nothing to the network, not even a multiplication by 1."""
  assert dropout_mask(jax.random.key(0), 0.0, 4, 4) is None


def test_score_counts():
  """Sums by hand, over the examples whose mask is 1."""
  logits = np.zeros((4, 7), np.float32)
  logits[0] = [9, 1, 2, 3, 4, 5, 6]  # Right.
  logits[1] = [1, 9, 2, 3, 4, 5, 6]  # Sixth of seven.
  logits[2] = [3, 9, 1, 2, 4, 5, 6]  # Fifth.
  logits[3] = [9, 1, 2, 3, 4, 5, 6]  # Right, but masked.
  labels = np.array([0, 2, 0, 0])
  mask = np.array([1.0, 1.0, 1.0, 0.0])
  got = score(jnp.array(logits), jnp.array(labels), jnp.array(mask))
  assert got['count'] == 3 and got['top1'] == 1 and got['top5'] == 2
  wide = logits.astype(np.float64)
  ce = np.log(np.exp(wide).sum(-1)) - wide[np.arange(4), labels]
  np.testing.assert_allclose(got['cross_entropy'], ce[:3].sum(), rtol=1e-6)


def test_score_of_ties():
  """Fewer than k classes strictly above: ties count, as in TensorFlow."""
  logits = jnp.array([[1.0] * 4 + [2.0] * 4] * 2 + [[1.0] * 3 + [2.0] * 5])
  got = score(logits, jnp.array([0, 4, 0]), jnp.ones(3))
  # Four classes above: fifth, with three others. None above: first, with three
  # others. Five above: not among the first five.
  assert got['top5'] == 2 and got['top1'] == 1


def test_constant_logits_are_no_skill():
  """A dead network answers one class always: right one time in ten."""
  got = score(jnp.zeros((10, 10)), jnp.arange(10), jnp.ones(10))
  assert got['top1'] == 1


def test_score_of_few_classes():
  """Of five classes or fewer every label is among the first five."""
  logits = jnp.array([[3.0, 2.0, 1.0]])
  got = score(logits, jnp.array([2]), jnp.ones(1))
  assert (got['top1'], got['top5']) == (0, 1)


def test_a_network_that_diverged_scores_nothing():
  """NaN compares with nothing; that must not make it the best of all."""
  logits = jnp.full((3, 10), jnp.nan)
  got = score(logits, jnp.array([0, 1, 2]), jnp.ones(3))
  assert got['top1'] == 0 and got['top5'] == 0 and got['count'] == 3
  one = jnp.zeros((1, 10)).at[0, 3].set(jnp.nan)
  assert score(one, jnp.array([3]), jnp.ones(1))['top5'] == 0


def test_eval_step_sums_over_devices():
  """Each example counts once, wherever it lies, and padding never."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(16, 10)).astype(np.float32)
  labels = rng.integers(10, size=16)
  mask = (np.arange(16) < 13).astype(np.float32)
  step = mapped_eval(make_eval_step(lambda scale, x: scale * x))
  batch = {'image': logits, 'label': labels, 'mask': mask}
  got = step(
    replicate(jnp.float32(2.0)),
    {k: v.reshape(4, 4, *v.shape[1:]) for k, v in batch.items()},
  )
  wanted = score(jnp.array(2 * logits), jnp.array(labels), jnp.array(mask))
  for key, value in wanted.items():
    # Sums of 13 float32 numbers in another order.
    np.testing.assert_allclose(got[key], value, rtol=1e-5)
  assert got['count'] == 13
