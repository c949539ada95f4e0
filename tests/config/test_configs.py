"""configs/: each one loads, passes the checks and says what it should.

Numbers of the reference are from its code: 1,281,167 images, batch 1024, eight
epochs of 1,251 steps, five of them in warm-up.
"""

import importlib.util
import inspect
import json
import pathlib
import sys

import fake_imagenet
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from authors import imagenet_space

from spnas_jax import stage_runs, startup
from spnas_jax.config import automatic
from spnas_jax.config import defaults as config_lib
from spnas_jax.config import rules as config_rules
from spnas_jax.config.spaces import dataset_facts, make_space
from spnas_jax.core.errors import UserError
from spnas_jax.data import datasets, pixel_statistics
from spnas_jax.networks import zoo
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.search.search_setup import make_search
from spnas_jax.training.schedules import learning_rate_schedule
from spnas_jax.training.trained import training_parts

CONFIGS = tiny_run.ROOT / 'configs'
IMAGENET = CONFIGS / 'imagenet_search.py'
STEPS_PER_EPOCH = 1251


def load(path: pathlib.Path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def every_variant():
  for path in sorted(CONFIGS.glob('*.py')):
    for variant in getattr(load(path), 'VARIANTS', ('',)):
      yield pytest.param(path, variant, id=f'{path.stem}:{variant}')


def get(path, variant, tmp_path):
  """A config without what happens to be prepared on this machine."""
  arguments = [variant] if variant else []
  config = load(path).get_config(*arguments)
  config.dataset.data_dir = str(tmp_path)
  if automatic.unset(config):
    # What its pictures choose, tests/config/test_automatic.py has.
    default = config_lib.default_config()
    config = automatic.with_values(
      config, lambda k: config_rules.get(default, k)
    )
    config.dataset.name = 'digits'
  return config


def searching(config):
  return make_search(config, SearchProblem.of(config))


# --- all of them --------------------------------------------------------------


def test_the_configs_that_the_readme_names_are_there():
  assert {path.stem for path in CONFIGS.glob('*.py')} >= {
    'digits',
    'fashion_mnist',
    'cifar10',
    'imagenet_search',
    'imagenet_train',
  }


@pytest.mark.parametrize(('path', 'variant'), [*every_variant()])
def test_loads_and_passes_the_checks(path, variant, tmp_path):
  default = config_lib.default_config()
  config = automatic.fill(get(path, variant, tmp_path), default)
  startup.check_keys(config, default)
  config_rules.check(config)
  datasets.check(config.dataset)
  if not config.dataset.name:
    return  # Somebody's pictures: test_automatic.py has some.
  space, facts = make_space(config), dataset_facts(config)
  assert space.num_classes == facts.num_classes
  assert space.input_channels == facts.channels
  for colours in pixel_statistics.statistics(config.dataset):
    assert len(colours) in (1, facts.channels)
  for recipe in (config.search, config.train):
    assert facts.steps_per_epoch(recipe.batch_size) > 0
    assert recipe.batch_size % 8 == 0, 'must split over eight cores'
  if config.architecture:
    assert config.architecture in zoo.names()


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=str)
def test_says_what_it_is_and_how_to_run_it(path):
  text = inspect.getdoc(load(path))
  assert 'make demo' in text or f'--config=configs/{path.name}' in text
  # Every stage that a command names exists.
  stages = [
    word.partition('=')[2] for word in text.split() if '--stage=' in word
  ]
  assert {stage.strip('.,`') for stage in stages} <= {'all', *stage_runs.STAGES}


def test_an_unknown_variant_is_refused_with_those_there_are():
  with pytest.raises(UserError, match=r"'offical', allowed: official, paper"):
    load(IMAGENET).get_config('offical')


def test_rematerialisation_reaches_the_networks_of_its_own_section(tmp_path):
  config = get(CONFIGS / 'digits.py', '', tmp_path)
  for remat in (True, False):
    config.search.remat, config.train.remat = remat, not remat
    model, *_ = training_parts(config, make_space(config).largest)
    assert searching(config).supernet.remat is remat
    assert model.remat is not remat


# --- ImageNet -----------------------------------------------------------------


@pytest.mark.parametrize('variant', ['official', 'paper'])
def test_imagenet_is_the_authors_macro_architecture(variant, tmp_path):
  assert make_space(get(IMAGENET, variant, tmp_path)) == imagenet_space()


@pytest.mark.parametrize(
  ('variant', 'warm_up', 'params'),
  # The reference has five thresholds that it never reads.
  [('', 6255, 4_833_823), ('official', 6255, 4_833_828), ('paper', 7506, None)],
)
def test_imagenet_searches_for_as_many_steps_as_the_reference(
  variant, warm_up, params, tmp_path
):
  config = get(IMAGENET, variant, tmp_path)
  facts = dataset_facts(config)
  assert facts.num_train == 1_281_167
  assert facts.steps_per_epoch(config.search.batch_size) == STEPS_PER_EPOCH
  search = searching(config)
  assert search.phases.total == 10_008
  assert search.phases.warm_up == warm_up
  if params is not None:
    shapes = jax.eval_shape(
      search.supernet.init,
      jax.random.key(0),
      jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32),
      jax.ShapeDtypeStruct((len(search.supernet.space.gates),), np.float32),
    )
    leaves = jax.tree.leaves(shapes['params'])
    assert sum(leaf.size for leaf in leaves) == params


