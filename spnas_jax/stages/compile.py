"""Stage `compile`: the step of a run, compiled for a TPU that is not there.

Before a slice is rented it says whether the batch fits the memory, how much the
cores exchange, and how long the compiler thinks a step takes.
"""

from __future__ import annotations

import functools
import importlib.metadata
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from spnas_jax.config.defaults import make_space
from spnas_jax.config.routes import resolve_architecture
from spnas_jax.config.workdir import Workdir, stage_inputs
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.core.tpu_compiler import (
  GIB,
  Program,
  describe,
  find_largest_batch,
  tpu_devices,
  try_batch,
)
from spnas_jax.search.search_setup import (
  create_state,
  load_table,
  make_search,
  resolve_target,
)
from spnas_jax.search.search_step import make_search_step
from spnas_jax.training.run_setup import image_shape, init_variables
from spnas_jax.training.steps import make_train_step
from spnas_jax.training.train_state import TrainState
from spnas_jax.training.trained import training_parts

SYNCHRONISED = (
  'synchronised batch norm needs the statistics of every norm summed before '
  'the next layer can start, forward and backward, hence the many small '
  'all-reduces; {step}.sync_batch_norm=False needs one for the whole step'
)


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
  """Stage `compile`."""
  c = config.compile
  devices = tpu_devices(c.topology)
  recipe = config[c.step]
  if recipe.batch_size % len(devices):
    raise UserError(
      f'{c.step}.batch_size is {recipe.batch_size}, must be a multiple of the '
      f'{len(devices)} devices of {c.topology!r}'
    )
  extra: dict[str, Any] = {'libtpu': importlib.metadata.version('libtpu')}
  if c.step == 'train':
    program, network = train_program(config, workdir)
    extra['architecture'] = network
  else:
    program = search_program(config)
  inputs = stage_inputs(
    config, 'dataset', 'space', c.step, 'compile', versions=extra
  )
  done = workdir.finished('compile', inputs)
  if done is not None:
    return done
  start = time.monotonic()
  share = recipe.batch_size // len(devices)
  kind = devices[0].device_kind
  say(
    f'compile: {c.step} step, {share} images on each of {len(devices)} '
    f'{kind} devices'
  )
  result: dict[str, Any] = {
    'topology': c.topology,
    'device_kind': kind,
    'num_devices': len(devices),
    'step': c.step,
    'global_batch': recipe.batch_size,
    'sync_batch_norm': recipe.sync_batch_norm,
    'dtype': recipe.dtype,
    'libtpu': extra['libtpu'],
    **describe(try_batch(program, devices, share), kind),
  }
  if recipe.sync_batch_norm:
    result['note'] = SYNCHRONISED.format(step=c.step)
  _report(result)
  if c.find_largest_batch:
    result |= find_largest_batch((program,), devices, share)
    say(
      f'compile: largest batch that fits: {result["largest_batch_per_device"]} '
      'images a device'
    )
  return workdir.finish('compile', inputs, result, time.monotonic() - start)


def search_program(config: ConfigDict) -> Program:
  """The search step of a configuration."""
  space, table = make_space(config), load_table(config)
  target_ms, _, _ = resolve_target(config, space, table)
  search = make_search(config, space, table, target_ms)
  state = jax.eval_shape(functools.partial(create_state, search, config))
  return Program(
    make_search_step(search),
    state,
    image_shape(config),
    config.search.dtype,
  )


def train_program(config: ConfigDict, workdir: Workdir) -> tuple[Program, str]:
  """The training step of the configured network, and the network's name."""
  arch = resolve_architecture(config, workdir)
  recipe = config.train
  model, optimizer, schedule = training_parts(config, arch)

  def create() -> TrainState:
    variables = init_variables(
      model, config.dataset.image_size, arch.input_channels, config.seed
    )
    return TrainState.create(variables, optimizer)

  program = Program(
    make_train_step(model, optimizer, schedule, recipe, config.seed),
    jax.eval_shape(create),
    image_shape(config),
    recipe.dtype,
  )
  return program, arch.to_string()


def _report(r: dict[str, Any]) -> None:
  if r['temp_bytes_per_device'] is None:
    needed = r['needed_bytes_per_device']
    amount = '' if needed is None else f': {needed / GIB:.2f} GiB needed'
    say(f'compile: {r["topology"]}: does not fit{amount}')
    return
  seconds = r['estimated_step_seconds']
  memory = r['memory_bytes_per_device']
  available = '' if memory is None else f' of {memory / GIB:.2f}'
  verdict = 'fits' if r['fits'] else 'does not fit'
  lasting = '' if seconds is None else f', {seconds:.3f} s a step'
  say(
    f'compile: {r["topology"]}, global batch {r["global_batch"]}, each device: '
    f'{r["temp_bytes_per_device"] / GIB:.2f} GiB of temporaries, '
    f'{r["peak_bytes_per_device"] / GIB:.2f}{available} GiB in all '
    f'({verdict}); {r["num_all_reduces"]} all-reduces of '
    f'{r["all_reduce_bytes"] / 1e6:.1f} MB; estimated '
    f'{r["estimated_cycles"] / 1e6:.0f} M cycles{lasting}; compiled '
    f'in {r["compile_seconds"]:.0f} s'
  )
  if 'note' in r:
    say(f'compile: {r["note"]}')
