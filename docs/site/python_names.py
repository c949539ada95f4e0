"""The public names of the package, for mkdocstrings."""

from __future__ import annotations

import spnas_jax

# Modules are shown with what they define.
_MEMBERS = {'zoo': ['get', 'names', 'listing']}


def markdown() -> str:
  """A heading and a directive for each name of `spnas_jax.__all__`."""
  return '\n\n'.join(_directive(name) for name in spnas_jax._PUBLIC)


def _directive(name: str) -> str:
  module = f'spnas_jax.{spnas_jax._PUBLIC[name]}'
  path = module if name in _MEMBERS else f'{module}.{name}'
  options = '    options:\n      show_root_heading: false\n'
  if name in _MEMBERS:
    options += f'      members: {_MEMBERS[name]}\n'
  return f'## {name}\n\n`spnas_jax.{name}`\n\n::: {path}\n{options}'
