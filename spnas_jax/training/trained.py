"""Training a network under `config.train`, and reading it back."""

from __future__ import annotations

import json
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from spnas_jax.config.defaults import default_config
from spnas_jax.config.routes import read_architecture
from spnas_jax.config.workdir import Workdir, fingerprint
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.core.live_line import waiting
from spnas_jax.core.parallel import AXIS, mapped_step, replicate
from spnas_jax.latency.table import LatencyTable
from spnas_jax.models.convnet import ConvNet
from spnas_jax.networks.architecture import Architecture, num_params
from spnas_jax.training.batch_norm import estimate_batch_stats
from spnas_jax.training.checkpoint import Checkpoints
from spnas_jax.training.loop import PREPARING, run_steps, take
from spnas_jax.training.optimizer import train_optimizer, weight_optimizer
from spnas_jax.training.run_setup import (
  check_batch,
  class_weights_of,
  device_batches,
  init_variables,
  length_of,
)
from spnas_jax.training.schedules import learning_rate_schedule
from spnas_jax.training.scoring import convnet_eval_step, score_split
from spnas_jax.training.steps import make_train_step
from spnas_jax.training.train_state import TrainState


def training_parts(config: ConfigDict, arch: Architecture, given: bool = False):
  """(network, optimizer, learning rate by step) under `config.train`.

  Args:
    config: sections `dataset` and `train`.
    arch: the network.
    given: whether it starts from weights that were given; only then
      `freeze_epochs` and `backbone_rate` have a meaning.
  """
  recipe, length = config.train, length_of(config, 'train')
  schedule = learning_rate_schedule(recipe, *length)
  model = ConvNet(
    arch,
    dtype=recipe.dtype,
    axis_name=AXIS if recipe.sync_batch_norm else None,
    remat=recipe.remat,
  )
  optimizer = weight_optimizer(recipe.optimizer, schedule)
  if given:
    frozen = length.steps(recipe.freeze_epochs)
    optimizer = train_optimizer(recipe, schedule, frozen)
  return model, optimizer, schedule


def train_network(
  config: ConfigDict,
  workdir: Workdir,
  stage: str,
  arch: Architecture,
  variables: dict[str, Any] | None = None,
  seed: int | None = None,
) -> TrainState:
  """Trains one network under `config.train`, resuming where it was.

  Args:
    config: sections `dataset` and `train`.
    workdir: checkpoints and events go to its folder `stage`.
    stage: name for files and log lines.
    arch: the network.
    variables: weights to start from; None initialises.
    seed: of initialisation, order and dropout; None = `config.seed`.

  Returns:
    The final state. Its `ema_batch_stats` are those of `ema_params` over
    `train.batch_norm_batches` batches, not running averages; with 0 epochs they
    are as they were given.
  """
  recipe = config.train
  seed = config.seed if seed is None else seed
  check_batch('train', recipe.batch_size)
  length = length_of(config, 'train')
  given = variables is not None
  model, optimizer, schedule = training_parts(config, arch, given)
  if variables is None:
    size, channels = config.dataset.image_size, arch.input_channels
    with waiting(stage, PREPARING):
      variables = init_variables(model, size, channels, seed)
  step = make_train_step(
    model, optimizer, schedule, recipe, seed, class_weights_of(config, 'train')
  )

  def finish(state: TrainState) -> TrainState:
    stats = _statistics(config, model, state.ema_params, seed)
    return state.replace(ema_batch_stats=replicate(stats))

  def describe(m: dict[str, float]) -> str:
    return (
      f'CE {m["cross_entropy"]:.3f}  accuracy {100 * m["accuracy"]:.1f}%'
      f'  lr {m["learning_rate"]:.2g}'
    )

  return run_steps(
    stage,
    workdir,
    TrainState.create(variables, optimizer),
    mapped_step(step),
    lambda first: device_batches(config, recipe, seed, first),
    length=length,
    recipe=recipe,
    describe=describe,
    finish=finish,
  )


def _statistics(
  config: ConfigDict, model: ConvNet, params: Any, seed: int
) -> Any:
  """Batch statistics of weights over the first training batches."""
  recipe = config.train
  batches = take(
    device_batches(config, recipe, seed, 0), recipe.batch_norm_batches
  )
  return estimate_batch_stats(model, params, batches)


