"""Stage `train`: an `Architecture` from scratch, or from given weights."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from spnas_jax.config.defaults import make_space
from spnas_jax.config.routes import adaptation, resolve_architecture
from spnas_jax.config.workdir import Workdir, stage_inputs
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.models.torch_weights import load_torch
from spnas_jax.search.search_record import load_inherited
from spnas_jax.stages.frame import Task, stage
from spnas_jax.training.run_setup import check_recipe
from spnas_jax.training.trained import statistics_images, train_network


def check(config: ConfigDict, workdir: Workdir) -> None:
  """Refuses what can be refused before anything is compiled.

  `run` checks what only a search of the same command leaves.

  Raises:
    UserError: network, weights, data or batch do not fit together.
  """
  check_recipe(config, workdir, 'train')
  known = config.architecture or (workdir / 'architecture.json').exists()
  if not known:
    return
  arch = resolve_architecture(config, workdir)
  if config.train.init == 'inherit':
    make_space(config).encode(arch)
  elif config.train.init.endswith('.npz'):
    load_torch(config.train.init, arch)


def prepare(config: ConfigDict, workdir: Workdir) -> Task:
  """Leaves checkpoints and `train/architecture.json`.

  Raises:
    UserError: there is no network, or no weights to start from.
  """
  arch = resolve_architecture(config, workdir)
  inputs = stage_inputs(
    config,
    'seed',
    'dataset',
    'train',
    architecture=arch.to_string(),
    # What the line does not say, momentum apart: it changes running averages
    # only, which are not used.
    style=[arch.activation, arch.padding, arch.batch_norm_epsilon],
  )
  variables = None
  if config.train.init == 'inherit':
    supernet = workdir.results().get('search')
    if supernet is None:
      raise UserError(
        f"train.init is 'inherit', but --workdir {workdir.path} holds no "
        'finished search; run --stage=search'
      )
    inputs['supernet'] = supernet['params_sha256']
  elif config.train.init.endswith('.npz'):
    variables, inputs['weights_sha256'] = load_torch(config.train.init, arch)

  def train() -> dict[str, Any]:
    weights = variables
    if config.train.init == 'inherit':
      weights = load_inherited(config, workdir, arch)
    if adapted := adaptation(arch):
      say(f'train: the network is adapted to the configuration: {adapted}')
    state = train_network(config, workdir, 'train', arch, weights)
    workdir.write('train/architecture.json', arch.to_json())
    return {
      'steps': int(state.step),
      'architecture': arch.to_string(),
      'batch_norm_images': statistics_images(config, int(state.step)),
    }

  return Task(inputs, train)


run = stage('train', prepare, check)
