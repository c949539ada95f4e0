"""Scores of a network that nobody has trained.

`synflow` (Tanaka et al. 2020): sum of |weight x gradient| where every weight is
replaced by its size, batch norm does nothing, the image is all ones and the
loss is the sum of the outputs. `jacob_cov` (Mellor et al. 2020): how unlike the
gradients of the outputs by the image are for the images of one batch.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from spnas_jax.data import input_pipeline
from spnas_jax.models.convnet import ConvNet
from spnas_jax.networks.architecture import Architecture
from spnas_jax.training.run_setup import init_variables


def synflow(model: ConvNet, variables: dict[str, Any], image: Array) -> float:
  """ln of the score; `image` [1, H, W, C] gives the shape only."""
  params = jax.tree.map(jnp.abs, variables['params'])

  def flow(params):
    rest = {**variables, 'params': params}
    return model.apply(rest, jnp.ones_like(image), train=False).sum()

  slopes = jax.grad(flow)(params)
  parts = jax.tree.map(lambda w, g: jnp.sum(jnp.abs(w * g)), params, slopes)
  return float(np.log(sum(map(float, jax.tree.leaves(parts)))))


def jacob_cov(
  model: ConvNet, variables: dict[str, Any], images: Array
) -> float:
  """Score of a batch of normalised images [N, H, W, C]; higher is better."""

  def outputs(images):
    logits, _ = model.apply(
      variables, images, train=True, mutable=['batch_stats']
    )
    return logits.sum()

  slopes = np.asarray(jax.grad(outputs)(images), np.float64)
  correlation = np.corrcoef(slopes.reshape(len(images), -1))
  values = np.linalg.eigvalsh(correlation)
  k = 1e-5
  return float(-np.sum(np.log(values + k) + 1 / (values + k)))


def score(config: ConfigDict, arch: Architecture) -> dict[str, float]:
  """Both scores of a network as initialised under seed 0."""
  model = ConvNet(arch)
  variables = init_variables(
    model, config.dataset.image_size, arch.input_channels, 0
  )
  batch = next(
    iter(
      input_pipeline.eval_batches(
        config.dataset, batch_size=64, split='train', dtype='float32'
      )
    )
  )
  images = jnp.asarray(batch['image']).reshape(-1, *batch['image'].shape[-3:])
  return {
    'synflow': synflow(model, variables, images[:1]),
    'jacob_cov': jacob_cov(model, variables, images),
  }
