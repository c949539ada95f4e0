"""Stage `search`: a supernet, a target in ms, a network that meets it."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spnas_jax.config.spaces import dataset_facts
from spnas_jax.config.workdir import Workdir, fingerprint
from spnas_jax.core.console import say
from spnas_jax.core.live_line import waiting
from spnas_jax.core.parallel import mapped_step
from spnas_jax.networks.space import Choices
from spnas_jax.search.choosers import (
  Judge,
  by_evolution,
  by_worth,
  weighed,
  with_provenance,
)
from spnas_jax.search.diagnostics import health
from spnas_jax.search.gates import Decision
from spnas_jax.search.search_events import search_drawn, worths_drawn
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.search.search_record import (
  finished_search,
  params_sha256,
  save_gates,
  supernet_arrays,
)
from spnas_jax.search.search_setup import (
  check_phases,
  check_worth,
  create_state,
  make_search,
  other_supernet,
  search_inputs,
)
from spnas_jax.search.search_step import Search, make_search_step
from spnas_jax.stages.frame import Task, stage
from spnas_jax.training.history import History
from spnas_jax.training.loop import PREPARING, run_steps
from spnas_jax.training.outcome import write_outcome
from spnas_jax.training.run_setup import (
  check_recipe,
  check_split,
  device_batches,
  length_of,
)
from spnas_jax.training.train_state import TrainState

# A gate whose open probability lies between these is called undecided.
UNDECIDED = (0.2689, 0.7311)  # sigmoid(-1), sigmoid(1)


def check(config: ConfigDict, workdir: Workdir) -> None:
  """Refuses what can be refused before anything is compiled.

  Raises:
    UserError: space, table, target, data, batch or phases do not fit together.
  """
  search_inputs(config, SearchProblem.of(config).table)
  check_split(config)
  check_recipe(config, workdir, 'search')
  check_phases(config)
  check_worth(config)


def prepare(config: ConfigDict, workdir: Workdir) -> Task:
  """Leaves `architecture.json`, `search/supernet.npz` and, of a curve, files in
  `search/curve`."""
  problem = SearchProblem.of(config)
  inputs = search_inputs(config, problem.table)
  return Task(
    inputs,
    lambda: _search(config, workdir, problem, fingerprint(inputs)),
    lambda result: _spell(result, len(problem.space.layers)),
  )


run = stage('search', prepare, check)


def _search(
  config: ConfigDict, workdir: Workdir, problem: SearchProblem, made_by: str
) -> dict[str, Any]:
  start = time.monotonic() - workdir.spent('search')
  search = make_search(config, problem)
  say(_opening(search, problem))
  state, history = _trained_supernet(search, config, workdir)
  decision = search.settled(state.params)
  found = problem.project(np.asarray(decision.logits), config.search.slack)
  # Only a search by gradient is judged by how its gates moved.
  by_gates = config.search.method == 'gradient'
  details: dict[str, Any] = {} if by_gates else {'warnings': []}
  judge = Judge(config, search, state, problem)
  if config.search.method == 'evolution':
    found, details['evolution'] = by_evolution(judge, found)
  elif config.search.method == 'worth':
    found, report = by_worth(judge, workdir, made_by)
    details |= report
  if 'decisions' not in details:
    details['decisions'] = weighed(judge, found)
  gates = problem.space.gates_of(found)
  scores = judge.scores(gates)
  arch = with_provenance(config, problem, found, made_by)
  result = {
    **_decoded(search, problem, decision, found),
    'architecture': arch.to_string(),
    'supernet_top1': scores['top1'],
    'supernet_cross_entropy': scores['cross_entropy'],
    'cost_epochs': config.search.epochs,
    'cost_images': search.phases.total * config.search.batch_size,
    'steps': search.phases.total,
    'warmup_steps': search.phases.warm_up,
    'seconds': round(time.monotonic() - start, 3),
    'final_cross_entropy': float(history['cross_entropy'][-1]),
    'final_lambda': float(history['lambda'][-1]),
    'params_sha256': params_sha256(state.params),
    'label_names': list(dataset_facts(config).label_names),
  }
  per_epoch = length_of(config, 'search').steps_per_epoch
  result |= health(search, history, per_epoch, result) | details
  arrays = supernet_arrays(problem.space, state.params, decision, history)
  workdir.write('search/supernet.npz', arrays)
  save_gates(workdir, gates)
  workdir.write('architecture.json', arch.to_json())
  _write_outcome(config, workdir, problem, result)
  return result


def _write_outcome(
  config: ConfigDict,
  workdir: Workdir,
  problem: SearchProblem,
  result: dict[str, Any],
) -> None:
  """For TensorBoard's table of runs."""
  keys = ('target_ms', 'predicted_ms', 'supernet_top1')
  write_outcome(
    'search',
    workdir,
    result['steps'],
    {key: result[key] for key in keys},
    config,
    worths_drawn(problem.space, result),
  )


