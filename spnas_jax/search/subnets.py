"""Sub-networks under forced gates: statistics and scores, no retraining.

Their batch-norm statistics are re-estimated for each (`batch_norm.py`): the
running ones were collected under ever-changing gates and belong to no network.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from spnas_jax.config.spaces import dataset_facts
from spnas_jax.core.parallel import AXIS, mapped_eval, replicate
from spnas_jax.data import input_pipeline
from spnas_jax.models.supernet import SuperNet
from spnas_jax.training.batch_norm import estimate_batch_stats
from spnas_jax.training.loop import take
from spnas_jax.training.run_setup import device_batches
from spnas_jax.training.scoring import score_split
from spnas_jax.training.steps import make_eval_step, make_image_step


def forced_statistics(
  config: ConfigDict,
  recipe: ConfigDict,
  supernet: SuperNet,
  params: Any,
  gates: np.ndarray,
) -> Any:
  """`batch_stats` of a supernet under a decision.

  Args:
    config: `dataset` and `seed` are read.
    recipe: section `search` or `train`, by which the supernet was trained.
    supernet: the network.
    params: its weights.
    gates: [num_gates], 0 or 1.
  """
  batches = take(
    device_batches(config, recipe, config.seed, 0), recipe.batch_norm_batches
  )
  return estimate_batch_stats(supernet, params, batches, jnp.asarray(gates))


def forced_scores(
  config: ConfigDict,
  recipe: ConfigDict,
  supernet: SuperNet,
  params: Any,
  gates: np.ndarray,
) -> dict[str, float]:
  """Scores of a decision on `evaluate.split`, see `evaluate.score_split`."""
  stats = forced_statistics(config, recipe, supernet, params, gates)
  step = mapped_eval(
    make_eval_step(lambda v, x: supernet.apply(v[0], x, v[1], train=False))
  )
  variables = {'params': params, 'batch_stats': stats}
  return score_split(
    step,
    replicate((variables, jnp.asarray(gates))),
    config,
    config.evaluate.split,
    recipe.dtype,
  )


class Subnets:
  """One supernet's weights and the images that sub-networks are scored on.

  Validation images where the data set has some, otherwise
  training images without augmentation; never test images, since choices are
  made by these scores.

  Attributes:
    split: where the images come from.
    num_images: number of images in a score.
  """

  def __init__(
    self,
    config: ConfigDict,
    supernet: SuperNet,
    params: Any,
    num_images: int,
  ):
    recipe = config.search
    self._supernet = supernet
    self._params = replicate(params)
    held_out = dataset_facts(config).num_validation
    self.split = 'validation' if held_out else 'train'
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
    images = mapped_eval(lambda _, batch: lax.psum(batch['mask'].sum(), AXIS))
    self.num_images = round(sum(float(images((), b)) for b in self._scored))
    self._training = list(
      take(
        device_batches(config, recipe, config.seed, 0),
        max(1, recipe.batch_norm_batches // 4),
      )
    )
    self._step = mapped_eval(
      make_image_step(lambda v, x: supernet.apply(v[0], x, v[1], train=False))
    )

  def score(self, gates: np.ndarray) -> dict[str, float]:
    """{'top1' (fraction), 'cross_entropy' (nats)} of a decision [num_gates]."""
    return {key: float(v.mean()) for key, v in self.per_image(gates).items()}

  def per_image(self, gates: np.ndarray) -> dict[str, np.ndarray]:
    """Of every image under a decision [num_gates], float64 [num_images].

    Returns:
      {'top1' (1 = right, 0), 'cross_entropy' (nats)}, the same images in the
      same order for every decision.
    """
    forced = jnp.asarray(gates, jnp.float32)
    stats = estimate_batch_stats(
      self._supernet, self._params, self._training, forced
    )
    variables = {'params': self._params, 'batch_stats': stats}
    state = replicate((variables, forced))
    # All batches are under way before the first is waited for.
    rows = jax.device_get([self._step(state, batch) for batch in self._scored])
    shown = np.concatenate([row.pop('mask') for row in rows]) > 0
    return {
      key: np.concatenate([row[key] for row in rows])[shown].astype(np.float64)
      for key in rows[0]
    }
