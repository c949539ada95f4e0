"""What a search leaves in its workdir, and how it is read back."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.models.supernet import inherit, layer_name
from spnas_jax.networks.architecture import Architecture
from spnas_jax.networks.space import Choices, SearchSpace
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.search.search_setup import (
  blank_state,
  make_search,
  other_supernet,
)
from spnas_jax.search.search_step import Search
from spnas_jax.search.subnets import forced_statistics
from spnas_jax.training.checkpoint import Checkpoints
from spnas_jax.training.history import npz
from spnas_jax.training.train_state import TrainState

FOUND = 'search/found.npy'


def params_sha256(params: Any) -> str:
  """Hash of all parameters' bytes, in the order of their paths."""
  digest = hashlib.sha256()
  leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(params))
  for path, leaf in sorted(leaves, key=lambda item: str(item[0])):
    digest.update(str(path).encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()


def supernet_arrays(space, params, decision, history) -> bytes:
  """What the report draws: final superkernels, gates and their history."""
  arrays = {
    f'{layer_name(i)}/kernel': np.asarray(
      params[layer_name(i)]['depthwise']['kernel']
    )
    for i in range(len(space.layers))
  }
  return npz(
    {
      'gate_logits': np.asarray(decision.logits),
      'gate_importance': np.asarray(decision.importance),
      'gate_history_steps': history['step'],
      'gate_history_logits': history['logit'],
      **arrays,
    }
  )


def save_gates(workdir: Workdir, gates: np.ndarray) -> None:
  """Keeps the found gates: an architecture does not say which layers skip."""
  buffer = io.BytesIO()
  np.save(buffer, gates)
  workdir.write(FOUND, buffer.getvalue())


def check_finished(config: ConfigDict, workdir: Workdir) -> Workdir:
  """The workdir whose search trained the supernet.

  Raises:
    UserError: it holds no finished search.
  """
  if other := other_supernet(config):
    workdir = Workdir(other, 'search.evolution.supernet')
  if 'search' not in workdir.results():
    raise UserError(
      f'{workdir.path} holds no finished search; run --stage=search'
    )
  return workdir


def finished_search(
  config: ConfigDict, workdir: Workdir
) -> tuple[Search, TrainState]:
  """A finished search and its state, from where its supernet was trained.

  Raises:
    UserError: the workdir holds no finished search.
  """
  workdir = check_finished(config, workdir)
  search = make_search(config, SearchProblem.of(config))
  with Checkpoints(workdir / 'search' / 'checkpoints') as checkpoints:
    return search, checkpoints.restore(blank_state(search, config))


def load_inherited(
  config: ConfigDict, workdir: Workdir, arch: Architecture
) -> dict[str, Any]:
  """Weights for `arch` cut out of the workdir's supernet.

  Batch statistics are those of `arch`: re-estimated under its gates.

  Raises:
    UserError: no finished search, or `arch` is not in its space.
  """
  space = make_space(config)
  choices = _inherit_choices(space, workdir, arch)
  search, state = finished_search(config, workdir)
  stats = forced_statistics(
    config,
    config.search,
    search.supernet,
    state.params,
    space.gates_of(choices),
  )
  params = {k: v for k, v in state.params.items() if k != 'thresholds'}
  return inherit(space, choices, {'params': params, 'batch_stats': stats})


def _inherit_choices(
  space: SearchSpace, workdir: Workdir, arch: Architecture
) -> Choices:
  """Which layers `arch` has; from the search's record if it found `arch`."""
  path = workdir / FOUND
  if path.exists():
    gates = np.load(io.BytesIO(path.read_bytes()))
    if space.decode(gates) == arch:
      return space.choices_of(gates)
  return space.choices_of(space.encode(arch))
