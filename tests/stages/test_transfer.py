"""Trainings and searches that start from what another workdir learned."""

import contextlib
import io
import os
import shutil

import jax
import numpy as np
import pytest
import tiny
import tiny_run
from refusals import ARCHITECTURE, refused
from sklearn.datasets import load_digits

from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir
from spnas_jax.core import tensorflow_setup
from spnas_jax.core.errors import UserError
from spnas_jax.latency.table import LatencyTable
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.search.search_record import finished_search
from spnas_jax.search.search_setup import (
  create_state,
  make_search,
  search_inputs,
)
from spnas_jax.stages import evaluate, search, train
from spnas_jax.training import run_setup
from spnas_jax.training.history import History
from spnas_jax.training.trained import load_trained

FIVE = {'dataset__name': 'five', 'dataset__test_examples': 20}
OTHERS = {'dataset__name': 'others', 'dataset__test_examples': 20}
SHORT = {'train__epochs': 0.5, 'train__log_every_steps': 1}
KEPT = {'train__epochs': 0.0}  # Weights stay as they were given.


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """Data sets 'five' (digits 0 to 4), 'others' (5 to 9), 'colour' (0, 1)."""
  tf = tensorflow_setup.load_tensorflow()
  tfds = tensorflow_setup.load_tfds()
  folder = tmp_path_factory.mktemp('data')
  digits = load_digits()
  images = (digits.images * 255 / 16).astype(np.uint8)[..., None]
  for name, first, count, channels in (
    ('five', 0, 5, 1),
    ('others', 5, 5, 1),
    ('colour', 0, 2, 3),
  ):
    own = (digits.target >= first) & (digits.target < first + count)
    pixels = np.repeat(images[own], channels, -1)
    labels = digits.target[own] - first

    def part(start, stop, pixels=pixels, labels=labels):
      return tf.data.Dataset.from_tensor_slices(
        {'image': pixels[start:stop], 'label': labels[start:stop]}
      )

    with contextlib.redirect_stdout(io.StringIO()):  # tfds prints progress.
      tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version='1.0.0',
        data_dir=folder,
        features=tfds.features.FeaturesDict(
          {
            'image': tfds.features.Image(shape=(8, 8, channels)),
            'label': tfds.features.ClassLabel(
              names=[str(first + i) for i in range(count)]
            ),
          }
        ),
        split_datasets={'train': part(0, 200), 'test': part(200, 240)},
        disable_shuffling=True,
      )
  return str(folder)


@pytest.fixture(scope='module')
def source(data_dir, tmp_path_factory):
  """A workdir in which a network has learned the first five digits."""
  folder = tmp_path_factory.mktemp('source') / 'run'
  config = tiny_run.config(
    architecture=ARCHITECTURE, dataset__data_dir=data_dir, **FIVE, **SHORT
  )
  train.run(config, Workdir(folder))
  return folder


@pytest.fixture
def configure(data_dir, source):
  """(**changes) -> a configuration that starts from `source`."""

  def make(**changes):
    fields = {'dataset__data_dir': data_dir, 'train__init': str(source)}
    return tiny_run.config(**{**fields, **changes})

  return make


def parts(params):
  """(backbone, classifier), NumPy arrays by path."""
  leaves = {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }
  split = {name: 'classifier' in name for name in leaves}
  return tuple(
    {name: leaf for name, leaf in leaves.items() if split[name] is wanted}
    for wanted in (False, True)
  )


def same_bits(a, b) -> bool:
  assert a.keys() == b.keys()
  return all(a[name].tobytes() == b[name].tobytes() for name in a)


def trained_parts(config, folder):
  arch, variables = load_trained(config, Workdir(folder))
  return arch, *parts(variables['params'])


# --- trainings ----------------------------------------------------------------


