"""Stage `train`: an `Architecture` from scratch, or from given weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from spnas_jax.config.routes import (
  adaptation,
  resolve_architecture,
  under_config,
)
from spnas_jax.config.spaces import dataset_facts, make_space
from spnas_jax.config.workdir import Workdir, stage_inputs
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.models.torch_weights import load_torch
from spnas_jax.networks.architecture import Architecture
from spnas_jax.search.search_record import load_inherited, params_sha256
from spnas_jax.stages.frame import Task, stage
from spnas_jax.training.outcome import write_outcome
from spnas_jax.training.run_setup import check_recipe
from spnas_jax.training.trained import (
  statistics_images,
  train_network,
)
from spnas_jax.training.transfer import (
  Source,
  check_same_network,
  fit_classes,
)


def check(config: ConfigDict, workdir: Workdir) -> None:
  """Refuses what can be refused before anything is compiled.

  `run` checks what only a search of the same command leaves.

  Raises:
    UserError: network, weights, data or batch do not fit together.
  """
  check_recipe(config, workdir, 'train')
  if not (has_own_network(config, workdir) or from_workdir(config)):
    return
  arch = _network(config, workdir)
  if config.train.init == 'inherit':
    make_space(config).encode(arch)
  elif config.train.init.endswith('.npz'):
    load_torch(config.train.init, arch)


def has_own_network(config: ConfigDict, workdir: Workdir) -> bool:
  """Whether the configuration or the workdir names the network to train."""
  return bool(config.architecture) or (workdir / 'architecture.json').exists()


def from_workdir(config: ConfigDict) -> bool:
  """Whether `train.init` names a workdir."""
  init = config.train.init
  return init not in ('scratch', 'inherit') and not init.endswith('.npz')


def _network(config: ConfigDict, workdir: Workdir) -> Architecture:
  """The network to train, which may be that of the workdir `train.init`.

  Raises:
    UserError: there is none, or that workdir has trained another one.
  """
  if not from_workdir(config):
    return resolve_architecture(config, workdir)
  theirs = Source.of(config).arch
  arch = (
    resolve_architecture(config, workdir)
    if has_own_network(config, workdir)
    else under_config(config, theirs)
  )
  check_same_network('train.init', config.train.init, theirs, arch)
  return arch


def prepare(config: ConfigDict, workdir: Workdir) -> Task:
  """Leaves checkpoints and `train/architecture.json`.

  Raises:
    UserError: there is no network, or no weights to start from.
  """
  arch = _network(config, workdir)
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
  facts, start = _start(config, workdir, arch)

  def train() -> dict[str, Any]:
    weights = start()
    if adapted := adaptation(arch):
      say(f'train: the network is adapted to the configuration: {adapted}')
    state = train_network(config, workdir, 'train', arch, weights)
    workdir.write('train/architecture.json', arch.to_json())
    found = _found(workdir, arch)
    write_outcome('train', workdir, int(state.step), found, config)
    return {
      'steps': int(state.step),
      'architecture': arch.to_string(),
      'batch_norm_images': statistics_images(config, int(state.step)),
      'label_names': list(dataset_facts(config).label_names),
    }

  return Task({**inputs, **facts}, train)


def _found(workdir: Workdir, arch: Architecture) -> dict[str, float | None]:
  """Target and prediction of the workdir's search, if it found `arch`."""
  search = workdir.results().get('search', {})
  if search.get('architecture') != arch.to_string():
    return {}
  return {key: search[key] for key in ('target_ms', 'predicted_ms')}


def _start(
  config: ConfigDict, workdir: Workdir, arch: Architecture
) -> tuple[dict[str, str], Callable[[], dict[str, Any] | None]]:
  """Where the weights come from: (facts to record, () -> weights for `arch`).

  Raises:
    UserError: `train.init` cannot be used.
  """
  init = config.train.init
  if init == 'scratch':
    return {}, lambda: None
  if init == 'inherit':
    supernet = workdir.results().get('search')
    if supernet is None:
      raise UserError(
        f"train.init is 'inherit', but --workdir {workdir.path} holds no "
        'finished search; run --stage=search'
      )
    facts = {'supernet': supernet['params_sha256']}
    return facts, lambda: load_inherited(config, workdir, arch)
  if init.endswith('.npz'):
    variables, digest = load_torch(init, arch)
    return {'weights_sha256': digest}, lambda: variables
  source = Source.of(config)
  weights = source.weights(config)
  return (
    {'weights_sha256': params_sha256(weights['params'])},
    lambda: fit_classes(config, source, arch, weights),
  )


run = stage('train', prepare, check)