def statistics_images(config: ConfigDict, steps: int) -> int:
  """Images from which batch statistics were estimated; 0 = kept as given."""
  recipe = config.train
  return recipe.batch_norm_batches * recipe.batch_size if steps else 0


def _trained(workdir: Workdir) -> dict[str, Any]:
  """The result of a workdir's training; UserError if there was none."""
  result = workdir.results().get('train')
  if result is None:
    raise UserError(
      f'--workdir {workdir.path} holds no trained network; run --stage=train '
      'first'
    )
  return result


def trained_hash(workdir: Workdir) -> str:
  """Identity of what was trained in a workdir.

  Raises:
    UserError: nothing was trained.
  """
  result = _trained(workdir)
  if 'batch_norm_images' not in result:
    say(
      f'WARNING: {workdir.path} was trained by a version that kept running '
      'batch-norm statistics, which can lag. Stages that run now re-estimate '
      "them; those already finished run again once 'evaluate', 'export' and "
      "'profile' are removed from its results.json"
    )
  return fingerprint(result['inputs'])


def load_trained(
  config: ConfigDict, workdir: Workdir
) -> tuple[Architecture, dict[str, Any]]:
  """The trained network, its averaged weights and their batch statistics.

  Returns:
    (architecture, {'params', 'batch_stats'}).

  Raises:
    UserError: nothing was trained in the workdir.
  """
  result = _trained(workdir)
  arch = read_architecture(workdir / 'train' / 'architecture.json')
  state = restore_trained(config, workdir, result, arch)
  variables = state.averaged
  if 'batch_norm_images' not in result and state.step:
    variables['batch_stats'] = _statistics(
      config, ConvNet(arch), state.ema_params, config.seed
    )
  return arch, variables


def restore_trained(
  config: ConfigDict,
  workdir: Workdir,
  result: dict[str, Any],
  arch: Architecture,
) -> TrainState:
  """The last state of a finished training, whatever its recipe was.

  Args:
    config: only the image size is read, which decides no shape of it.
    workdir: where it was trained.
    result: of its stage `train`; the recorded recipe decides the optimizer.
    arch: its network.

  Raises:
    UserError: there is no checkpoint.
  """
  recipe, inputs = default_config().train, result['inputs']
  for key in ('optimizer', 'init', 'freeze_epochs', 'backbone_rate'):
    recipe[key] = inputs.get(f'train.{key}', recipe[key])
  optimizer = weight_optimizer(recipe.optimizer, lambda step: 0.0)
  if recipe.init != 'scratch':
    optimizer = train_optimizer(recipe, lambda step: 0.0, 0)

  def create() -> TrainState:
    size, channels = config.dataset.image_size, arch.input_channels
    return TrainState.create(
      init_variables(ConvNet(arch), size, channels, 0), optimizer
    )

  with Checkpoints(workdir / 'train' / 'checkpoints') as checkpoints:
    return checkpoints.restore(jax.eval_shape(create))


def score_from_scratch(
  config: ConfigDict,
  workdir: Workdir,
  stage: str,
  arch: Architecture,
  seed: int,
  table: LatencyTable | None,
) -> dict[str, Any]:
  """Trains and scores one network; a row that exists is read, not redone.

  Returns:
    {'architecture', 'seed', 'predicted_ms' (None without a table), 'params',
    'top1', 'top5' (fractions), 'cross_entropy', 'seconds'}.
  """
  name = f'{stage}/{fingerprint({"arch": arch.to_string(), "seed": seed})}'
  path = workdir / name / 'row.json'
  if path.exists():
    return json.loads(path.read_text())
  start = time.monotonic()
  state = train_network(config, workdir, name, arch, seed=seed)
  scores = score_split(
    convnet_eval_step(ConvNet(arch)),
    state.averaged,
    config,
    config.evaluate.split,
  )
  row = {
    'architecture': arch.to_string(),
    'seed': seed,
    'predicted_ms': None if table is None else table.predict(arch),
    'params': num_params(arch),
    **scores,
    'seconds': round(time.monotonic() - start, 3),
  }
  workdir.write(f'{name}/row.json', json.dumps(row, indent=1))
  return row