@pytest.mark.parametrize(
  ('data', 'classes', 'kept'),
  [(FIVE, 5, True), (OTHERS, 5, False), ({}, 10, False)],
)
def test_the_classifier_is_kept_for_the_same_classes_only(
  data, classes, kept, configure, source, tmp_path, capsys
):
  """By number and by name; the backbone always has the source's bits.

  The network is taken over where `architecture` is '' and the workdir has none.
  """
  config = configure(**KEPT, **data)
  result = train.run(config, Workdir(tmp_path))
  assert result['architecture'].endswith(f'fc_c{classes}')
  _, backbone, classifier = trained_parts(configure(**FIVE), source)
  arch, own_backbone, own_classifier = trained_parts(config, tmp_path)
  assert arch.num_classes == classes
  assert same_bits(backbone, own_backbone)
  shapes = {leaf.shape for leaf in own_classifier.values()}
  assert shapes == {(16, classes), (classes,)}
  if classes == 5:
    assert same_bits(classifier, own_classifier) is kept
  if not kept:  # As initialised: small weights, no bias.
    (bias,) = (v for k, v in own_classifier.items() if 'bias' in k)
    (kernel,) = (v for k, v in own_classifier.items() if 'kernel' in k)
    assert not bias.any() and kernel.std() > 1e-3
  words = 'classifier included' if kept else 'classifier is new'
  assert words in capsys.readouterr().out
  train.run(config, Workdir(tmp_path))
  assert 'already complete' in capsys.readouterr().out


def test_frozen_epochs_leave_the_backbone_alone(configure, source, tmp_path):
  """To the bit, while the classifier learns; what is left can be scored."""
  config = configure(**OTHERS, **SHORT, train__freeze_epochs=0.5)
  train.run(config, Workdir(tmp_path))
  _, backbone, classifier = trained_parts(config, tmp_path)
  _, theirs, their_classifier = trained_parts(configure(**FIVE), source)
  assert same_bits(backbone, theirs)
  assert not same_bits(classifier, their_classifier)
  (bias,) = (v for k, v in classifier.items() if 'bias' in k)
  assert bias.any()  # It starts at 0.
  assert evaluate.run(config, Workdir(tmp_path))['num_examples'] == 20
  # Another training can start from this one, whose optimizer had two parts.
  other = configure(
    **OTHERS, **KEPT, train__init=str(tmp_path), train__optimizer='sgd'
  )
  train.run(other, Workdir(tmp_path / 'other'))
  _, *after = trained_parts(other, tmp_path / 'other')
  assert same_bits(after[0], backbone) and same_bits(after[1], classifier)


def test_other_weights_at_the_same_path_are_another_training(
  configure, source, tmp_path
):
  """What is recorded is the weights' hash: a finished result stays its own."""
  there = tmp_path / 'there'
  shutil.copytree(source, there)
  config = configure(**OTHERS, **KEPT, train__init=str(there))
  train.run(config, Workdir(tmp_path / 'run'))
  shutil.rmtree(there)
  fresh = configure(
    **OTHERS, **KEPT, train__init='scratch', architecture=ARCHITECTURE
  )
  train.run(fresh, Workdir(there))
  with pytest.raises(UserError, match='weights_sha256'):
    train.run(config, Workdir(tmp_path / 'run'))


def test_balanced_classes_weigh_what_the_labels_say(
  configure, tmp_path, monkeypatch
):
  """The loss is weighted by the counts of the configured training images.

  At learning rate 0 both runs have the same weights all along, so that their
  losses differ by those of the classes alone.
  """
  seen = []

  def losses(balance, folder):
    config = configure(
      **OTHERS,
      **SHORT,
      dataset__train_examples=64,
      train__learning_rate=0.0,
      train__class_balance=balance,
    )
    train.run(config, Workdir(folder))
    return History(Workdir(folder), 'train').arrays()['cross_entropy']

  counts = run_setup.class_counts

  def noted(dataset_config):
    seen.append(counts(dataset_config))
    return seen[-1]

  monkeypatch.setattr(run_setup, 'class_counts', noted)
  plain = losses('', tmp_path / 'plain')
  assert not seen
  balanced = losses('loss', tmp_path / 'balanced')
  digits = load_digits().target
  expected = np.bincount(digits[digits >= 5][:64] - 5, minlength=5)
  np.testing.assert_array_equal(seen[0], expected)
  assert len(set(expected)) > 1  # Else nothing would be weighted.
  assert np.isfinite(balanced).all() and (balanced != plain).all()


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    (
      {'train__init': '/no/such/folder'},
      ["train.init is '/no/such/folder'", 'no folder', "'inherit'", '.npz'],
    ),
    (
      {'train__init': str(tiny_run.ROOT)},
      ['no finished train', '--stage=train'],
    ),
    (
      {'architecture': ARCHITECTURE.replace('k3_s1', 'k5_s1')},
      ['blocks[1].kernel: 3 there, 5 here', 'but for its classes'],
    ),
    (
      {'architecture': ARCHITECTURE.replace(' head', ' ir_k3_e2_c12 head')},
      ['2 blocks there, 3 here'],
    ),
    (
      {'space__batch_norm_epsilon': 1e-4},
      ['batch_norm_epsilon: 0.001 there, 0.0001 here'],
    ),
    (
      {'dataset__name': 'colour', 'dataset__test_examples': 0},
      ['grey images', "'colour' are colour"],
    ),
  ],
)
def test_a_source_that_does_not_fit_is_refused(
  changes, words, configure, tmp_path, capsys
):
  """In one line, by `check`, and nothing is left in either place."""
  config = configure(**{**OTHERS, **changes})
  line = refused(lambda: train.check(config, Workdir(tmp_path)), capsys)
  for word in words:
    assert word in line
  assert not list(tmp_path.iterdir())
  assert not os.path.exists('/no/such/folder')


