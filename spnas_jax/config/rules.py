"""Which configuration values are allowed, checked before anything runs."""

from __future__ import annotations

import math
from typing import Any

from ml_collections import ConfigDict

from spnas_jax.core.errors import UserError
from spnas_jax.networks import zoo
from spnas_jax.networks.architecture import (
  ACTIVATIONS,
  EPSILONS,
  STEM_KERNELS,
)
from spnas_jax.networks.block import MAX_CHANNELS

# Limits that nobody needs, but up to which everything can be counted; what
# only scales a loss may be any finite number: a run that diverges says so.
MAX_EPOCHS = 1e6
MANY = 100_000
MAX_INT = 2**31 - 1
MAX_LAYERS = 200  # Of all stages together.
DAY = 86_400.0  # Seconds.
# Of the models that are exported and timed.
PRECISIONS = ('float32', 'float16', 'int8')

_RECIPE_RANGES = {
  'epochs': (0, MAX_EPOCHS),
  'batch_size': (1, 2**24),
  'learning_rate': (0, math.inf),
  'lr_warmup_epochs': (0, MAX_EPOCHS),
  'decay_rate': (0, 1),
  'decay_epochs': (1e-9, MAX_EPOCHS),
  'weight_decay': (0, math.inf),
  'label_smoothing': (0, 0.999),
  'dropout': (0, 0.999),
  'ema_decay': (0, 1),
  'batch_norm_batches': (1, MANY),
  'log_every_steps': (1, MAX_INT),
  'trace_step': (0, MAX_INT),
  'trace_steps': (1, 1000),
  'checkpoint_epochs': (1e-9, MAX_EPOCHS),
}
RANGES: dict[str, tuple[float, float]] = {
  **{f'search.{k}': v for k, v in _RECIPE_RANGES.items()},
  **{f'train.{k}': v for k, v in _RECIPE_RANGES.items()},
  'seed': (0, 2**31 - 1),
  'processes.count': (1, MANY),
  'processes.index': (0, MANY),
  'space.width': (0.05, 20),
  'space.stem_kernel': (1, STEM_KERNELS[-1]),
  'space.stem_stride': (1, 2),
  'space.stem_channels': (1, MAX_CHANNELS),
  'space.head_channels': (0, MAX_CHANNELS),
  'space.batch_norm_momentum': (0, 0.999999),
  'space.batch_norm_epsilon': EPSILONS,
  'search.target_fraction': (0, 1),
  'search.lambda_': (0, math.inf),
  'search.warmup_epochs': (0, MAX_EPOCHS),
  'search.keep_probability': (1e-3, 1),
  'search.max_kb': (0, math.inf),
  'search.temperature_start': (1e-3, 100),
  'search.temperature_end': (1e-3, 100),
  'search.threshold_travel': (0, math.inf),
  'search.logit_limit': (1e-3, 80),
  'search.controller.ramp': (0, 1),
  'search.controller.limit': (0, math.inf),
  'search.slack': (0, 1),
  'search.evolution.population': (2, MANY),
  'search.evolution.generations': (0, MANY),
  'search.evolution.mutation': (0, 1),
  'search.evolution.images': (1, MAX_INT),
  'search.evolution.front_points': (0, 1000),
  'search.curve_points': (0, 1000),
  'search.worth.networks': (3, MANY),
  'search.worth.images': (1, MAX_INT),
  'ablate.contexts': (1, MANY),
  'ablate.images': (1, MAX_INT),
  'ablate.num_networks': (2, MANY),
  'ablate.ranking_images': (1, MAX_INT),
  'train.mixup': (0, 100),
  'train.freeze_epochs': (0, MAX_EPOCHS),
  'train.backbone_rate': (0, 1),
  'evaluate.batch_size': (1, MAX_INT),
  'export.calibration_images': (1, MAX_INT),
  'export.check_images': (1, MAX_INT),
  'export.batch_size': (0, 1024),
  'profile.threads': (1, 256),
  'profile.warmup_runs': (0, MANY),
  'profile.rounds': (1, MANY),
  'profile.runs_per_round': (1, MANY),
  'profile.cooldown_seconds': (0, DAY),
  'profile.timeout_seconds': (1e-3, DAY),
  'predict.top_k': (1, MANY),
  'build_table.calibration_networks': (0, MANY),
  'build_table.rounds': (1, MANY),
  'build_table.runs_per_round': (1, MANY),
  'build_table.warmup_runs': (0, MANY),
  'validate_table.num_networks': (1, MANY),
  'validate_table.rounds': (1, MANY),
  'validate_table.runs_per_round': (1, MANY),
  'validate_table.warmup_runs': (0, MANY),
  'random_search.num_networks': (1, MANY),
  'random_search.curve_networks': (0, MANY),
  'random_search.band': (1e-6, 1),
  'compare.rounds': (0, MANY),
  'compare.warmup_steps': (0, MANY),
  'compare.epochs': (0, MAX_EPOCHS),
}
TRAIN_INIT = (
  "'scratch', 'inherit', the path of an .npz file, a workdir with a finished "
  'training'
)
# Methods that decide after a supernet was trained, which may be another's.
SHARED_SUPERNET = ('evolution', 'worth')
MULTI_PATH = ('fbnet', 'darts', 'proxyless')
ABLATE_PARTS = ('kernels', 'gates', 'ranking')
RUNTIME_FORMS = ('exact', 'factorised')
GATES = ('sampled', 'official', 'paper')
_RECIPE_CHOICES = {
  'optimizer': ('rmsprop', 'sgd', 'adamw'),
  'schedule': ('cosine', 'exponential', 'constant'),
  'class_balance': ('', 'loss'),
  'dtype': ('float32', 'bfloat16'),
}
CHOICES: dict[str, tuple[str, ...]] = {
  **{f'search.{k}': v for k, v in _RECIPE_CHOICES.items()},
  **{f'train.{k}': v for k, v in _RECIPE_CHOICES.items()},
  'device': ('host', 'adb', 'ssh', 'files'),
  'processes.mapping': ('pmap', 'shard_map'),
  'build_table.precision': PRECISIONS,
  'profile.delegate': ('xnnpack', 'none', 'gpu', 'nnapi'),
  'space.activation': ACTIVATIONS,
  'search.method': ('gradient', *SHARED_SUPERNET),
  'search.gates': GATES,
  'search.runtime_form': ('', *RUNTIME_FORMS),
  'search.gate_samples': ('shared', 'per_device'),
  'evaluate.split': ('test', 'validation'),
  'export.output': ('logits', 'probabilities'),
  'export.integers': ('uint8', 'int8'),
  'compile.step': ('search', 'train'),
}
# Of these each key holds several.
CHOICES_OF_EACH: dict[str, tuple[str, ...]] = {
  'ablate.parts': ABLATE_PARTS,
  'compare.methods': ('single_path', *MULTI_PATH),
  'compare_zoo.networks': tuple(zoo.names()),
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
  _check_ranges(config)
  _check_choices(config)
  _check_finite('', config)
  _check_space(config.space)
  _check_several(config)
  _check_search(config.search)
  _check_train(config.train)


def _check_ranges(config: ConfigDict) -> None:
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


def _check_choices(config: ConfigDict) -> None:
  for field, allowed_names in CHOICES.items():
    value = get(config, field)
    if value not in allowed_names:
      names = ', '.join(repr(name) for name in allowed_names)
      raise UserError(f'{field} is {value!r}, allowed: {names}')
  for field, allowed_names in CHOICES_OF_EACH.items():
    for name in get(config, field):
      if name not in allowed_names:
        names = ', '.join(repr(name) for name in allowed_names)
        raise UserError(f'{field} has {name!r}, allowed: {names}')


def _check_several(config: ConfigDict) -> None:
  """Refuses numbers of keys that hold several."""
  seeds, (low, high) = config.random_search.train_seeds, RANGES['seed']
  if not seeds or not all(low <= seed <= high for seed in seeds):
    raise UserError(
      f'random_search.train_seeds is {seeds}, allowed: one or more whole '
      f'numbers from {low} to {high}'
    )
  for path in config.report.workdirs:
    if not isinstance(path, str):
      raise UserError(
        f'report.workdirs has {path!r}, allowed: paths of workdirs'
      )
  for key in ('widths', 'found_widths'):
    for width in config.compare_zoo[key]:
      if not 0.05 <= width <= 20:
        raise UserError(f'compare_zoo.{key} has {width}, allowed: 0.05 to 20')


def _check_search(c: ConfigDict) -> None:
  """Refuses values of section `search` that do not fit each other."""
  fall = c.temperature_fall
  if len(fall) != 2 or not 0 <= fall[0] <= fall[1] <= 1:
    raise UserError(
      f'search.temperature_fall is {fall}, allowed: two ascending '
      'fractions from 0 to 1: 0.05 for 5%'
    )
  start, end = c.temperature_start, c.temperature_end
  if end > start:
    raise UserError(
      f'search.temperature_end is {end}, allowed: up to '
      f'search.temperature_start, {start}'
    )
  if c.warmup_epochs > c.epochs:
    raise UserError(
      f'search.warmup_epochs is {c.warmup_epochs}, allowed: 0 to '
      f'search.epochs, {c.epochs}'
    )

  supernet = c.evolution.supernet
  if c.init and c.method in SHARED_SUPERNET and supernet:
    raise UserError(
      f"search.init is {c.init!r}, allowed: '' where "
      f'search.evolution.supernet is set ({supernet!r}): no supernet is trained'
    )
  for key in ('targets_ms', 'curve_points'):
    if c[key] and c.method != 'worth':
      raise UserError(
        f'search.{key} is {c[key]}, allowed with search.method worth only, '
        'whose supernet serves more than one target'
      )
  for target in c.targets_ms:
    # An empty default says nothing of the type.
    if isinstance(target, bool) or not isinstance(target, (int, float)):
      raise UserError(f'search.targets_ms has {target!r}, allowed: numbers, ms')
  if c.targets_ms and c.curve_points:
    raise UserError(
      f'search.targets_ms is {tuple(c.targets_ms)} and search.curve_points is '
      f'{c.curve_points}, allowed: one of them'
    )


def _check_train(c: ConfigDict) -> None:
  """Refuses values of section `train` that do not fit each other."""
  if 0 < c.mixup < 1e-3:  # Where Beta is not a number in float32.
    raise UserError(f'train.mixup is {c.mixup}, allowed: 0, or 0.001 to 100')
  if not c.init:
    raise UserError(f'train.init is {c.init!r}, allowed: {TRAIN_INIT}')
  for key, plain in (('freeze_epochs', 0), ('backbone_rate', 1)):
    if c[key] != plain and c.init == 'scratch':
      raise UserError(
        f"train.{key} is {c[key]}, allowed: {plain} with train.init 'scratch', "
        'whose weights have learned nothing; name weights in train.init'
      )
  if c.freeze_epochs > c.epochs:
    raise UserError(
      f'train.freeze_epochs is {c.freeze_epochs}, allowed: 0 to train.epochs, '
      f'{c.epochs}'
    )


def _check_finite(field: str, value: Any) -> None:
  """Refuses numbers that are infinite or not a number, wherever they are."""
  if isinstance(value, ConfigDict):
    for key in value:
      _check_finite(f'{field}.{key}' if field else key, value[key])
  elif isinstance(value, (tuple, list)):
    for element in value:
      _check_finite(field, element)
  elif isinstance(value, float) and not math.isfinite(value):
    raise UserError(f'{field} is {value}, allowed: finite numbers')


def _check_space(c: ConfigDict) -> None:
  """Refuses values of section `space` that no network can have."""
  for key, most in (
    ('channels', MAX_CHANNELS),
    ('layers', MAX_LAYERS),
    ('strides', 2),
  ):
    if not c[key] or not all(1 <= value <= most for value in c[key]):
      raise UserError(
        f'space.{key} is {c[key]}, allowed: one or more whole numbers above 0, '
        f'up to {most}'
      )
  if sum(c.layers) > MAX_LAYERS:
    raise UserError(
      f'space.layers is {c.layers}, allowed: up to {MAX_LAYERS} in all'
    )
  if c.stem_kernel not in STEM_KERNELS:
    raise UserError(f'space.stem_kernel is {c.stem_kernel}, allowed: odd')
