"""What an evaluation says of classes and mistakes, on real digits."""

import json

import numpy as np
import pytest
import tiny_run

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.parallel import replicate
from spnas_jax.data.input_pipeline import test_images as first_test_images
from spnas_jax.models.convnet import ConvNet
from spnas_jax.stages import evaluate
from spnas_jax.training.history import read_npz
from spnas_jax.training.scoring import (
  Details,
  convnet_eval_step,
  score_split,
)
from spnas_jax.training.trained import load_trained


@pytest.fixture(scope='module')
def finished():
  return tiny_run.finished()


@pytest.fixture(scope='module')
def scores(finished):
  return tiny_run.results(finished)['evaluate']


def test_top1_is_the_plain_scorers_to_the_bit(finished, scores):
  config = tiny_run.config()
  arch, variables = load_trained(config, Workdir(finished))
  plain = score_split(
    convnet_eval_step(ConvNet(arch)), replicate(variables), config, 'test'
  )
  for key in ('top1', 'top5', 'num_examples'):
    assert scores[key] == plain[key], key
  assert scores['cross_entropy'] == pytest.approx(plain['cross_entropy'])


def test_classes_and_matrix_say_the_same(scores):
  confusion = np.array(scores['confusion_matrix'])
  assert confusion.shape == (10, 10)
  assert confusion.sum() == scores['num_examples'] == 50
  assert np.trace(confusion) / 50 == scores['top1']
  _, labels = first_test_images(tiny_run.config().dataset, 50)
  images = np.bincount(labels, minlength=10)
  np.testing.assert_array_equal(confusion.sum(1), images)
  rows = scores['per_class']
  assert [row['class'] for row in rows] == [str(i) for i in range(10)]
  assert [row['images'] for row in rows] == images.tolist()
  recalls = []
  for right, row in zip(np.diag(confusion), rows, strict=True):
    if row['images']:
      assert row['recall'] == right / row['images']
      recalls.append(row['recall'])
    else:
      assert row['recall'] is None
  assert scores['macro_accuracy'] == pytest.approx(np.mean(recalls))


def test_the_worst_mistakes_and_their_images(finished, scores):
  rows = scores['worst_mistakes']
  wrong = round(50 * (1 - scores['top1']))
  assert len(rows) == min(12, wrong) > 0
  confidence = [row['confidence'] for row in rows]
  assert confidence == sorted(confidence, reverse=True)
  assert all(0.1 <= c <= 1 for c in confidence)
  arrays = read_npz(Workdir(finished) / 'evaluate' / 'worst_mistakes.npz')
  images, labels = first_test_images(tiny_run.config().dataset, 50)
  index = [row['index'] for row in rows]
  np.testing.assert_array_equal(arrays['index'], index)
  assert arrays['images'].dtype == np.uint8
  np.testing.assert_array_equal(arrays['images'], images[index])
  for row in rows:
    assert row['true'] == str(labels[row['index']]) != row['predicted']


def details(images, right, **changes):
  images, right = np.array(images), np.array(right)
  fields = {
    'scores': {'top1': float(right.sum() / images.sum())},
    'confusion': None,
    'worst': {
      key: np.zeros(0, int)
      for key in ('index', 'true', 'predicted', 'confidence')
    },
    'pixels': np.zeros((0, 4, 4, 1), np.uint8),
  }
  return Details(images=images, right=right, **{**fields, **changes})


def test_a_class_without_images_does_not_count():
  result = evaluate.describe(details([2, 0, 8], [1, 0, 8]), 'abc')
  assert result['macro_accuracy'] == 0.75 and result['top1'] == 0.9
  assert result['per_class'][1] == {'class': 'b', 'images': 0, 'recall': None}
  assert result['worst_mistakes'] == [] and 'confusion_matrix' not in result
  json.dumps(result, allow_nan=False)


def test_what_is_printed(finished):
  """The weakest class by name, and why there is no matrix."""
  workdir = Workdir(finished)
  task = evaluate.prepare(tiny_run.config(), workdir)
  result = evaluate.describe(
    details(
      [2, 0, 8], [1, 0, 8], scores={'top1': 0.9, 'top5': 1, 'num_examples': 10}
    ),
    'abc',
  )
  lines = task.lines({**result, 'split': 'test'})
  assert lines[1] == (
    "mean over the classes 75.00%, lowest 50.00% of 2 images of 'a'"
  )
  assert lines[2] == 'no confusion matrix: 3 classes are more than 200'
