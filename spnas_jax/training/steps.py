"""What training and evaluation steps share: one device's view of a batch."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from spnas_jax.core.parallel import AXIS, average
from spnas_jax.training.mixup import mixup
from spnas_jax.training.objective import cross_entropy, objective
from spnas_jax.training.optimizer import decayed, moving_average
from spnas_jax.training.schedules import ema_decay
from spnas_jax.training.train_state import TrainState

# How many mistakes of an evaluation are kept, and up to how many classes every
# pair of them is counted.
WORST = 12
MATRIX_CLASSES = 200


def dropout_mask(
  key: Array, rate: float, local_batch: int, features: int
) -> Array | None:
  """Inverted-dropout mask [local_batch, features] of this device's examples.

  Drawn for the global batch and sliced, so an example meets the same mask on
  however many devices share the batch.
  """
  if not rate:
    return None
  devices = lax.psum(1, AXIS)
  shape = (local_batch * devices, features)
  keep = jax.random.bernoulli(key, 1 - rate, shape).astype(jnp.float32)
  start = lax.axis_index(AXIS) * local_batch
  return lax.dynamic_slice_in_dim(keep, start, local_batch) / (1 - rate)


def apply_gradients(
  state: TrainState,
  optimizer: optax.GradientTransformation,
  gradients: Any,
  batch_stats: Any,
  average_limit: float,
) -> TrainState:
  """Averages over devices, takes the optimizer step, moves the averages.

  Gradients and batch statistics are averaged here, once; the statistics are
  already equal where batch norm is synchronised.
  """
  gradients, batch_stats = average((gradients, batch_stats))
  updates, opt_state = optimizer.update(
    gradients, state.opt_state, state.params
  )
  params = optax.apply_updates(state.params, updates)
  decay = ema_decay(average_limit, state.step)
  return state.replace(
    step=state.step + 1,
    params=params,
    batch_stats=batch_stats,
    ema_params=moving_average(state.ema_params, params, decay),
    ema_batch_stats=moving_average(state.ema_batch_stats, batch_stats, decay),
    opt_state=opt_state,
  )


def accuracy(logits: Array, labels: Array) -> Array:
  """Share of correct top-1 predictions, []."""
  return (logits.argmax(-1) == labels).astype(jnp.float32).mean()


def make_train_step(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  learning_rate: optax.Schedule,
  recipe: Any,
  seed: int,
  class_weights: np.ndarray | None = None,
):
  """Step of an ordinary training.

  Args:
    model: a `ConvNet`.
    optimizer: of all parameters.
    learning_rate: only for the log.
    recipe: config section `train`.
    seed: of dropout.
    class_weights: float32 [classes], see `objective.class_weights`; None = all
      examples count the same.

  Returns:
    step(state, {'image' [b, H, W, C], 'label' [b]}) -> (state, metrics) for
    one device under the axis `parallel.AXIS`.
  """
  features = model.arch.feature_channels

  def train_step(state: TrainState, batch: dict[str, Array]):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    mask = dropout_mask(key, recipe.dropout, batch['label'].shape[0], features)
    images, weight = batch['image'], jnp.float32(1)
    if recipe.mixup:
      images, weight = mixup(jax.random.fold_in(key, 2), images, recipe.mixup)

    def smoothed(logits, labels):
      return cross_entropy(
        logits, labels, recipe.label_smoothing, class_weights
      )

    def loss(params):
      logits, updated = model.apply(
        {'params': params, 'batch_stats': state.batch_stats},
        images,
        train=True,
        dropout_mask=mask,
        mutable=['batch_stats'],
      )
      ce = smoothed(logits, batch['label'])
      if recipe.mixup:
        other = smoothed(logits, batch['label'][::-1])
        ce = weight * ce + (1 - weight) * other
      terms = objective(
        ce, jnp.float32(1), 0.0, decayed(params, False), recipe.weight_decay
      )
      return terms.total, (terms, logits, updated['batch_stats'])

    (_, (terms, logits, stats)), gradients = jax.value_and_grad(
      loss, has_aux=True
    )(state.params)
    metrics = lax.pmean(
      {
        'cross_entropy': terms.cross_entropy,
        'loss': terms.total,
        'accuracy': accuracy(logits, batch['label']),
      },
      AXIS,
    )
    metrics['learning_rate'] = learning_rate(state.step)
    state = apply_gradients(
      state, optimizer, gradients, stats, recipe.ema_decay
    )
    return state, metrics

  return train_step


def score(logits: Array, labels: Array, mask: Array) -> dict[str, Array]:
  """Sums over the examples whose mask is 1: count, top1, top5, cross_entropy.

  Top-1 is the class that a user of argmax gets, so constant logits are right by
  luck only. An example counts for top-5 if fewer than five classes score higher
  than its own (all of them where there are no more than five classes).
  """
  rank = _rank(logits, labels)
  return {
    'count': mask.sum(),
    'top1': (_right(logits, labels, rank) * mask).sum(),
    'top5': ((rank < 5) * mask).sum(),
    'cross_entropy': (_losses(logits, labels) * mask).sum(),
  }


def _losses(logits: Array, labels: Array) -> Array:
  """Cross-entropy of each example, float32 [b], nats."""
  log_probability = jax.nn.log_softmax(logits.astype(jnp.float32))
  return -jnp.take_along_axis(log_probability, labels[:, None], 1)[:, 0]


def _right(logits: Array, labels: Array, rank: Array) -> Array:
  """Whether argmax is the true class, bool [b]."""
  return (rank < 1) & (logits.argmax(-1) == labels)


def _rank(logits: Array, labels: Array) -> Array:
  """How many classes score higher than the true one, int32 [b]."""
  own = jnp.take_along_axis(logits, labels[:, None], 1)
  # Written so that NaN, which compares with nothing, ranks last, not first.
  return (~(logits <= own)).sum(-1)


def make_eval_step(apply):
  """Step of an evaluation.

  Args:
    apply: (variables, images) -> logits.

  Returns:
    step(variables, {'image', 'label', 'mask'}) -> sums over all devices, see
    `score`.
  """

  def eval_step(variables, batch):
    logits = apply(variables, batch['image'])
    return lax.psum(score(logits, batch['label'], batch['mask']), AXIS)

  return eval_step


def make_image_step(apply):
  """Step of an evaluation that keeps images apart.

  Args:
    apply: (variables, images) -> logits.

  Returns:
    step(variables, {'image', 'label', 'mask'}) -> {'top1' (1 = right, 0),
    'cross_entropy' (nats), 'mask'}, float32 [B] over all devices, in the order
    of the batch.
  """

  def image_step(variables, batch):
    logits, labels = apply(variables, batch['image']), batch['label']
    right = _right(logits, labels, _rank(logits, labels))
    rows = {
      'top1': right.astype(jnp.float32),
      'cross_entropy': _losses(logits, labels),
      'mask': batch['mask'].astype(jnp.float32),
    }
    return lax.all_gather(rows, AXIS, tiled=True)

  return image_step


def make_detailed_eval_step(apply, processes: int):
  """Step of an evaluation that also says where the network errs.

  Args:
    apply: (variables, images) -> logits.
    processes: how many share a batch.

  Returns:
    step(variables, {'image' [b, H, W, C], 'label' [b], 'mask' [b], 'process'
    int32 [b], 'ordinal' int32 [b]}) -> (sums, worst), equal on all devices.
    `sums` has the sums of `score`, and float32 counts: 'examples' [processes],
    'images' and 'right' [classes], and for up to `MATRIX_CLASSES` classes
    'confusion' [classes, classes], whose rows are the true ones. `worst` has
    the up to `WORST` most confident wrong answers of the batch, see
    `_most_confident`.
  """

  def eval_step(variables, batch):
    logits = apply(variables, batch['image'])
    labels, mask = batch['label'], batch['mask']
    classes, answers = logits.shape[-1], logits.argmax(-1)
    right = _right(logits, labels, _rank(logits, labels)) * mask
    true = jax.nn.one_hot(labels, classes)
    images, correct = jnp.stack([mask, right]) @ true
    sums = {
      **score(logits, labels, mask),
      'examples': mask.sum() * jax.nn.one_hot(batch['process'][0], processes),
      'images': images,
      'right': correct,
    }
    if classes <= MATRIX_CLASSES:
      # argmax may name the true class where its score is not a number. That is
      # no answer: it is neither right nor taken for another class.
      answered = jnp.where(answers == labels, right, mask)
      counted = true * answered[:, None]
      sums['confusion'] = counted.T @ jax.nn.one_hot(answers, classes)
    confidence = jax.nn.softmax(logits.astype(jnp.float32)).max(-1)
    wrong = (mask > right) & (confidence >= 0)  # NaN is not confident.
    rows = {
      'confidence': jnp.where(wrong, confidence, -1),
      'true': labels,
      'predicted': answers,
      'process': batch['process'],
      'ordinal': batch['ordinal'],
    }
    return lax.psum(sums, AXIS), _most_confident(rows, batch['image'])

  return eval_step


def _most_confident(rows: dict[str, Array], images: Array) -> dict[str, Array]:
  """The rows of all devices with the highest 'confidence', and their images.

  Args:
    rows: each [b], of this device; a confidence of -1 is none.
    images: [b, H, W, C].

  Returns:
    Each [n], the most confident first, n <= `WORST`, and 'image' [n, H, W, C].
  """
  count = min(WORST, len(images))
  _, own = lax.top_k(rows['confidence'], count)
  everyone = jax.tree.map(
    lambda x: lax.all_gather(x[own], AXIS).reshape(-1), rows
  )
  _, best = lax.top_k(
    everyone['confidence'], min(WORST, len(everyone['confidence']))
  )
  # Only the chosen images travel: every device gives those that it has.
  device, place = jnp.divmod(best, count)
  here = (device == lax.axis_index(AXIS))[:, None, None, None]
  image = lax.psum(jnp.where(here, images[own[place]], 0), AXIS)
  return {**{key: x[best] for key, x in everyone.items()}, 'image': image}