def _trained_supernet(
  search: Search, config: ConfigDict, workdir: Workdir
) -> tuple[TrainState, Mapping[str, np.ndarray]]:
  """(state, what was logged): trained here, or another finished search's."""
  if other := other_supernet(config):
    theirs = Workdir(other, 'search.evolution.supernet')
    history = History(theirs, 'search')
    return finished_search(config, workdir)[1], history.arrays()
  c, history = config.search, History(workdir, 'search')
  with waiting('search', PREPARING):
    state = create_state(search, config)
  state = run_steps(
    'search',
    workdir,
    state,
    mapped_step(make_search_step(search)),
    lambda first: device_batches(config, c, config.seed, first),
    length=length_of(config, 'search')._replace(total=search.phases.total),
    recipe=c,
    describe=_describe,
    history=history,
    draw=functools.partial(search_drawn, search),
  )
  return state, history.arrays()


def _describe(m: dict[str, float]) -> str:
  """The middle of a log line."""
  ramp = f' (target {m["target_ms"]:.4g})' if 'target_ms' in m else ''
  return (
    f'CE {m["cross_entropy"]:.3f}  R {m["undropped_ms"]:.4g} ms{ramp}'
    f'  λ {m["lambda"]:.3g}'
  )


def _decoded(
  search: Search, problem: SearchProblem, decision: Decision, found: Choices
) -> dict[str, Any]:
  """What the gates say, and what became of it."""
  space, predict = problem.space, problem.table.predict
  logits = np.asarray(decision.logits)
  raw = space.choices_of((logits >= 0).astype(np.float32))
  return {
    'target_ms': problem.target_ms,
    'predicted_ms': predict(space.architecture_of(found)),
    'predicted_bytes': problem.table.predict_bytes(
      space.architecture_of(found)
    ),
    'min_ms': problem.min_ms,
    'max_ms': problem.max_ms,
    'raw_decode_ms': predict(space.architecture_of(raw)),
    'expected_ms': float(search.runtime_ms(jnp.asarray(decision.undropped))),
    'projected_layers': sum(a != b for a, b in zip(raw, found, strict=True)),
    'undecided_gates': int(np.sum(undecided(logits))),
    'num_gates': len(space.gates),
    'raw_architecture': space.architecture_of(raw).to_string(),
  }


def undecided(logits: np.ndarray) -> np.ndarray:
  """Gates whose probability of being open is not far from one half."""
  p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
  return (p > UNDECIDED[0]) & (p < UNDECIDED[1])


def _opening(search: Search, problem: SearchProblem) -> str:
  space = problem.space
  aim = (
    f'target {problem.target_ms:.4g} ms'
    if problem.target_ms is not None
    else f'fixed λ {search.recipe.lambda_:g}'
  )
  return (
    f'search: {len(space.layers)} searchable layers, {len(space.gates)} gates, '
    f'{space.num_networks:.3g} networks from {problem.min_ms:.4g} to '
    f'{problem.max_ms:.4g} ms on {problem.table.name!r}; {aim}; '
    f'{search.phases.total} steps, the first {search.phases.warm_up} in warm-up'
  )


def _spell(result: dict[str, Any], num_layers: int) -> list[str]:
  """The result in a few lines."""
  lines = [f'found {result["architecture"]}']
  target = result['target_ms']
  if target is not None:
    off = 100 * (result['predicted_ms'] / target - 1)
    raw = 100 * (result['raw_decode_ms'] / target - 1)
    line = (
      f'predicted {result["predicted_ms"]:.4g} ms, {off:+.1f}% of the '
      f'target {target:.4g} ms'
    )
    if not {'evolution', 'worth'} & result.keys():  # The gates decided.
      line += (
        f'; before projection {raw:+.1f}%, {result["projected_layers"]} of '
        f'{num_layers} layers changed by it, {result["undecided_gates"]} of '
        f'{result["num_gates"]} gates were undecided'
      )
    lines.append(line)
  else:
    lines.append(f'predicted {result["predicted_ms"]:.4g} ms')
  lines.append(
    f'supernet top-1 with these decisions '
    f'{100 * result["supernet_top1"]:.1f}% (batch norm re-estimated)'
  )
  return lines + [f'WARNING: {text}' for text in result['warnings']]
