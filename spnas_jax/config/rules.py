"""Which configuration values are allowed, checked before anything runs."""

from __future__ import annotations

import math
from typing import Any

from ml_collections import ConfigDict

from spnas_jax.core.errors import UserError
from spnas_jax.networks import zoo

_RECIPE_RANGES = {
  'epochs': (0, math.inf),
  'batch_size': (1, math.inf),
  'learning_rate': (0, math.inf),
  'lr_warmup_epochs': (0, math.inf),
  'decay_rate': (0, 1),
  'decay_epochs': (1e-9, math.inf),
  'weight_decay': (0, math.inf),
  'label_smoothing': (0, 0.999),
  'dropout': (0, 0.999),
  'ema_decay': (0, 1),
  'batch_norm_batches': (1, math.inf),
  'log_every_steps': (1, math.inf),
  'checkpoint_epochs': (1e-9, math.inf),
}
RANGES: dict[str, tuple[float, float]] = {
  **{f'search.{k}': v for k, v in _RECIPE_RANGES.items()},
  **{f'train.{k}': v for k, v in _RECIPE_RANGES.items()},
  'seed': (0, 2**31 - 1),
  'space.width': (0.05, 20),
  'space.stem_channels': (1, math.inf),
  'space.head_channels': (0, math.inf),
  'search.target_fraction': (0, 1),
  'search.lambda_': (0, math.inf),
  'search.warmup_epochs': (0, math.inf),
  'search.keep_probability': (1e-3, 1),
  'search.temperature_start': (1e-3, 100),
  'search.temperature_end': (1e-3, 100),
  'search.threshold_travel': (0, math.inf),
  'search.logit_limit': (1e-3, 80),
  'search.controller.ramp': (0, 1),
  'search.controller.limit': (0, math.inf),
  'search.slack': (0, 1),
  'search.evolution.population': (2, math.inf),
  'search.evolution.generations': (0, math.inf),
  'search.evolution.mutation': (0, 1),
  'search.evolution.images': (1, math.inf),
  'search.evolution.front_points': (0, math.inf),
  'ablate.contexts': (1, math.inf),
  'ablate.images': (1, math.inf),
  'ablate.num_networks': (2, math.inf),
  'ablate.ranking_images': (1, math.inf),
  'train.mixup': (0, math.inf),
  'train.random_erasing': (0, 1),
  'evaluate.batch_size': (1, math.inf),
  'export.calibration_images': (1, math.inf),
  'export.check_images': (1, math.inf),
  'export.batch_size': (0, math.inf),
  'profile.threads': (1, 256),
  'profile.warmup_runs': (0, math.inf),
  'profile.rounds': (1, math.inf),
  'profile.runs_per_round': (1, math.inf),
  'profile.cooldown_seconds': (0, math.inf),
  'profile.timeout_seconds': (1e-3, math.inf),
  'build_table.calibration_networks': (0, math.inf),
  'build_table.rounds': (1, math.inf),
  'build_table.runs_per_round': (1, math.inf),
  'build_table.warmup_runs': (0, math.inf),
  'validate_table.num_networks': (1, math.inf),
  'validate_table.rounds': (1, math.inf),
  'validate_table.runs_per_round': (1, math.inf),
  'validate_table.warmup_runs': (0, math.inf),
  'random_search.num_networks': (1, math.inf),
  'random_search.band': (1e-6, 1),
  'compare.rounds': (0, math.inf),
  'compare.warmup_steps': (0, math.inf),
  'compare.epochs': (0, math.inf),
}
_RECIPE_CHOICES = {
  'optimizer': ('rmsprop', 'sgd', 'adamw'),
  'schedule': ('cosine', 'exponential', 'constant'),
  'dtype': ('float32', 'bfloat16'),
}
CHOICES: dict[str, tuple[str, ...]] = {
  **{f'search.{k}': v for k, v in _RECIPE_CHOICES.items()},
  **{f'train.{k}': v for k, v in _RECIPE_CHOICES.items()},
  'device': ('host', 'adb'),
  'space.activation': ('relu', 'relu6'),
  'search.method': ('gradient', 'evolution'),
  'search.gates': ('sampled', 'official', 'paper'),
  'search.runtime_form': ('', 'exact', 'factorised'),
  'search.gate_samples': ('shared', 'per_device'),
  'evaluate.split': ('test', 'validation'),
  'compile.step': ('search', 'train'),
}


def get(config: ConfigDict, field: str) -> Any:
  """Value of 'a.b.c'."""
  value = config
  for part in field.split('.'):
    value = value[part]
  return value


def check(config: ConfigDict) -> None:
  """Refuses values that are out of range.

  Raises:
    UserError: one line with field, value and what is allowed.
  """
  for field, (low, high) in RANGES.items():
    value = get(config, field)
    if value is None:
      continue
    if not (math.isfinite(value) and low <= value <= high):
      allowed = (
        f'{low:g} or more' if high == math.inf else f'{low:g} to {high:.10g}'
      )
      if high <= 1:
        allowed += ', a fraction: 0.05 for 5%'
      raise UserError(f'{field} is {value}, allowed: {allowed}')
  for field, allowed_names in CHOICES.items():
    value = get(config, field)
    if value not in allowed_names:
      names = ', '.join(repr(name) for name in allowed_names)
      raise UserError(f'{field} is {value!r}, allowed: {names}')
  init = config.train.init
  if init not in ('scratch', 'inherit') and not init.endswith('.npz'):
    raise UserError(
      f"train.init is {init!r}, allowed: 'scratch', 'inherit', the path of an "
      '.npz file'
    )
  for key in ('channels', 'layers', 'strides'):
    if not config.space[key] or min(config.space[key]) < 1:
      raise UserError(
        f'space.{key} is {config.space[key]}, allowed: one or more whole '
        'numbers above 0'
      )
  for part in config.ablate.parts:
    if part not in ('kernels', 'gates', 'ranking'):
      raise UserError(
        f"ablate.parts has {part!r}, allowed: 'kernels', 'gates', 'ranking'"
      )
  methods = ('single_path', 'fbnet', 'darts', 'proxyless')
  for method in config.compare.methods:
    if method not in methods:
      names = ', '.join(repr(name) for name in methods)
      raise UserError(f'compare.methods has {method!r}, allowed: {names}')
  for name in config.compare_zoo.networks:
    if name not in zoo.names():
      raise UserError(
        f'compare_zoo.networks has {name!r}, allowed: {", ".join(zoo.names())}'
      )
  for key in ('widths', 'found_widths'):
    for width in config.compare_zoo[key]:
      if not 0.05 <= width <= 20:
        raise UserError(f'compare_zoo.{key} has {width}, allowed: 0.05 to 20')
  fall = config.search.temperature_fall
  if len(fall) != 2 or not 0 <= fall[0] <= fall[1] <= 1:
    raise UserError(
      f'search.temperature_fall is {fall}, allowed: two ascending '
      'fractions from 0 to 1: 0.05 for 5%'
    )
  if config.search.warmup_epochs > config.search.epochs:
    raise UserError(
      f'search.warmup_epochs is {config.search.warmup_epochs}, allowed: 0 to '
      f'search.epochs, {config.search.epochs}'
    )
