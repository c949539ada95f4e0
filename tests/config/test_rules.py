"""Ranges and choices of every key."""

import numpy as np
import pytest
import tiny_run

from spnas_jax.config import defaults as config_lib
from spnas_jax.config import rules as config_rules
from spnas_jax.core.errors import UserError
from spnas_jax.data import datasets


@pytest.mark.parametrize('field', sorted(config_rules.RANGES))
def test_every_range_is_enforced(field):
  """Just inside both ends is accepted, just outside is refused by name."""
  low, high = config_rules.RANGES[field]
  section, _, key = field.rpartition('.')

  def check(value):
    config = tiny_run.get_config()
    target = config_rules.get(config, section) if section else config
    target[key] = value
    config_rules.check(config)

  kind = config_lib.default_config()
  kind = (config_rules.get(kind, section) if section else kind).get_type(key)
  step = 1 if kind is int else 1e-3
  wrong = [kind(low - step)]
  if np.isfinite(high):
    wrong.append(kind(high + step))
  if kind is float:
    wrong += [float('nan'), float('inf')]
  for value in wrong:
    with pytest.raises(UserError, match=rf'^{field} is .*allowed: '):
      check(value)
  # Must not be below the warm-up, or the temperature at the end, either.
  # A factor for given weights needs some.
  if field not in (
    'search.epochs',
    'search.temperature_start',
    'train.backbone_rate',
  ):
    check(kind(low))


@pytest.mark.parametrize('field', sorted(config_rules.CHOICES))
def test_every_choice_is_enforced(field):
  section, _, key = field.rpartition('.')
  for value in (*config_rules.CHOICES[field], 'something else'):
    config = tiny_run.get_config()
    (config_rules.get(config, section) if section else config)[key] = value
    if value == 'something else':
      with pytest.raises(UserError, match=rf'^{field} is .*allowed: '):
        config_rules.check(config)
    else:
      config_rules.check(config)


def test_fine_tuning_needs_weights_and_ends():
  """Keys for given weights are refused from scratch; freezing is a part of
  the training."""
  config = tiny_run.get_config()
  config.train.update(init='somewhere', backbone_rate=0.1, freeze_epochs=4.0)
  config_rules.check(config)
  config.train.freeze_epochs = 4.5
  with pytest.raises(UserError, match=r'freeze_epochs is 4.5.*train.epochs, 4'):
    config_rules.check(config)
  config.train.update(init='scratch', freeze_epochs=4.0)
  for key in ('freeze_epochs', 'backbone_rate'):
    with pytest.raises(UserError, match=f"^train.{key} is .*'scratch'"):
      config_rules.check(config)
    config.train.freeze_epochs = 0.0
  config.train.backbone_rate = 1.0
  config_rules.check(config)


def test_one_supernet_at_a_time():
  config = tiny_run.get_config()
  config.search.update(method='evolution', init='there')
  config_rules.check(config)
  config.search.evolution.supernet = 'elsewhere'
  with pytest.raises(UserError, match=r"^search.init is 'there', allowed: ''"):
    config_rules.check(config)


@pytest.mark.parametrize(
  ('field', 'value', 'words'),
  [
    ('search.temperature_fall', (0.9, 0.2), 'ascending'),
    ('search.temperature_fall', (0.1, 0.2, 0.3), 'two'),
    ('space.layers', (0, 2), 'above 0'),
    ('space.channels', (-8, 12), 'above 0'),
    ('space.strides', (), 'one or more'),
    ('ablate.parts', ('everything',), "'kernels'"),
    ('compare.methods', ('magic',), "'single_path'"),
    ('compare_zoo.networks', ('mobilnet',), 'mobilenet_v2'),
    ('compare_zoo.widths', (0.0,), '0.05 to 20'),
    ('search.warmup_epochs', 5.0, 'search.epochs, 4.0'),
    ('train.init', '', "'scratch', 'inherit'"),
    ('dataset.holdout', 1.0, '0 to below 1'),
    ('dataset.image_size', 0, '1 or more'),
    ('dataset.train_examples', -1, '0 or more'),
    ('dataset.interpolation', 'cubic', 'bicubic'),
  ],
)
def test_other_rules_are_enforced(field, value, words):
  config = tiny_run.get_config()
  section, _, key = field.rpartition('.')
  config_rules.get(config, section)[key] = value
  with pytest.raises(UserError, match=words) as e:
    config_rules.check(config)
    datasets.check(config.dataset)
  assert field in str(e.value)
