"""What a run logged, kept as `STAGE/history.npz`: the report's curves."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError


def npz(arrays: dict[str, Any]) -> bytes:
  """Arrays as the content of a compressed .npz file."""
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **arrays)
  return buffer.getvalue()


def read_npz(path: Any) -> dict[str, np.ndarray]:
  """Arrays of an .npz file.

  Raises:
    UserError: it is damaged.
  """
  try:
    with np.load(io.BytesIO(path.read_bytes())) as arrays:
      return dict(arrays)
  except (ValueError, EOFError, TypeError, zipfile.BadZipFile) as e:
    raise UserError(f'{path.name} is damaged') from e


class History:
  """Metrics of the logged steps of a stage.

  A run that was killed has often logged steps after its last checkpoint, and
  the run that resumed it logs them again: what was logged last counts.

  Args:
    workdir: where the file is.
    stage: its folder.
  """

  def __init__(self, workdir: Workdir, stage: str):
    self._workdir, self._name = workdir, f'{stage}/history.npz'
    self._rows: dict[int, dict[str, np.ndarray]] = {}
    path = workdir / self._name
    if path.exists():
      arrays = read_npz(path)
      for i, step in enumerate(arrays['step']):
        self._rows[int(step)] = {key: arrays[key][i] for key in arrays}

  def add(self, step: int, metrics: dict[str, Any]) -> None:
    """Notes a step's metrics and writes the file anew, atomically."""
    row = {key: np.asarray(value) for key, value in metrics.items()}
    self._rows[step] = {**row, 'step': np.asarray(step)}
    self._workdir.write(self._name, npz(self.arrays()))

  def arrays(self) -> dict[str, np.ndarray]:
    """{metric: [n, ...], 'step': [n] ascending}; {} if nothing was logged."""
    rows = [self._rows[step] for step in sorted(self._rows)]
    keys = rows[0] if rows else {}
    return {key: np.stack([row[key] for row in rows]) for key in keys}
