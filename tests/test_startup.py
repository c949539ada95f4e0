"""Keys and types of a config file, before anything is run by them."""

import pytest

from spnas_jax import startup
from spnas_jax.config import defaults as config_lib
from spnas_jax.config import rules as config_rules
from spnas_jax.core.errors import UserError


@pytest.mark.parametrize(
  ('field', 'value', 'words'),
  [
    ('train.epoch', 3.0, 'did you mean train.epochs?'),
    ('search', 3, 'type config section'),
    ('search.epochs', '3', 'type float'),
    ('search.target_ms', True, 'type float'),
    ('seed', 1.0, 'type int'),
    ('seed', None, 'type int'),
    ('device', 1, 'type str'),
    ('space.layers', 3, 'type tuple'),
    ('space.layers', (3, 3.5), 'an element of space.layers is 3.5'),
    ('space.kernels', ((3, 5), (3, '7')), 'an element of space.kernels'),
  ],
)
def test_a_config_file_cannot_set_what_is_not_there(field, value, words):
  """A config file may set any attribute; a typo must not pass silently."""
  config = config_lib.default_config().copy_and_resolve_references()
  section, _, key = field.rpartition('.')
  target = config_rules.get(config, section) if section else config
  with target.ignore_type():
    target[key] = value
  with pytest.raises(UserError) as e:
    startup.check_keys(config, config_lib.default_config())
  assert words in str(e.value) and field in str(e.value)


def test_a_config_file_must_have_every_key():
  config = config_lib.default_config()
  startup.check_keys(config, config_lib.default_config())
  del config.train['epochs']
  with pytest.raises(UserError, match=r'train\.epochs is missing'):
    startup.check_keys(config, config_lib.default_config())
