"""What each stage says of itself: the docstrings of `spnas_jax.stages`."""

from __future__ import annotations

import ast
import pathlib
import re

from spnas_jax import stage_runs

_STAGES = pathlib.Path(stage_runs.__file__).parent / 'stages'


def markdown() -> str:
  """A heading and a docstring for each stage, in the order of `STAGES`."""
  return '\n\n'.join(
    f'### {name}\n\n{_described(name)}' for name in stage_runs.STAGES
  )


def _described(name: str) -> str:
  text = ast.get_docstring(ast.parse((_STAGES / f'{name}.py').read_text()))
  assert text, f'stage {name} has no docstring'
  text = re.sub(r'^Stage `\w+`: ', '', text)
  return text[0].upper() + text[1:]