# --- searches -----------------------------------------------------------------


def test_a_search_starts_from_what_another_supernet_learned(data_dir, workdir):
  """Weights and statistics are the source's; thresholds and, for other
  classes, the classifier are fresh. The source had other gates and optimizer.
  """
  theirs = finished_search(tiny_run.config(), Workdir(workdir))[1]
  backbone, classifier = parts(theirs.params)
  for data, kept in (
    ({}, True),
    ({'dataset__data_dir': data_dir, **FIVE}, False),
  ):
    config = tiny_run.config(
      search__init=str(workdir),
      search__gates='official',
      search__optimizer='sgd',
      **data,
    )
    table = tiny.table(make_space(config), config.dataset.image_size)
    problem = SearchProblem.of(config, table)
    state = create_state(make_search(config, problem), config)
    own_backbone, own_classifier = parts(state.params)
    thresholds = own_backbone.pop("['thresholds']")
    assert not thresholds.any()
    expected = {k: v for k, v in backbone.items() if 'thresholds' not in k}
    assert same_bits(expected, own_backbone)
    assert same_bits(*(parts(s.batch_stats)[0] for s in (theirs, state)))
    assert same_bits(*(parts(t)[0] for t in (state.params, state.ema_params)))
    if kept:
      assert same_bits(classifier, own_classifier)
    else:
      assert {v.shape for v in own_classifier.values()} == {(16, 5), (5,)}


@pytest.mark.slow
def test_a_whole_search_from_another(workdir, tmp_path, capsys):
  """It ends, records whose weights it had, and starts above a fresh one."""
  config = tiny_run.config(search__init=str(workdir))
  result = search.run(config, Workdir(tmp_path))
  source = tiny_run.results(workdir)['search']
  assert result['inputs']['init_sha256'] == source['params_sha256']
  assert result['params_sha256'] != source['params_sha256']
  assert 'classifier included' in capsys.readouterr().out
  first, again = (
    History(Workdir(w), 'search').arrays()['cross_entropy'][0]
    for w in (workdir, tmp_path)
  )
  assert again < first
  search.run(config, Workdir(tmp_path))
  assert 'already complete' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'search__init': '/no/such/folder'}, ['search.init', 'no folder']),
    ({'search__init': str(tiny_run.ROOT)}, ['no finished search']),
    (
      {'space__head_channels': 24},
      ['another space', 'space.head_channels: 16 there, 24 here'],
    ),
    (
      {'dataset__name': 'colour', 'dataset__test_examples': 0},
      ['grey images', "'colour' are colour"],
    ),
  ],
)
def test_a_supernet_that_does_not_fit_is_refused(
  changes, words, data_dir, workdir, tmp_path, capsys
):
  fields = {'search__init': str(workdir), 'dataset__data_dir': data_dir}
  config = tiny_run.config(**{**fields, **changes})
  table = LatencyTable.load(config.latency_table)
  line = refused(lambda: search_inputs(config, table), capsys)
  for word in words:
    assert word in line
