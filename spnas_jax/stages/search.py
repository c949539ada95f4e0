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
from spnas_jax.config.workdir import (
  Workdir,
  curve_file,
  curve_name,
  fingerprint,
)
from spnas_jax.core.console import say
from spnas_jax.core.live_line import waiting
from spnas_jax.core.parallel import mapped_step
from spnas_jax.core.progress import Progress
from spnas_jax.data.folder_names import title
from spnas_jax.networks.architecture import Architecture
from spnas_jax.networks.space import Choices
from spnas_jax.search import worth as worths
from spnas_jax.search.decisions import explain, weigh
from spnas_jax.search.diagnostics import health
from spnas_jax.search.evolution import Evolution, evolve
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
from spnas_jax.search.subnets import Subnets, forced_scores
from spnas_jax.stages.frame import Task, stage
from spnas_jax.training.history import History, npz
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


# What method 'worth' leaves of the networks it scored: 'gates' [n, num_gates]
# and 'cross_entropy' [n], nats.
SCORED = 'search/scored.npz'

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
  if config.search.method == 'evolution':
    found, report = _evolved(search, config, state, problem, found)
    details |= {'evolution': report}
  elif config.search.method == 'worth':
    found, report = _by_worth(search, config, workdir, state, problem, made_by)
    details |= report
  if 'decisions' not in details:
    details['decisions'] = _weighed(search, config, state, problem, found)
  gates = problem.space.gates_of(found)
  scores = forced_scores(
    config, config.search, search.supernet, state.params, gates
  )
  arch = _with_provenance(config, problem, found, made_by)
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


def _with_provenance(
  config: ConfigDict, problem: SearchProblem, found: Choices, made_by: str
) -> Architecture:
  arch = problem.space.architecture_of(found)
  return arch.replace(
    provenance={
      'made_by': 'spnas_jax search',
      'config_hash': made_by,
      'latency_table': problem.table.name,
      'predicted_ms': problem.table.predict(arch),
      'dataset': title(config.dataset),
      'image_size': config.dataset.image_size,
    }
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


def _evolved(
  search: Search,
  config: ConfigDict,
  state: TrainState,
  problem: SearchProblem,
  own: Choices,
) -> tuple[Choices, dict[str, Any]]:
  """(best network that was bred for the target, what to report of it all)."""
  c, start = config.search.evolution, time.monotonic()
  assert problem.target_ms is not None  # A fixed lambda is refused.
  subnets = Subnets(config, search.supernet, state.params, c.images)
  evolution = Evolution(
    problem.space,
    problem.table,
    subnets.score,
    np.random.default_rng(config.seed),
    c.mutation,
    problem.max_bytes,
  )
  limits = problem.target_ms, problem.min_ms, problem.max_ms
  best, report = evolve(evolution, *limits, config.search.slack, own, c)
  return best, {
    **report,
    'scored_on': f'{subnets.num_images} {subnets.split} images',
    'seconds': round(time.monotonic() - start, 3),
  }


def _weighed(
  search: Search,
  config: ConfigDict,
  state: TrainState,
  problem: SearchProblem,
  found: Choices,
) -> list[dict[str, Any]]:
  """What each decision was worth: the found network with it and without it."""
  images = config.search.worth.images
  subnets = Subnets(config, search.supernet, state.params, images)

  def score(networks: list[np.ndarray]) -> list[np.ndarray]:
    losses = []
    with Progress('search', 'networks compared', len(networks)) as progress:
      for gates in networks:
        losses.append(subnets.per_image(gates)['cross_entropy'])
        progress.advance()
    return losses

  space = problem.space
  return explain(space, problem.table, found, *weigh(space, score, found))


def _by_worth(
  search: Search,
  config: ConfigDict,
  workdir: Workdir,
  state: TrainState,
  problem: SearchProblem,
  made_by: str,
) -> tuple[Choices, dict[str, Any]]:
  """(network of the most worth for the target, what to report of it all).

  Leaves the scored networks and, for every further target,
  `search/curve/NAME.json`.
  """
  c, start = config.search, time.monotonic()
  space, table = problem.space, problem.table
  assert problem.target_ms is not None  # A fixed lambda is refused.
  subnets = Subnets(config, search.supernet, state.params, c.worth.images)
  say(
    f'search: {c.worth.networks} random networks are scored on '
    f'{subnets.num_images} {subnets.split} images'
  )
  rng = np.random.default_rng(config.seed)
  drawn = worths.draw(space, c.worth.networks, c.keep_probability, rng)
  scores = []
  with Progress('search', 'networks', len(drawn)) as progress:
    for gates in drawn:
      scores.append(subnets.score(gates))
      progress.advance()
  scored = np.array([score['cross_entropy'] for score in scores])
  workdir.write(SCORED, npz({'gates': drawn, 'cross_entropy': scored}))
  worth = worths.estimate(space, drawn, scored)
  limits = c.slack, problem.max_bytes
  found = worths.choose(space, table, worth, problem.target_ms, *limits)
  seconds = round(time.monotonic() - start, 3)
  curve = []
  for target_ms in problem.curve_ms:
    choices = worths.choose(space, table, worth, target_ms, *limits)
    arch = _with_provenance(config, problem, choices, made_by)
    name = curve_name(target_ms)
    workdir.write(curve_file(name), arch.to_json())
    inside = forced_scores(
      config, c, search.supernet, state.params, space.gates_of(choices)
    )
    curve.append(
      {
        'name': name,
        'target_ms': target_ms,
        'predicted_ms': table.predict(arch),
        'architecture': arch.to_string(),
        'supernet_top1': inside['top1'],
        'supernet_cross_entropy': inside['cross_entropy'],
      }
    )
    say(f'search: {_spell_point(curve[-1])}')
  return found, {
    'decisions': explain(space, table, found, worth.worths, worth.errors),
    'curve': curve,
    'worth': {
      'networks': c.worth.networks,
      'scored_on': f'{subnets.num_images} {subnets.split} images',
      'smallest_cross_entropy': worth.smallest,
      'residual': worth.residual,
      'scored': [
        {'predicted_ms': table.predict(space.decode(gates)), **score}
        for gates, score in zip(drawn, scores, strict=True)
      ],
      'seconds': seconds,
    },
  }


def _spell_point(point: dict[str, Any]) -> str:
  """A network of a curve in one line."""
  off = 100 * (point['predicted_ms'] / point['target_ms'] - 1)
  return (
    f'curve:{point["name"]} takes {point["predicted_ms"]:.4g} ms '
    f'({off:+.1f}%), supernet top-1 {100 * point["supernet_top1"]:.1f}%'
  )


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
