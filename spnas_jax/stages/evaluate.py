"""Scoring: every example of a split exactly once."""

from __future__ import annotations

import time
from typing import Any

from ml_collections import ConfigDict

from spnas_jax.config.workdir import Workdir, stage_inputs
from spnas_jax.core.console import say
from spnas_jax.core.parallel import replicate
from spnas_jax.models.convnet import ConvNet
from spnas_jax.training.run_setup import check_split
from spnas_jax.training.scoring import (
  convnet_eval_step,
  score_split,
  spell_scores,
)
from spnas_jax.training.trained import load_trained, trained_hash


def check(config: ConfigDict, workdir: Workdir) -> None:
  """Refuses a split without images before anything is trained for it."""
  del workdir
  check_split(config)


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
  """Stage `evaluate`: the trained network's averaged weights on a split.

  Raises:
    UserError: nothing was trained in the workdir.
  """
  check(config, workdir)
  inputs = stage_inputs(
    config, 'dataset', 'evaluate', trained=trained_hash(workdir)
  )
  done = workdir.finished('evaluate', inputs)
  if done is not None:
    return done
  start = time.monotonic()
  arch, variables = load_trained(config, workdir)
  scores = score_split(
    convnet_eval_step(ConvNet(arch)),
    replicate(variables),
    config,
    config.evaluate.split,
  )
  say(
    f'evaluate: {spell_scores(scores, arch.num_classes)} over '
    f'{scores["num_examples"]} {config.evaluate.split} images'
  )
  return workdir.finish(
    'evaluate',
    inputs,
    {**scores, 'split': config.evaluate.split},
    time.monotonic() - start,
  )
