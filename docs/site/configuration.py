"""Every configuration key: comment, type, default, and what is allowed.

Comments are read from the source of the defaults, values from the configuration
itself, ranges and choices from the checks. Where a check has no range that can
be read, it is given a wrong value and its own words are quoted.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
import types
from collections.abc import Iterator

from ml_collections import ConfigDict

from spnas_jax import startup
from spnas_jax.config import defaults, rules
from spnas_jax.config.spaces import make_space
from spnas_jax.core.errors import UserError
from spnas_jax.data import datasets, pixel_statistics

RECIPE = ('search', 'train')


@dataclasses.dataclass(frozen=True)
class Group:
  """Keys that one comment is about.

  Attributes:
    comment: its text, in one line.
    keys: full names, as in 'search.target_ms'.
  """

  comment: str
  keys: tuple[str, ...]


def markdown() -> str:
  """The keys, section by section."""
  parts: list[str] = []
  for title, groups in sections():
    parts.append(f'## {title}')
    parts += [_entry(group) for group in groups]
  return '\n\n'.join(parts)


def sections() -> list[tuple[str, list[Group]]]:
  """(title, groups) of the configuration; what two sections share is first."""
  top: list[Group] = []
  found = [('At the top', top)]
  shared = _groups(defaults, '_recipe')
  common = [
    Group(g.comment, tuple(f'{s}.{k}' for k in g.keys for s in RECIPE))
    for g in shared
  ]
  for group in _groups(defaults, 'default_config'):
    (name, *_), section = group.keys, defaults.default_config()
    if not isinstance(section[name], ConfigDict) or group.comment:
      top.append(group)
      continue
    if name == RECIPE[0]:
      found.append((' and '.join(RECIPE), common))
    own = (
      _groups(datasets, 'default_config')
      if name == 'dataset'
      else _groups(defaults, f'_{name}')
    )
    only = ' alone' if name in RECIPE else ''
    found.append(
      (
        f'{name}{only}',
        [Group(g.comment, tuple(f'{name}.{k}' for k in g.keys)) for g in own],
      )
    )
  return found


def _groups(module: types.ModuleType, function: str) -> list[Group]:
  """Keys that a function sets, by the comment above them.

  A key without a comment of its own belongs to the comment before it.
  """
  lines = inspect.getsource(module).splitlines()
  tree = ast.parse('\n'.join(lines))
  (body,) = (
    n.body
    for n in tree.body
    if isinstance(n, ast.FunctionDef) and n.name == function
  )
  groups: list[Group] = []
  for node in body:
    if not isinstance(node, ast.Assign):
      continue
    (target,) = node.targets
    if not isinstance(target, ast.Attribute):
      continue
    comment = ' '.join(_comment_above(lines, node.lineno))
    keys = tuple(_keys(target.attr, node.value))
    plain = isinstance(node.value, ast.Call) and keys == (target.attr,)
    if not comment and groups and not (plain and _is_section(node.value)):
      comment = groups[-1].comment
      keys = groups.pop().keys + keys
    groups.append(Group(comment, keys))
  return groups


def _is_section(call: ast.Call) -> bool:
  """Whether it is `_space()` or `datasets.default_config()`."""
  return not call.args and not call.keywords


def _keys(name: str, value: ast.expr) -> Iterator[str]:
  """The key, or those of a section that is written as a dictionary."""
  nested = isinstance(value, ast.Call) and value.args
  if nested and isinstance(value.args[0], ast.Dict):
    for key in value.args[0].keys:
      yield f'{name}.{ast.literal_eval(key)}'
  else:
    yield name


def _comment_above(lines: list[str], number: int) -> list[str]:
  """Lines of the comment that ends above line `number` (from 1)."""
  found: list[str] = []
  for line in reversed(lines[: number - 1]):
    if not line.lstrip().startswith('#'):
      break
    found.insert(0, line.strip().lstrip('#').strip())
  return found


def _entry(group: Group) -> str:
  """A definition list's entry: keys with facts as terms, then the comment."""
  config = defaults.default_config()
  terms = []
  for key in group.keys:
    facts = [_kind(config, key), f'default `{rules.get(config, key)!r}`']
    if allowed := allowed_values(key):
      facts.append(f'allowed: {allowed}')
    terms.append(f'**`{key}`**{{ #{key} }} {"; ".join(facts)}')
  return '\n'.join(terms) + f'\n:   {_prose(group.comment)}'


def _kind(config: ConfigDict, key: str) -> str:
  section, _, name = key.rpartition('.')
  kind = (rules.get(config, section) if section else config).get_type(name)
  words = {
    int: 'whole number',
    float: 'number',
    bool: 'True or False',
    str: 'text',
    tuple: 'tuple',
  }
  return words[kind]


def allowed_values(key: str) -> str:
  """What the checks allow for a key, '' where they allow all of its type."""
  section, _, name = key.rpartition('.')
  choices = {**rules.CHOICES, **rules.CHOICES_OF_EACH}.get(key)
  limits = rules.RANGES.get(key)
  if section == 'dataset':
    choices = datasets.CHOICES.get(name)
    limits = {**datasets.RANGES, **pixel_statistics.RANGES}.get(name)
  if choices:
    several = ', each' if key in rules.CHOICES_OF_EACH else ''
    return ', '.join(f'`{c!r}`' for c in choices) + several
  if limits:
    return _spell(*limits)
  return _own_words(key)


def _spell(low: float, high: float) -> str:
  if high == math.inf:
    return f'{low:g} or more'
  return f'{low:g} to {high:.10g}'


def _own_words(key: str) -> str:
  """What a check says of a value that cannot be right; '' if it takes it."""
  config = defaults.default_config()
  section, _, name = key.rpartition('.')
  target = rules.get(config, section) if section else config
  if target.get_type(name) is not tuple and section != 'dataset':
    return ''
  minus_one = {float: -1.0, int: -1}
  default = target[name]
  if isinstance(default, tuple):
    target[name] = (minus_one.get(type((*default, 0)[0]), -1),)
  elif type(default) in minus_one:
    target[name] = minus_one[type(default)]
  try:
    startup.check_values(config, defaults.default_config())
    make_space(config)
  except UserError as e:
    # A space names the stage that does not fit.
    words = re.sub(r'\.stages\[\d+\]', '', str(e))
    about, _, allowed = words.partition('allowed: ')
    return allowed.rstrip('.') if about.startswith(f'{key} ') else ''
  return ''


def _prose(comment: str) -> str:
  """A comment as Markdown: values as code, pages as links."""
  text = re.sub(r"(?<![\w`])'([^'`\s]*)'(?!\w)", r"`'\1'`", comment)
  text = re.sub(r'\bdocs/(\w+\.md)', r'[\1](\1)', text)
  # Outside of code.
  parts = re.split(r'(`[^`]*`|\]\([^)]*\))', text)
  parts[::2] = [re.sub(r'([*_<])', r'\\\1', part) for part in parts[::2]]
  return ''.join(parts)
