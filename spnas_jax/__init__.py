"""Single-Path NAS in JAX/Flax: a mobile ConvNet for a device and a latency.

What notebooks and scripts need is here, imported when it is first used:

  Architecture   one network, completely described
  SearchSpace    which networks a supernet contains
  ConvNet        an architecture as a Flax module
  SuperNet       a search space as one
  LatencyTable   milliseconds of a device
  zoo            known networks: `zoo.get('mobilenet_v2')`, `zoo.names()`
  to_tflite      a network as a TFLite model
  load_config    a configuration by name or path
  run            a stage, as the command line runs it
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = '0.2.0'

# name -> module that has it, or is it.
_PUBLIC = {
  'Architecture': 'networks.architecture',
  'SearchSpace': 'networks.space',
  'zoo': 'networks.zoo',
  'ConvNet': 'models.convnet',
  'SuperNet': 'models.supernet',
  'LatencyTable': 'latency.table',
  'to_tflite': 'export.network',
  'load_config': 'config.files',
  'run': 'stage_runs',
}
__all__ = ['__version__', *_PUBLIC]


def __getattr__(name: str) -> Any:
  """Imports a public name on first use: `import spnas_jax` stays light."""
  if name not in _PUBLIC:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module = importlib.import_module(f'{__name__}.{_PUBLIC[name]}')
  return module if name == 'zoo' else getattr(module, name)


def __dir__() -> list[str]:
  return sorted(__all__)
