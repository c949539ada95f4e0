"""What the evaluation says of classes and mistakes, as rows and sentences.

Evaluations of older versions have none of it: everything is empty then.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spnas_jax.report.findings import Findings
from spnas_jax.report.mistake_figures import Mistake
from spnas_jax.report.numbers import count, fraction
from spnas_jax.report.page import Table

# Classes up to which the matrix is drawn, pairs and classes that are listed
# where there are more.
DRAWN = 30
_PAIRS = 20
_LISTED = 30
# Largest class over the smallest, from which top-1 is mostly the large ones'.
_UNBALANCED = 1.5


def classes(found: Findings) -> list[dict[str, Any]]:
  """Rows of {'class', 'images', 'recall'}, in the order of the classes."""
  return found.stage('evaluate').get('per_class', [])


def unbalanced(found: Findings) -> bool:
  """Whether some class has far more images than another one."""
  images = [row['images'] for row in classes(found) if row['images']]
  return bool(images) and max(images) > _UNBALANCED * min(images)


def matrix(found: Findings) -> np.ndarray | None:
  """int64 [classes, classes], images by true class (row) and answer."""
  rows = found.stage('evaluate').get('confusion_matrix')
  return None if rows is None else np.array(rows, np.int64)


def names(found: Findings) -> list[str]:
  """Of the classes."""
  return [row['class'] for row in classes(found)]


def worst(found: Findings) -> list[Mistake]:
  """The most confident mistakes; none where their images are not there."""
  if found.mistake_images is None:
    return []
  return [
    Mistake(image, row['true'], row['predicted'], row['confidence'])
    for image, row in zip(
      found.mistake_images,
      found.stage('evaluate')['worst_mistakes'],
      strict=True,
    )
  ]


def _pairs(found: Findings) -> list[tuple[int, int, int]]:
  """(images, true class, answer) of what is confused, most frequent first."""
  counts = matrix(found)
  if counts is None:
    return []
  wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
  pairs = [(int(wrong[i, j]), int(i), int(j)) for i, j in np.argwhere(wrong)]
  return sorted(pairs, key=lambda pair: -pair[0])


def sentences(found: Findings) -> str:
  """The weakest class and the most frequent mistake, in words."""
  rows = [row for row in classes(found) if row['recall'] is not None]
  if not rows:
    return ''
  least = min(rows, key=lambda row: row['recall'])
  if least['recall'] == 1:
    return 'It recognises every image.'
  text = (
    f'Least often recognised: {least["class"]}, {fraction(least["recall"])} of '
    f'{count(least["images"])} images.'
  )
  pairs, known = _pairs(found), classes(found)
  if pairs:
    images, true, answer = pairs[0]
    text += (
      f' Most frequent mistake: {known[true]["class"]} taken for '
      f'{known[answer]["class"]}, {count(images)} of '
      f'{count(known[true]["images"])} images.'
    )
  elif matrix(found) is None:
    text += (
      f' Of {count(len(known))} classes, which are taken for which was not '
      'counted: there are too many pairs.'
    )
  return text


def tables(found: Findings) -> list[Table]:
  """The classes, and without a picture of the matrix the worst pairs."""
  rows = classes(found)
  result = []
  pairs = _pairs(found)[:_PAIRS] if len(rows) > DRAWN else []
  if pairs:
    header = 'true class', 'taken for', 'images', 'share of the class'
    lines = [
      (
        rows[i]['class'],
        rows[j]['class'],
        count(images),
        fraction(images / rows[i]['images']),
      )
      for images, i, j in pairs
    ]
    result.append(Table(header, lines, caption='Most confused classes'))
  if rows:
    ordered = sorted(rows, key=_recall)[:_LISTED]
    of = f'The {_LISTED} of {count(len(rows))} classes that are'
    result.append(
      Table(
        ('class', 'images', 'recall'),
        [
          (
            row['class'],
            count(row['images']),
            '–' if row['recall'] is None else fraction(row['recall']),
          )
          for row in ordered
        ],
        caption=(of if len(rows) > _LISTED else 'Classes,')
        + ' least often recognised'
        + ('' if len(rows) > _LISTED else ' first'),
      )
    )
  return result


def _recall(row: dict[str, Any]) -> float:
  """Of a class; those without images come last."""
  return 2.0 if row['recall'] is None else row['recall']
