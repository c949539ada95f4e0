"""Five ways to a network, each under the same configuration keys."""

import jax
import numpy as np
import pytest
import tiny_run
from ml_collections import ConfigDict

from spnas_jax.config import routes
from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.parallel import AXIS
from spnas_jax.data.known_datasets import DatasetInfo
from spnas_jax.models.convnet import ConvNet
from spnas_jax.networks import zoo
from spnas_jax.networks.architecture import Architecture
from spnas_jax.training import steps
from spnas_jax.training.steps import make_train_step
from spnas_jax.training.train_state import TrainState
from spnas_jax.training.trained import training_parts

# Another data set than the one any of the networks was made for.
CLASSES, CHANNELS, SIZE = 7, 3, 20
MOMENTUM, EPSILON, DROPOUT = 0.7, 2e-3, 0.3
BLOCKS = (
  'stem_k3_s2_i1_c8 ir_r1_k3_s2_e3_c16 ir_r1_k5_s1_e3_c16 head_c24 fc_c10'
)

# route -> (activation, batch-norm epsilon, strides) that the table promises.
OWN = 'relu6'  # mobilenet_v2's; the configuration says relu below.
ROUTES = {
  'space': ('relu', EPSILON, [2, 2, 1, 1, 1]),
  'JSON': (OWN, EPSILON, [2, 2, 1]),
  'block string': ('relu', EPSILON, [2, 2, 1]),
  # Of five halvings 20 px leave two until the map is 5 px, above 4.
  'zoo': (OWN, EPSILON, None),
  'zoo:torch': (OWN, 1e-5, None),
}


@pytest.fixture
def config(monkeypatch) -> ConfigDict:
  facts = DatasetInfo('other', 128, 0, 50, CLASSES, CHANNELS)
  monkeypatch.setattr('spnas_jax.config.spaces.datasets.info', lambda _: facts)
  c = tiny_run.get_config()
  c.dataset.image_size = SIZE
  c.space.batch_norm_momentum = MOMENTUM
  c.space.batch_norm_epsilon = EPSILON
  c.train.dropout = DROPOUT
  return c


def network(route: str, config: ConfigDict, folder) -> Architecture:
  """What `train` would train on a route."""
  workdir = Workdir(folder)
  if route == 'space':
    space = make_space(config)
    found = space.decode(np.ones(len(space.gates)))
    workdir.write('architecture.json', found.to_json())
    config.architecture = ''
  elif route == 'JSON':
    arch = Architecture.from_string(
      BLOCKS, activation=OWN, batch_norm_momentum=0.99, batch_norm_epsilon=1e-4
    )
    workdir.write('mine.json', arch.to_json())
    config.architecture = str(workdir / 'mine.json')
  elif route == 'block string':
    config.architecture = BLOCKS
  else:
    config.architecture = route.replace('zoo', 'mobilenet_v2')
  return routes.resolve_architecture(config, workdir)


@pytest.mark.parametrize('route', ROUTES)
def test_every_route_obeys_the_same_keys(route, config, tmp_path, monkeypatch):
  """Momentum, epsilon, activation, dropout, classes, channels, image size."""
  arch = network(route, config, tmp_path)
  activation, epsilon, strides = ROUTES[route]
  assert arch.batch_norm_momentum == MOMENTUM
  assert arch.batch_norm_epsilon == epsilon
  assert arch.activation == activation
  assert arch.padding == ('symmetric' if route == 'zoo:torch' else 'same')
  own = [arch.stem_stride, *(block.stride for block in arch.blocks)]
  assert own == strides if strides else own.count(2) == 2

  # Not only said: what the training step computes with.
  rates = []

  def mask(key, rate, local_batch, features):
    rates.append((rate, features))

  monkeypatch.setattr(steps, 'dropout_mask', mask)
  model, optimizer, schedule = training_parts(config, arch)
  step = make_train_step(model, optimizer, schedule, config.train, 0)
  image = jax.ShapeDtypeStruct((2, SIZE, SIZE, CHANNELS), np.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  state = jax.eval_shape(lambda v: TrainState.create(v, optimizer), variables)
  batch = {'image': image, 'label': jax.ShapeDtypeStruct((2,), np.int32)}
  jax.make_jaxpr(step, axis_env=[(AXIS, 1)])(state, batch)
  assert rates == [(DROPOUT, arch.feature_channels)]
  logits = jax.eval_shape(ConvNet(arch).apply, variables, image)
  assert logits.shape == (2, CLASSES)


@pytest.mark.parametrize('route', ROUTES)
def test_what_had_to_change_is_said(route, config, tmp_path):
  """A network is never changed silently."""
  arch = network(route, config, tmp_path)
  expected = {
    'JSON': 'num_classes 10 -> 7, input_channels 1 -> 3, '
    'batch_norm_epsilon 0.0001 -> 0.002',
    'block string': 'num_classes 10 -> 7, input_channels 1 -> 3',
    'zoo': 'batch_norm_epsilon 0.001 -> 0.002',
  }
  assert routes.adaptation(arch) == expected.get(route, '')
  # A second pass has nothing left to change.
  assert routes.adaptation(routes.under_config(config, arch)) == ''


def test_compare_zoo_and_train_mean_the_same_network(config, tmp_path):
  trained = network('zoo', config, tmp_path)
  assert routes.zoo_network(config, zoo.get('mobilenet_v2')) == trained
