"""Where a network errs: every example once, on however many devices."""

import json
import socket
import sys

import fake_photos
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from ml_collections import ConfigDict

from spnas_jax.core.parallel import mapped_eval, replicate
from spnas_jax.data import cached_batches, datasets, input_pipeline, unreadable
from spnas_jax.data.input_pipeline import test_images as first_test_images
from spnas_jax.training.scoring import (
  numbered,
  position,
  score_in_detail,
  score_split,
)
from spnas_jax.training.steps import (
  MATRIX_CLASSES,
  WORST,
  make_detailed_eval_step,
  make_eval_step,
)


def counted(logits, labels, mask):
  """(sums, worst) of [b, classes] on four devices; images are their rows."""
  step = mapped_eval(make_detailed_eval_step(lambda _, x: x[:, 0, 0], 1))
  batch = {
    'image': logits[:, None, None],
    'label': labels.astype(np.int32),
    'mask': mask.astype(np.float32),
    'process': np.zeros(len(labels), np.int32),
    'ordinal': np.arange(len(labels), dtype=np.int32),
  }
  shared = {k: v.reshape(4, -1, *v.shape[1:]) for k, v in batch.items()}
  return jax.device_get(step(replicate(jnp.float32(0)), shared))


def examples(count, classes, seed=0):
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(count, classes)).astype(np.float32)
  return logits, rng.integers(classes, size=count), np.arange(count) < count - 3


def test_counts_are_those_of_a_loop():
  logits, labels, mask = examples(40, 5)
  sums, worst = counted(logits, labels, mask)
  confusion = np.zeros((5, 5))
  mistakes = []
  for i in np.flatnonzero(mask):
    answer = logits[i].argmax()
    confusion[labels[i], answer] += 1
    if answer != labels[i]:
      odds = np.exp(logits[i] - logits[i].max())
      mistakes.append((1 / odds.sum(), i))
  np.testing.assert_array_equal(sums['confusion'], confusion)
  np.testing.assert_array_equal(sums['images'], confusion.sum(1))
  np.testing.assert_array_equal(sums['right'], np.diag(confusion))
  assert np.trace(confusion) == sums['top1'] and sums['count'] == 37
  assert sums['examples'] == [37]
  mistakes = sorted(mistakes, reverse=True)[:WORST]
  assert [i for _, i in mistakes] == worst['ordinal'].tolist()
  np.testing.assert_allclose(
    worst['confidence'], [c for c, _ in mistakes], rtol=1e-5
  )
  chosen = worst['ordinal']
  np.testing.assert_array_equal(worst['true'], labels[chosen])
  np.testing.assert_array_equal(worst['predicted'], logits[chosen].argmax(1))
  # Each with its own image, from whichever device.
  np.testing.assert_array_equal(worst['image'][:, 0, 0], logits[chosen])


def test_only_mistakes_are_shown():
  logits, labels, mask = examples(8, 5)
  logits[np.arange(8), labels] = 9  # All right but the second.
  logits[1, (labels[1] + 1) % 5] = 19
  _, worst = counted(logits, labels, mask)
  assert len(worst['confidence']) == 8
  assert (worst['confidence'] >= 0).sum() == 1 and worst['ordinal'][0] == 1


def test_what_is_not_a_number_is_no_answer():
  """argmax of NaN is the first NaN, which may be the true class."""
  logits, labels, mask = examples(8, 5)
  logits[:] = np.nan
  labels[:] = [0, 1, 2, 3, 4, 0, 0, 0]
  sums, worst = counted(logits, labels, mask)
  assert sums['top1'] == np.trace(sums['confusion']) == 0
  np.testing.assert_array_equal(sums['images'], [1, 1, 1, 1, 1])
  assert (worst['confidence'] == -1).all()


@pytest.mark.parametrize('more', [0, 1])
def test_many_classes_have_no_matrix(more):
  classes = MATRIX_CLASSES + more
  sums, _ = counted(*examples(8, classes))
  assert ('confusion' in sums) == (not more)
  assert sums['images'].shape == sums['right'].shape == (classes,)
  assert sums['right'].sum() == sums['top1']


# --- whole splits -------------------------------------------------------------

