"""Scoring: every example of a split exactly once, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from spnas_jax.config.spaces import dataset_facts
from spnas_jax.config.workdir import Workdir, stage_inputs
from spnas_jax.core.parallel import replicate
from spnas_jax.models.convnet import ConvNet
from spnas_jax.stages.frame import Task, stage
from spnas_jax.training.history import npz
from spnas_jax.training.outcome import write_outcome
from spnas_jax.training.run_setup import check_split
from spnas_jax.training.scoring import (
  Details,
  convnet_detailed_step,
  score_in_detail,
  spell_scores,
)
from spnas_jax.training.steps import MATRIX_CLASSES
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
    lines = [
      f'{scores} over {result["num_examples"]} {result["split"]} images',
      _spell_classes(result),
    ]
    if 'confusion_matrix' not in result:
      lines.append(
        f'no confusion matrix: {len(result["per_class"])} classes are more '
        f'than {MATRIX_CLASSES}'
      )
    return lines

  return Task(inputs, lambda: _score(config, workdir), spell, claim={})


run = stage('evaluate', prepare, check)


def _spell_classes(result: dict[str, Any]) -> str:
  known = [row for row in result['per_class'] if row['recall'] is not None]
  least = min(known, key=lambda row: row['recall'])
  return (
    f'mean over the classes {100 * result["macro_accuracy"]:.2f}%, lowest '
    f'{100 * least["recall"]:.2f}% of {least["images"]} images of '
    f'{least["class"]!r}'
  )


def _score(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
  """Scores; leaves the images of the worst mistakes for the report."""
  arch, variables = load_trained(config, workdir)
  split = config.evaluate.split
  details = score_in_detail(
    convnet_detailed_step(ConvNet(arch)), replicate(variables), config, split
  )
  names = dataset_facts(config).label_names or tuple(
    str(i) for i in range(len(details.images))
  )
  result = describe(details, names)
  arrays = {'images': details.pixels, 'index': details.worst['index']}
  workdir.write('evaluate/worst_mistakes.npz', npz(arrays))
  steps = workdir.results()['train']['steps']
  top = {key: result[key] for key in ('top1', 'top5')}
  write_outcome('train', workdir, steps, top)
  return {**result, 'split': split}


def describe(details: Details, names: Sequence[str]) -> dict[str, Any]:
  """What results.json says of an evaluation.

  Args:
    details: of a split.
    names: one for each class.

  Returns:
    The scores; 'macro_accuracy', the mean recall of the classes that have
    images, a fraction; 'per_class': rows of {'class', 'images', 'recall'
    (fraction; None without images)}; 'worst_mistakes': rows of {'index'
    (position in the split, counted over the images that can be read), 'true',
    'predicted' (classes), 'confidence' (fraction)}, the most confident first;
    'confusion_matrix': images by true class (row) and answer, left out for
    more than `steps.MATRIX_CLASSES` classes.
  """
  recall = details.recall
  result: dict[str, Any] = {
    **details.scores,
    'macro_accuracy': float(np.nanmean(recall)),
    'per_class': [
      {
        'class': name,
        'images': int(images),
        'recall': float(share) if images else None,
      }
      for name, images, share in zip(names, details.images, recall, strict=True)
    ],
    'worst_mistakes': [
      {
        'index': int(index),
        'true': names[true],
        'predicted': names[predicted],
        'confidence': float(confidence),
      }
      for index, true, predicted, confidence in zip(
        *(
          details.worst[key]
          for key in ('index', 'true', 'predicted', 'confidence')
        ),
        strict=True,
      )
    ],
  }
  if details.confusion is not None:
    result['confusion_matrix'] = details.confusion.tolist()
  return result
