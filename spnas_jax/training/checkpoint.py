"""Checkpoints: a thin layer over Orbax's manager."""

from __future__ import annotations

import logging
import uuid
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.core.parallel import (
  all_devices_sharding,
  barrier,
  to_global,
  to_local,
)


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

  def restore(self, like: Any, skip_key: str = '') -> Any:
    """The newest state, placed on all local devices.

    Args:
      like: a state of the same structure, or its shapes.
      skip_key: the configuration key with which the caller would skip what is
        damaged, for the message; '' = it could not.

    Raises:
      UserError: there is none, or it does not fit `like`.
    """
    if self.latest is None:
      raise UserError(f'there is no checkpoint in {self._manager.directory}')
    return self._read(self.latest, like, skip_key)

  def restore_sound(self, like: Any) -> Any:
    """The newest state that can be read, placed on all local devices.

    Newer ones are moved to `checkpoints_damaged`, beside their folder: their
    places are needed, and somebody may still want to look at them.

    Args:
      like: a state of the same structure, or its shapes.

    Raises:
      UserError: none can be read; nothing is moved.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    first: UserError | None = None
    for position, step in enumerate(steps):
      try:
        state = self._read(step, like, '')
      except UserError as e:
        first = first or e
        continue
      self._set_aside(steps[:position])
      return state
    raise first or UserError(
      f'there is no checkpoint in {self._manager.directory}'
    )

  def _read(self, step: int, like: Any, skip_key: str) -> Any:
    sharding = all_devices_sharding()
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like
    )
    try:
      return to_local(
        self._manager.restore(step, args=ocp.args.StandardRestore(shapes))
      )
    except (ValueError, KeyError, TypeError, OSError) as e:
      # Orbax's other failed reads would be reported at exit, page after page.
      logging.getLogger('asyncio').setLevel(logging.CRITICAL)
      reason = ' '.join(str(e).split())[:200]
      advice = 'remove its folder to continue from the one before'
      if skip_key:
        advice = f'continue from the one before with --config.{skip_key}=True'
      raise UserError(
        f'checkpoint {self._manager.directory}/{step} does not fit this '
        f'configuration or is damaged ({reason}); use another --workdir, or '
        f'{advice}'
      ) from e

  def _set_aside(self, steps: list[int]) -> None:
    """Moves checkpoints out of the way, once for all processes."""
    folder = epath.Path(self._manager.directory)
    for step in steps if jax.process_index() == 0 else ():
      aside = folder.parent / 'checkpoints_damaged'
      aside.mkdir(parents=True, exist_ok=True)
      target = aside / f'{step}-{uuid.uuid4().hex[:6]}'
      (folder / str(step)).rename(target)
      say(f'WARNING: checkpoint {step} cannot be read; it is now {target}')
    if steps:
      barrier('damaged checkpoints are set aside')
      self._manager.reload()
