"""Training and scoring, end to end on real digits."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from refusals import ARCHITECTURE, garbage, refused

from spnas_jax.config.routes import resolve_architecture
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.data import pixel_statistics
from spnas_jax.data.input_pipeline import test_images as first_test_images
from spnas_jax.models.convnet import ConvNet
from spnas_jax.networks import zoo
from spnas_jax.networks.architecture import Architecture
from spnas_jax.stages import evaluate, search, train
from spnas_jax.training.history import History
from spnas_jax.training.trained import load_trained

CHANCE = 0.1

SHORT = {'train__epochs': 0.5, 'train__log_every_steps': 1}


@pytest.fixture(scope='module')
def finished():
  return tiny_run.finished()


# --- what is reported ---------------------------------------------------------


def test_has_every_key_that_others_read(finished):
  """By the contract: fractions for accuracies, every test image counted."""
  results = tiny_run.results(finished)
  assert results['train']['steps'] == tiny_run.STEPS
  scores = results['evaluate']
  assert scores['num_examples'] == tiny_run.get_config().dataset.test_examples
  assert scores['split'] == 'test'
  for key in ('top1', 'top5', 'cross_entropy'):
    assert type(scores[key]) is float, key
  assert 0 <= scores['top1'] <= scores['top5'] <= 1
  for stage in ('train', 'evaluate'):
    for key in ('wall_seconds', 'config_hash', 'versions', 'platform'):
      assert key in results[stage], (stage, key)


def test_the_score_is_that_of_the_averaged_weights(finished):
  """Recounted one image at a time, without batches, masks or devices."""
  config = tiny_run.config()
  arch, variables = load_trained(config, Workdir(finished))
  images, labels = first_test_images(
    config.dataset, config.dataset.test_examples
  )
  (mean,), (std,) = pixel_statistics.statistics(config.dataset)
  pixels = (images.astype(np.float32) / 255 - mean) / std
  apply = jax.jit(ConvNet(arch).apply)
  correct = [
    int(jnp.argmax(apply(variables, pixels[i : i + 1])[0])) == labels[i]
    for i in range(len(images))
  ]
  scores = tiny_run.results(finished)['evaluate']
  assert scores['top1'] == pytest.approx(np.mean(correct), abs=1e-6)


def test_trains_what_the_search_found(finished):
  results = tiny_run.results(finished)
  assert results['train']['architecture'] == results['search']['architecture']


# --- which network ------------------------------------------------------------


@pytest.mark.parametrize('name', zoo.names())
def test_every_zoo_network_fits_the_data_set(name, tmp_path):
  """Its classifier and input are the data set's; shapes only, no weights."""
  config = tiny_run.config(architecture=name)
  arch = resolve_architecture(config, Workdir(tmp_path))
  x = jax.ShapeDtypeStruct((2, 12, 12, 1), np.float32)
  net = ConvNet(arch)
  variables = jax.eval_shape(net.init, jax.random.key(0), x)
  logits = jax.eval_shape(net.apply, variables, x)
  assert logits.shape == (2, 10)


def test_a_zoo_network_in_pytorchs_style(tmp_path):
  config = tiny_run.config(architecture='mobilenet_v2:torch')
  arch = resolve_architecture(config, Workdir(tmp_path))
  assert (arch.padding, arch.batch_norm_epsilon) == ('symmetric', 1e-5)
  config.architecture = 'mobilenet_v2:keras'
  with pytest.raises(UserError, match="style is 'keras'"):
    resolve_architecture(config, Workdir(tmp_path))


@pytest.mark.slow
def test_a_zoo_network_can_be_trained(tmp_path):
  config = tiny_run.config(architecture='mobilenet_v1', **SHORT)
  result = train.run(config, Workdir(tmp_path))
  assert result['steps'] == 2
  assert evaluate.run(config, Workdir(tmp_path))['num_examples'] == 50


@pytest.mark.parametrize('kind', ['path', 'block string'])
def test_a_network_of_ones_own_is_trained(kind, finished, tmp_path):
  """From a file anywhere, or typed; the workdir's own is not looked at."""
  arch = Architecture.from_json((finished / 'architecture.json').read_text())
  if kind == 'path':
    (tmp_path / 'mine.json').write_text(arch.to_json())
    value = str(tmp_path / 'mine.json')
  else:
    value = arch.to_string()
  workdir = Workdir(tmp_path / 'run')
  workdir.write('architecture.json', 'not looked at')
  result = train.run(tiny_run.config(architecture=value, **SHORT), workdir)
  assert result['architecture'] == arch.to_string()
  left = (tmp_path / 'run' / 'train' / 'architecture.json').read_text()
  assert Architecture.from_json(left).to_string() == arch.to_string()
  assert result['steps'] == 2


