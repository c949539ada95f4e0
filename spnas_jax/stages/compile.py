"""Stage `compile`: the step of a run, compiled for a TPU that is not there.

Before a slice is rented it says whether the batch fits the memory, how much the
cores exchange, and how long the compiler thinks a step takes.
"""

from __future__ import annotations

import functools
import importlib.metadata
from typing import Any

import jax
from ml_collections import ConfigDict

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
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.search.search_setup import blank_state, make_search
from spnas_jax.search.search_step import make_search_step
from spnas_jax.stages.frame import Task, stage
from spnas_jax.training.run_setup import image_shape, init_variables
from spnas_jax.training.steps import make_train_step
from spnas_jax.training.train_state import TrainState
from spnas_jax.training.trained import training_parts

SYNCHRONISED = (
  'synchronised batch norm needs the statistics of every norm summed before '
  'the next layer can start, forward and backward, hence the many small '
  'all-reduces; {step}.sync_batch_norm=False needs one for the whole step'
)


def prepare(config: ConfigDict, workdir: Workdir) -> Task:
  """Compiles `compile.step` for `compile.topology`.

  Raises:
    UserError: there is no such topology, or the batch does not split over it.
  """
  c = config.compile
  devices = tpu_devices(c.topology)
  batch_size = config[c.step].batch_size
  if batch_size % len(devices):
    raise UserError(
      f'{c.step}.batch_size is {batch_size}, must be a multiple of the '
      f'{len(devices)} devices of {c.topology!r}'
    )
  extra: dict[str, Any] = {'libtpu': importlib.metadata.version('libtpu')}
  if c.step == 'train':
    program, extra['architecture'] = train_program(config, workdir)
  else:
    program = search_program(config)
  fields = ('dataset', 'space', c.step, 'compile', 'processes.mapping')
  inputs = stage_inputs(config, *fields, versions=extra)
  return Task(
    inputs, lambda: _compile(config, program, devices), _spell, claim={}
  )


run = stage('compile', prepare)


def _compile(
  config: ConfigDict, program: Program, devices: list[Any]
) -> dict[str, Any]:
  c = config.compile
  recipe, kind = config[c.step], devices[0].device_kind
  share = recipe.batch_size // len(devices)
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
    'mapping': config.processes.mapping,
    'dtype': recipe.dtype,
    'libtpu': importlib.metadata.version('libtpu'),
    **describe(try_batch(program, devices, share), kind),
  }
  if recipe.sync_batch_norm:
    result['note'] = SYNCHRONISED.format(step=c.step)
  if c.find_largest_batch:
    result |= find_largest_batch((program,), devices, share)
  return result


def search_program(config: ConfigDict) -> Program:
  """The search step of a configuration."""
  search = make_search(config, SearchProblem.of(config))
  state = jax.eval_shape(functools.partial(blank_state, search, config))
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


def _spell(r: dict[str, Any]) -> list[str]:
  """The result in a few lines."""
  if r['temp_bytes_per_device'] is None:
    needed = r['needed_bytes_per_device']
    amount = '' if needed is None else f': {needed / GIB:.2f} GiB needed'
    lines = [f'{r["topology"]}: does not fit{amount}']
  else:
    seconds, memory = r['estimated_step_seconds'], r['memory_bytes_per_device']
    available = '' if memory is None else f' of {memory / GIB:.2f}'
    lasting = '' if seconds is None else f', {seconds:.3g} s a step'
    millions = r['estimated_cycles'] / 1e6
    cycles = f'{millions:,.0f}' if millions > 100 else f'{millions:.3g}'
    lines = [
      f'{r["topology"]}, global batch {r["global_batch"]}, each device: '
      f'{r["temp_bytes_per_device"] / GIB:.2f} GiB of temporaries, '
      f'{r["peak_bytes_per_device"] / GIB:.2f}{available} GiB in all '
      f'({"fits" if r["fits"] else "does not fit"}); {r["num_all_reduces"]} '
      f'all-reduces of {r["all_reduce_bytes"] / 1e6:.1f} MB; estimated '
      f'{cycles} M cycles{lasting}; compiled '
      f'in {r["compile_seconds"]:.0f} s'
    ]
    if kinds := r.get('cycles_by_kind'):  # A result of before has none.
      most = list(kinds.items())[:5]
      shares = (f'{kind} {n / r["estimated_cycles"]:.0%}' for kind, n in most)
      lines.append(f'cycles: {", ".join(shares)}')
    lines += [r['note']] if 'note' in r else []
  if 'largest_batch_per_device' in r:
    largest = r['largest_batch_per_device']
    lines.append(f'largest batch that fits: {largest} images a device')
  return lines
