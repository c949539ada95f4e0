"""Scoring: every example of a split exactly once."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from spnas_jax.config.defaults import dataset_facts
from spnas_jax.config.workdir import Workdir, stage_inputs
from spnas_jax.core.parallel import replicate
from spnas_jax.models.convnet import ConvNet
from spnas_jax.stages.frame import Task, stage
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


def prepare(config: ConfigDict, workdir: Workdir) -> Task:
  """The trained network's averaged weights on a split.

  Raises:
    UserError: nothing was trained in the workdir.
  """
  inputs = stage_inputs(
    config, 'dataset', 'evaluate', trained=trained_hash(workdir)
  )

  def spell(result: dict[str, Any]) -> list[str]:
    scores = spell_scores(result, dataset_facts(config).num_classes)
    return [f'{scores} over {result["num_examples"]} {result["split"]} images']

  return Task(inputs, lambda: _score(config, workdir), spell, claim={})


run = stage('evaluate', prepare, check)


def _score(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
  arch, variables = load_trained(config, workdir)
  scores = score_split(
    convnet_eval_step(ConvNet(arch)),
    replicate(variables),
    config,
    config.evaluate.split,
  )
  return {**scores, 'split': config.evaluate.split}