@pytest.mark.parametrize('variant', ['', 'official', 'paper'])
def test_imagenet_search_has_the_authors_learning_rate(variant, tmp_path):
  config = get(IMAGENET, variant, tmp_path)
  rate = searching(config).learning_rate
  # No warm-up; stairs every 2.4 epochs, which are 3002.4 steps.
  for step, stairs in ((0, 0), (3002, 0), (3003, 1), (6005, 2), (10_007, 3)):
    np.testing.assert_allclose(rate(step), 0.064 * 0.97**stairs, rtol=1e-6)


@pytest.mark.parametrize(('variant', 'power'), [('official', 1), ('paper', 2)])
def test_the_reproductions_have_the_authors_runtime_term(
  variant, power, tmp_path
):
  config = get(IMAGENET, variant, tmp_path)
  search = searching(config)
  assert search.formulation.name == variant
  assert search.formulation.power == power
  assert search.controller is None
  # loss + 1000 * 0.020 * ln R
  assert config.search.lambda_ == pytest.approx(1000 * 0.020)
  # Eqs 11-12: all 3x3-3 is the network that a sum of entries tells apart.
  gates = np.ones(len(search.supernet.space.gates), np.float32)
  for i, gate in enumerate(search.supernet.space.gates):
    gates[i] = gate.kind == 'keep'
  runtime_ms = float(search.runtime_ms(jnp.asarray(gates)))
  assert runtime_ms == pytest.approx(65.6356, abs=1e-3)


def test_imagenet_trains_with_the_schedule_of_mnasnet(tmp_path):
  config = get(CONFIGS / 'imagenet_train.py', '', tmp_path)
  assert config.architecture == 'single_path_nas'
  c = config.train
  per_epoch = dataset_facts(config).steps_per_epoch(c.batch_size)
  total = round(c.epochs * per_epoch)
  assert total == 350 * STEPS_PER_EPOCH
  rate = learning_rate_schedule(c, per_epoch, total)
  warm_up = 5 * STEPS_PER_EPOCH
  assert float(rate(0)) == 0
  np.testing.assert_allclose(rate(warm_up / 5), 0.064 / 5, rtol=1e-6)
  # Stairs count from step 0, as they do in MnasNet's code.
  np.testing.assert_allclose(rate(warm_up), 0.064 * 0.97**2, rtol=1e-6)


# --- runs on made-up records --------------------------------------------------


def run_search(tmp_path, variant, image_size, photo, *arguments):
  """Twenty steps through main.py; returns its results."""
  random = np.random.default_rng(0)
  fake_imagenet.write(
    tmp_path / 'tfds',
    {
      split: [fake_imagenet.random_jpeg(random, *photo) for _ in range(count)]
      for split, count in (('train', 160), ('validation', 20))
    },
  )
  process = tiny_run.run(
    [
      sys.executable,
      'main.py',
      '--stage=search',
      f'--config=configs/imagenet_search.py{variant}',
      f'--workdir={tmp_path / "run"}',
      f'--config.dataset.data_dir={tmp_path / "tfds"}',
      f'--config.dataset.image_size={image_size}',
      '--config.search.batch_size=8',
      '--config.search.epochs=1.0',
      '--config.search.warmup_epochs=0.5',
      '--config.search.batch_norm_batches=2',
      '--config.evaluate.batch_size=8',
      *arguments,
    ],
    devices=1,
  )
  assert process.returncode == 0, process.stderr
  return tiny_run.results(tmp_path / 'run')['search']


@pytest.mark.slow
def test_ours_runs_on_imagenet_records(tmp_path):
  table = json.loads((tiny_run.ROOT / 'latency' / 'pixel1.json').read_text())
  small = tmp_path / 'pixel1_32.json'
  small.write_text(json.dumps({**table, 'image_size': 32}))
  result = run_search(
    tmp_path,
    '',
    32,
    (48, 40),
    f'--config.latency_table={small}',
    # A part of the space: the whole takes minutes to compile.
    '--config.space.layers=(2, 1, 1, 1, 1)',
    '--config.search.target_ms=45',
  )
  assert (result['steps'], result['warmup_steps']) == (20, 10)
  assert 0.98 * 45 <= result['predicted_ms'] <= 45
  assert np.isfinite(result['final_cross_entropy'])


@pytest.mark.slow
def test_official_runs_on_imagenet_records_at_their_size(tmp_path):
  result = run_search(tmp_path, ':official', 224, (260, 300))
  assert result['steps'] == 20
  # Its indicators are saturated: 20 steps leave the largest network.
  assert result['predicted_ms'] == pytest.approx(131.4578, abs=1e-3)
  assert result['final_lambda'] == 20