NUM_TEST, BAD = 13, (2, 7)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Photos; two of the test images are cut off."""
  folder = tmp_path_factory.mktemp('sets')
  files = [
    fake_photos.encode(p) for p in fake_photos.coloured(2 + NUM_TEST, seed=1)
  ]
  train, test = files[:2], files[2:]
  for i in BAD:
    test[i] = test[i][: len(test[i]) // 2]
  fake_photos.write(folder, {'train': train, 'test': test}, name='holes')
  return folder


def photos(folder, cache) -> ConfigDict:
  cached_batches._read_split.cache_clear()
  unreadable._told.clear()
  dataset = datasets.default_config()
  dataset.update(name='holes', data_dir=str(folder), image_size=16)
  dataset.update(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), cache=cache)
  dataset.max_unreadable = 0.5
  config = ConfigDict({'dataset': dataset})
  config.evaluate = {'batch_size': 4}
  return config


@pytest.mark.parametrize('cache', [True, False])
def test_a_split_in_detail(cache, folder):
  """Unreadable images are left out, the others found at their positions."""
  config = photos(folder, cache)

  def apply(_, images):
    # Which class it names has nothing to do with the true one.
    return images.mean((1, 2))[:, :2] * jnp.array([1.0, -1.0])

  nothing = replicate(jnp.float32(0))
  detailed = mapped_eval(make_detailed_eval_step(apply, 1))
  details = score_in_detail(detailed, nothing, config, 'test')
  plain = score_split(
    mapped_eval(make_eval_step(apply)), nothing, config, 'test'
  )
  assert details.scores == {
    **plain,
    'cross_entropy': pytest.approx(plain['cross_entropy'], rel=1e-6),
  }
  images, labels = first_test_images(config.dataset, NUM_TEST)
  count = NUM_TEST - len(BAD)
  assert len(labels) == plain['num_examples'] == count
  assert np.trace(details.confusion) / count == plain['top1']
  np.testing.assert_array_equal(details.confusion.sum(1), np.bincount(labels))
  index = details.worst['index']
  assert len(index) == count - np.trace(details.confusion) > 0
  np.testing.assert_array_equal(details.pixels, images[index])
  np.testing.assert_array_equal(details.worst['true'], labels[index])
  assert (np.diff(details.worst['confidence']) <= 0).all()


@pytest.mark.parametrize('cache', [True, False])
@pytest.mark.parametrize('processes', [1, 2, 3])
def test_examples_of_several_processes_have_their_positions(
  cache, processes, folder
):
  """However a split is shared out; images are told apart by their pixels."""
  config = photos(folder, cache)
  images, _ = first_test_images(config.dataset, NUM_TEST)
  shares = []
  for process in range(processes):
    batches = input_pipeline.eval_batches(
      config.dataset,
      batch_size=6,
      dtype='uint8',
      process_index=process,
      process_count=processes,
    )
    shares.append([b for b in numbered(batches, process)])
  examples = np.array([sum(b['mask'].sum() for b in s) for s in shares])
  found = []
  for batch in (b for share in shares for b in share):
    kept = batch['mask'] > 0
    at = position(
      batch['process'][kept], batch['ordinal'][kept], examples, 6, cache
    )
    np.testing.assert_array_equal(batch['image'][kept], images[at])
    found += at.tolist()
  assert sorted(found) == list(range(len(images)))


# What each of two processes runs.
TOGETHER = """
import json, sys
sys.path.insert(0, 'tests/training')
from spnas_jax import startup
startup.prepare_jax()
import test_scoring
found = [test_scoring.summary(sys.argv[1], cache) for cache in (True, False)]
print(json.dumps(found))
"""


def summary(folder, cache):
  """Everything that `score_in_detail` finds, as JSON has it."""

  def apply(_, images):
    return images.mean((1, 2))[:, :2] * jnp.array([1.0, -1.0])

  step = make_detailed_eval_step(apply, jax.process_count())
  details = score_in_detail(
    mapped_eval(step), replicate(jnp.float32(0)), photos(folder, cache), 'test'
  )
  found = {
    **details.worst,
    'pixels': details.pixels,
    'confusion': details.confusion,
  }
  return details.scores, {key: x.tolist() for key, x in found.items()}


@pytest.mark.slow
def test_two_processes_find_the_same_mistakes(folder):
  """Cached images and records, unreadable ones among them."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  processes = [
    tiny_run.start(
      [sys.executable, '-c', TOGETHER, str(folder)],
      devices=2,
      JAX_COORDINATOR_ADDRESS=f'127.0.0.1:{port}',
      JAX_NUM_PROCESSES='2',
      JAX_PROCESS_ID=str(i),
      PYTHONPATH='tests',
    )
    for i in range(2)
  ]
  try:
    said = [p.communicate(timeout=tiny_run.PATIENCE) for p in processes]
  finally:
    for p in processes:
      p.kill()
  alone = [summary(folder, cache) for cache in (True, False)]
  for process, (out, err) in zip(processes, said, strict=True):
    assert process.returncode == 0, err[-2000:]
    ours = json.loads(out.splitlines()[-1])
    for (scores, found), (wanted, rows) in zip(ours, alone, strict=True):
      assert scores == pytest.approx(wanted, rel=1e-5)
      confidence = found.pop('confidence')
      assert confidence == pytest.approx(rows['confidence'], rel=1e-5)
      for key, value in found.items():
        assert value == rows[key], key
