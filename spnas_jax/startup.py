"""What happens before a stage: checks, processes, compilation cache."""

from __future__ import annotations

import os
import pathlib

from absl import logging
from ml_collections import ConfigDict

from spnas_jax import config as config_lib
from spnas_jax.workdir import Workdir

ROOT = pathlib.Path(__file__).resolve().parent.parent


def start(config: ConfigDict, workdir: str) -> tuple[ConfigDict, Workdir]:
  """Checks the configuration and prepares JAX.

  Raises:
    UserError: a value is not allowed, or the workdir cannot be used.
  """
  config_lib.check(config)
  logging.set_verbosity(logging.WARNING)
  prepare_jax()
  return config, Workdir(workdir)


def prepare_jax() -> None:
  """Joins the other processes, if any, and turns the compilation cache on."""
  import jax

  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    jax.config.update('jax_compilation_cache_dir', str(ROOT / '.cache' / 'jax'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  address = os.environ.get('JAX_COORDINATOR_ADDRESS')
  if address:
    jax.distributed.initialize(
      address,
      int(os.environ['JAX_NUM_PROCESSES']),
      int(os.environ['JAX_PROCESS_ID']),
    )
  elif ',' in os.environ.get('TPU_WORKER_HOSTNAMES', ''):
    jax.distributed.initialize()  # A pod slice: Cloud TPU knows the rest.
