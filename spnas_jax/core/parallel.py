"""The only place that knows about devices: mapping, placement, agreement.

The state is replicated, never stacked: it enters a step with `in_axes=None` and
leaves with `out_axes=None`, so the step sees and returns plain arrays. It must
be placed on all devices once (`replicate`), or the step compiles a second time
when it first meets its own output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = 'batch'

# How steps are mapped over devices, see `use`.
_mapping = 'pmap'


def use(mapping: str) -> None:
  """Chooses how steps are mapped over devices from now on.

  Args:
    mapping: 'pmap', or 'shard_map' = `jit` of `shard_map`, its successor.
  """
  global _mapping
  _mapping = mapping


def mapped_step(
  step: Callable, devices: Sequence[jax.Device] | None = None
) -> Any:
  """Maps step(state, batch) -> (state, metrics) over devices, None = all.

  `step` sees one device's share of the batch and must average what it returns
  over `AXIS`: nothing checks that replicas agree. The state is donated.

  Args:
    step: of one device.
    devices: of a platform that need not be there (`tpu_compiler`).
  """
  return _mapped(step, devices, donate_argnums=(0,))


def mapped_eval(step: Callable) -> Any:
  """Maps step(variables, batch) -> sums over `AXIS`; nothing is donated."""
  return _mapped(step, None, donate_argnums=())


def _mapped(
  step: Callable,
  devices: Sequence[jax.Device] | None,
  donate_argnums: tuple[int, ...],
) -> Any:
  if _mapping == 'pmap':
    return jax.pmap(
      step,
      axis_name=AXIS,
      in_axes=(None, 0),
      out_axes=None,
      donate_argnums=donate_argnums,
      devices=devices,
    )

  def shard(state: Any, batch: Any) -> Any:
    # A device holds [1, images, ...] of [devices, images, ...].
    return step(state, jax.tree.map(lambda x: x[0], batch))

  mapped = jax.jit(
    jax.shard_map(
      shard,
      mesh=Mesh(np.array(jax.devices() if devices is None else devices), AXIS),
      in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
      out_specs=PartitionSpec(),
      check_vma=False,
    ),
    donate_argnums=donate_argnums,
  )
  if jax.process_count() == 1:
    return mapped

  def across_processes(state: Any, batch: Any) -> Any:
    return to_local(mapped(to_global(state), to_global(batch, AXIS)))

  return across_processes


def average(tree: Any) -> Any:
  """Mean of a float32 tree over `AXIS`, all its vectors in one array.

  XLA merges the all-reduces of a step into one, but into one of at most 256
  arrays, which norms and their statistics alone would fill. On one device there
  is nothing to average, and joining the vectors would take a third of the
  step's compile time.
  """
  if lax.axis_size(AXIS) == 1:
    return tree
  leaves, structure = jax.tree.flatten(tree)
  short = [leaf.ndim < 2 for leaf in leaves]
  vectors, split = ravel_pytree(
    [x for x, s in zip(leaves, short, strict=True) if s]
  )
  long = [x for x, s in zip(leaves, short, strict=True) if not s]
  long, vectors = lax.pmean((long, vectors), AXIS)
  parts = {True: iter(split(vectors)), False: iter(long)}
  return jax.tree.unflatten(structure, [next(parts[s]) for s in short])


def replicated_sharding() -> NamedSharding:
  """Sharding of a state that is whole on each local device."""
  mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
  return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any) -> Any:
  """Places a tree on all local devices."""
  return jax.device_put(tree, replicated_sharding())


def to_global(tree: Any, *axes: str) -> Any:
  """Local arrays as arrays of all processes; nothing is copied.

  Args:
    tree: arrays on all local devices.
    *axes: AXIS where the first axis is shared out; nothing = replicated.
  """
  if jax.process_count() == 1:
    return tree
  return multihost_utils.host_local_array_to_global_array(
    tree, Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec(*axes)
  )


def to_local(tree: Any) -> Any:
  """The inverse of `to_global` for replicated arrays."""
  if jax.process_count() == 1:
    return tree
  return multihost_utils.global_array_to_host_local_array(
    tree, Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec()
  )


def all_devices_sharding() -> NamedSharding:
  """Sharding of a state that is whole on each device of each process."""
  return NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec())


def barrier(name: str) -> None:
  """Waits until every process has reached this point."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def check_divisible(batch_size: int) -> None:
  """Raises ValueError unless the global batch splits evenly over devices."""
  devices = jax.device_count()
  if batch_size % devices:
    raise ValueError(
      f'{batch_size}, must be a multiple of the {devices} devices'
    )


def replicas_agree(tree: Any) -> bool:
  """Whether all local replicas of every array are equal bit for bit."""
  for leaf in jax.tree.leaves(tree):
    shards = [np.asarray(s.data) for s in leaf.addressable_shards]
    if any(s.tobytes() != shards[0].tobytes() for s in shards[1:]):
      return False
  return True
