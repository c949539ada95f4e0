"""Scores of sub-networks under forced gates: no retraining, one compilation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spnas_jax import input_pipeline
from spnas_jax.batch_norm import estimate_batch_stats
from spnas_jax.loop import take
from spnas_jax.parallel import AXIS, pmap_eval, replicate
from spnas_jax.run_setup import device_batches
from spnas_jax.steps import make_eval_step
from spnas_jax.supernet import SuperNet


class Subnets:
  """One supernet's weights and the images that sub-networks are scored on.

  Images held out of training where `dataset.holdout` is above 0, otherwise
  training images without augmentation; never test images, since choices are
  made by these scores. Batch-norm statistics are re-estimated for each network
  (the running ones belong to no network: accuracy is off by up to 15 points).

  Attributes:
    split: where the images come from.
    num_images: how many a score is of.
  """

  def __init__(
    self,
    config: ConfigDict,
    supernet: SuperNet,
    variables: dict[str, Any],
    num_images: int,
  ):
    recipe = config.search
    self._supernet = supernet
    self._variables = replicate(variables)
    self.split = 'validation' if config.dataset.holdout else 'train'
    count = -(-num_images // recipe.batch_size)
    self._scored = list(
      take(
        input_pipeline.prefetch_to_devices(
          input_pipeline.eval_batches(
            config.dataset,
            batch_size=recipe.batch_size,
            split=self.split,
            dtype=recipe.dtype,
          ),
          axis_name=AXIS,
        ),
        count,
      )
    )
    self.num_images = count * recipe.batch_size
    self._training = list(
      take(
        device_batches(config, recipe, config.seed, 0),
        max(1, recipe.batch_norm_batches // 4),
      )
    )
    self._step = pmap_eval(
      make_eval_step(lambda v, x: supernet.apply(v[0], x, v[1], train=False))
    )

  def score(self, gates: np.ndarray) -> dict[str, float]:
    """{'top1' (fraction), 'cross_entropy' (nats)} of a decision [num_gates]."""
    forced = jnp.asarray(gates, jnp.float32)
    stats = estimate_batch_stats(
      self._supernet, self._variables, self._training, forced
    )
    variables = {'params': self._variables['params'], 'batch_stats': stats}
    state = replicate((variables, forced))
    sums = [self._step(state, batch) for batch in self._scored]
    total = {
      key: float(sum(s[key] for s in jax.device_get(sums))) for key in sums[0]
    }
    return {
      'top1': total['top1'] / total['count'],
      'cross_entropy': total['cross_entropy'] / total['count'],
    }
