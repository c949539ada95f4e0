"""Statistics that a network is scored and kept with: of its final weights."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from spnas_jax.config.workdir import Workdir
from spnas_jax.data.input_pipeline import train_batches
from spnas_jax.models.convnet import ConvNet
from spnas_jax.stages import evaluate, train
from spnas_jax.training import trained as trained_lib
from spnas_jax.training.schedules import ema_decay
from spnas_jax.training.trained import load_trained

NETWORK = (
  'stem_k3_s2_i1_c8 ir_r1_k3_s2_e3_c16 ir_r1_k3_s1_e3_c16 head_c64 fc_c10'
)


def difference(a, b) -> float:
  """Largest absolute difference of two trees."""
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return max(
    float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in pairs
  )


def slow_config(**more):
  """All digits at 12 px, and averages too slow for 220 steps."""
  return tiny_run.config(
    architecture=NETWORK,
    dataset__train_examples=0,
    dataset__test_examples=0,
    train__epochs=10.0,
    train__learning_rate=0.064,
    train__batch_size=64,
    space__batch_norm_momentum=0.99,
    **more,
  )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """(configuration, workdir) of such a training."""
  config = slow_config()
  workdir = Workdir(tmp_path_factory.mktemp('slow'))
  train.run(config, workdir)
  return config, workdir


def test_statistics_are_the_mean_over_training_batches(trained):
  """Recounted batch by batch on one device, with the weights that were kept."""
  config, workdir = trained
  recipe = config.train
  arch, variables = load_trained(config, workdir)
  model = ConvNet(arch, momentum=0.0)

  @jax.jit
  def of_batch(image):
    _, updated = model.apply(
      variables, image, train=True, mutable=['batch_stats']
    )
    return updated['batch_stats']

  batches = train_batches(
    config.dataset, batch_size=recipe.batch_size, seed=config.seed
  )
  each = [
    of_batch(jnp.asarray(next(batches)['image']))
    for _ in range(recipe.batch_norm_batches)
  ]
  mean = jax.tree.map(lambda *s: np.mean(s, 0), *each)
  # Four devices add up in another order: float32 rounding of sums over 10^4.
  assert difference(mean, variables['batch_stats']) < 1e-4
  images = workdir.results()['train']['batch_norm_images']
  assert images == recipe.batch_norm_batches * recipe.batch_size


def test_a_short_training_with_slow_averages_is_scored_as_it_learned(trained):
  """At momentum 0.99 running averages remember the first of 220 steps: the
  same weights scored 46% with them, 87% with their own."""
  config, workdir = trained
  assert evaluate.run(config, workdir)['top1'] > 0.75


@pytest.mark.slow
def test_momentum_changes_no_score(trained, tmp_path):
  """It is a matter of running averages, which nothing uses."""
  config, workdir = trained
  other = slow_config()
  other.space.batch_norm_momentum = 0.5
  train.run(other, Workdir(tmp_path))
  _, expected = load_trained(config, workdir)
  _, variables = load_trained(other, Workdir(tmp_path))
  assert difference(variables, expected) == 0


def test_an_older_training_is_scored_with_statistics_of_its_weights(
  trained, tmp_path, monkeypatch
):
  """A workdir that says nothing of them has running averages in it."""
  config, workdir = trained
  results = workdir.results()
  del results['train']['batch_norm_images']
  monkeypatch.setattr(Workdir, 'results', lambda self: results)
  monkeypatch.setattr(trained_lib, '_statistics', lambda *_: 'estimated')
  assert load_trained(config, workdir)[1]['batch_stats'] == 'estimated'


def test_an_inherited_network_is_scored_as_in_the_supernet(workdir):
  """Statistics re-estimated under the found gates, not the supernet's own."""
  config = tiny_run.config(train__init='inherit', train__epochs=0.0)
  results = tiny_run.results(workdir)
  found = results.pop('search')
  (workdir / 'results.json').write_text(json.dumps({'search': found}))
  shutil.rmtree(workdir / 'train')
  train.run(config, Workdir(workdir))
  scores = evaluate.run(config, Workdir(workdir))
  # Equal to rounding, which may turn one of 50 images.
  assert scores['top1'] == pytest.approx(found['supernet_top1'], abs=1.1 / 50)
  assert scores['cross_entropy'] == pytest.approx(
    found['supernet_cross_entropy'], rel=1e-3
  )
  assert tiny_run.results(workdir)['train']['batch_norm_images'] == 0


def test_the_average_of_weights_forgets_where_it_began():
  """After 28 steps, a two-class training, the start weighs less than 1e-7."""
  left = np.prod([float(ema_decay(0.9999, jnp.int32(t))) for t in range(28)])
  assert left < 1e-7
