"""Checkpoints: a thin layer over Orbax's manager."""

from __future__ import annotations

import logging
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from spnas_jax.core.errors import UserError
from spnas_jax.core.parallel import all_devices_sharding, to_global, to_local


class Checkpoints:
  """The checkpoints of one stage.

  Saving is asynchronous; leaving the `with` block waits for it. Orbax writes to
  a temporary folder and renames it, so a killed process leaves whole
  checkpoints only; what it left half-written is removed at the next start.
  """

  def __init__(self, folder: epath.Path):
    self._manager = ocp.CheckpointManager(
      folder, options=ocp.CheckpointManagerOptions(max_to_keep=2)
    )

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, *_) -> None:
    self._manager.close()

  @property
  def latest(self) -> int | None:
    """Step of the newest checkpoint."""
    return self._manager.latest_step()

  def save(self, step: int, state: Any) -> None:
    """Starts saving; the arrays are copied before it returns."""
    self._manager.save(step, args=ocp.args.StandardSave(to_global(state)))

  def wait(self) -> None:
    """Waits until everything that was started is saved."""
    self._manager.wait_until_finished()

  def restore(self, like: Any) -> Any:
    """The newest state, placed on all local devices.

    Args:
      like: a state of the same structure, or its shapes.

    Raises:
      UserError: there is none, or it does not fit `like`.
    """
    if self.latest is None:
      raise UserError(f'there is no checkpoint in {self._manager.directory}')
    sharding = all_devices_sharding()
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like
    )
    try:
      return to_local(
        self._manager.restore(
          self.latest, args=ocp.args.StandardRestore(shapes)
        )
      )
    except (ValueError, KeyError, TypeError, FileNotFoundError) as e:
      # Orbax's other failed reads would be reported at exit, page after page.
      logging.getLogger('asyncio').setLevel(logging.CRITICAL)
      reason = ' '.join(str(e).split())[:200]
      raise UserError(
        f'checkpoint {self._manager.directory}/{self.latest} does not fit this '
        f'configuration or is damaged ({reason}); use another --workdir, or '
        'remove its folder to continue from the one before'
      ) from e