# --- inherited weights --------------------------------------------------------


@pytest.fixture(scope='module')
def learned(tmp_path_factory):
  """A workdir whose supernet has learned something: 1,056 steps.

  None is logged or saved before the last: on four devices that share two cores
  the process aborts unless the loop itself waits for its steps.
  """
  config = tiny_run.config(
    dataset__train_examples=0,
    search__epochs=24.0,
    search__learning_rate=0.3,
    search__log_every_steps=2000,
    search__checkpoint_epochs=24.0,
  )
  folder = tmp_path_factory.mktemp('learned') / 'run'
  search.run(config, Workdir(folder))
  return folder, config


def first_accuracies(folder, config, init) -> float:
  """Mean training accuracy of the first steps; the weights stay as they are."""
  shutil.rmtree(folder / 'train', ignore_errors=True)
  config = config.copy_and_resolve_references()
  config.train.update(init=init, learning_rate=0.0)
  config.train.update(epochs=0.25, log_every_steps=1)
  workdir = Workdir(folder)
  if 'train' in workdir.results():
    workdir.record('train', None)
  train.run(config, workdir)
  return float(History(workdir, 'train').arrays()['accuracy'].mean())


@pytest.mark.slow
def test_inherited_weights_start_above_chance(learned):
  """The decoded network has what its supernet learned, untrained ones do not:
  weights are cut out of the right layers, kernels and channels."""
  folder, config = learned
  assert first_accuracies(folder, config, 'inherit') > 4 * CHANCE
  assert first_accuracies(folder, config, 'scratch') < 2 * CHANCE


def test_only_networks_of_the_space_can_inherit(workdir):
  config = tiny_run.config(train__init='inherit', architecture='mobilenet_v2')
  shutil.rmtree(workdir / 'train')
  Workdir(workdir).record('train', None)
  with pytest.raises(UserError, match='not in the space'):
    train.run(config, Workdir(workdir))
  assert not (workdir / 'train').exists()


def test_top_5_of_up_to_five_classes_is_not_said():
  scores = {'top1': 0.9, 'top5': 1.0}
  assert evaluate.spell_scores(scores, 5) == 'top-1 90.00%'
  assert evaluate.spell_scores(scores, 6) == 'top-1 90.00%, top-5 100.00%'


# --- what is refused ----------------------------------------------------------


@pytest.mark.parametrize(
  ('stage', 'changes', 'words'),
  [
    (train, {}, ['architecture', 'does not exist', '--stage=search']),
    (evaluate, {}, ['no trained network', '--stage=train']),
    (
      train,
      {'architecture': 'mobilnet'},
      ["architecture is 'mobilnet'", 'mobilenet_v2', 'block string'],
    ),
    (train, {'architecture': 'stem_c8 ir_k3'}, ['ir_k3']),
    (train, {'architecture': garbage}, ['architecture', 'arch.json']),
    (train, {'architecture': '.'}, ["architecture '.'", 'directory']),
    (
      train,
      {'architecture': ARCHITECTURE, 'train__batch_size': 30},
      ['train.batch_size is 30', '4 devices'],
    ),
    (
      train,
      {'architecture': ARCHITECTURE, 'train__batch_size': 512},
      ['train.batch_size is 512', '128'],
    ),
    (
      train,
      {'architecture': ARCHITECTURE, 'train__init': 'inherit'},
      ['no finished search', '--stage=search'],
    ),
    (
      train,
      {
        'architecture': ARCHITECTURE.replace('i1', 'i3'),
        'dataset__name': 'cifar10',
        'dataset__data_dir': '/nowhere',
      },
      ['dataset.name', 'cifar10', "dataset.data_dir='/nowhere'"],
    ),
  ],
)
def test_a_training_refuses_wrong_input(
  stage, changes, words, tmp_path, capsys
):
  """And leaves nothing: what is left would bind the next try to the mistake."""
  config = tiny_run.config()
  for name, value in changes.items():
    section, _, key = name.rpartition('__')
    target = config[section] if section else config
    target[key] = value('arch.json') if callable(value) else value
  line = refused(lambda: stage.run(config, Workdir(tmp_path)), capsys)
  for word in words:
    assert word in line
  assert not list(tmp_path.iterdir())
