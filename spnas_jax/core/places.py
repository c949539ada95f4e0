"""Where the project's own files are, and where it keeps what it makes.

In a checkout, configs and tables are the folders at its root, and prepared data
and compiled programs stay inside it. An installed package carries configs and
tables with it and keeps the rest in the user's cache folder.
"""

from __future__ import annotations

import os
import pathlib

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
_ROOT = _PACKAGE.parent
_IN_CHECKOUT = (_ROOT / 'main.py').is_file() and (_ROOT / 'configs').is_dir()


def shipped(kind: str) -> pathlib.Path:
  """Folder of the files that come with the project: 'configs' or 'latency'."""
  return (_ROOT if _IN_CHECKOUT else _PACKAGE / 'shipped') / kind


def kept(kind: str) -> pathlib.Path:
  """Folder for what runs share: 'data' (prepared data sets) or 'jax' (compiled
  programs)."""
  if _IN_CHECKOUT:
    return _ROOT / ('data' if kind == 'data' else f'.cache/{kind}')
  cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(cache).expanduser() / 'spnas_jax' / kind
