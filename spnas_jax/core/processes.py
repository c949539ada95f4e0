"""Which processes run together; joined before JAX looks for devices."""

from __future__ import annotations

import os

import jax
from ml_collections import ConfigDict

from spnas_jax.core.errors import UserError

_NAMES = 'JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID'


def join(named: ConfigDict | None = None) -> None:
  """Joins the other processes of a run, if there are any.

  Those that the configuration or the environment names, or those that JAX's
  own cluster detection finds: a TPU slice on Google's Compute or Kubernetes
  Engine, Slurm, Open MPI. On a machine without a cluster nothing is contacted.

  Args:
    named: section `processes`; None, or without a coordinator = not named here.

  Raises:
    UserError: the keys or variables that name the processes are incomplete,
      or there are devices of several processes that could not be joined.
  """
  if jax.distributed.is_initialized():
    return
  if named is not None and named.coordinator:
    jax.distributed.initialize(*_checked(named))
  elif os.environ.get('JAX_COORDINATOR_ADDRESS'):
    jax.distributed.initialize(*_named())
  # With CPUs only, processes are always named.
  elif os.environ.get('JAX_PLATFORMS') != 'cpu' and _detected() > 1:
    jax.distributed.initialize()
  if jax.process_count() > 1 and not jax.distributed.is_initialized():
    raise UserError(
      f'this machine is one of {jax.process_count()} that share their devices, '
      f'but no cluster was found to join; set {_NAMES} on each of them'
    )


def _checked(named: ConfigDict) -> tuple[str, int, int]:
  """The three, if they can be right."""
  host, _, port = named.coordinator.rpartition(':')
  if not host or not port.isdigit():
    raise UserError(
      f'processes.coordinator is {named.coordinator!r}, allowed: HOST:PORT of '
      'process 0'
    )
  if named.index >= named.count:
    raise UserError(
      f'processes.index is {named.index}, allowed: 0 to {named.count - 1}, one '
      f'less than processes.count'
    )
  return named.coordinator, named.count, named.index


def _named() -> tuple[str, int, int]:
  """Address of process 0, number of processes, number of this one."""
  try:
    count, index = (
      int(os.environ[name]) for name in ('JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
    )
  except (KeyError, ValueError) as e:
    raise UserError(
      'JAX_COORDINATOR_ADDRESS is set, so JAX_NUM_PROCESSES and '
      f'JAX_PROCESS_ID must be whole numbers ({e})'
    ) from e
  return os.environ['JAX_COORDINATOR_ADDRESS'], count, index


def _detected() -> int:
  """Processes of the cluster that `jax.distributed.initialize` would join.

  JAX has no public function that finds them without joining. Where detection
  fails, the answer is 1: a slice that is missed is refused by `join`.
  """
  try:
    from jax._src.clusters import ClusterEnv

    for environment in ClusterEnv._cluster_types:
      if not environment.opt_in_only_method and environment.is_env_present():
        return environment.get_process_count()
  except Exception as e:  # Whatever a metadata server or another JAX raises.
    print(f'no cluster is joined: detection failed ({e})')
  return 1
