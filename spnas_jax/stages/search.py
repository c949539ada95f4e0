"""Stage `search`: a supernet, a target in ms, a network that meets it."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spnas_jax.config.defaults import dataset_facts, make_space
from spnas_jax.config.workdir import Workdir, fingerprint
from spnas_jax.core.console import say
from spnas_jax.core.parallel import pmap_step
from spnas_jax.networks.space import SearchSpace
from spnas_jax.search.diagnostics import flips_per_epoch, warnings
from spnas_jax.search.evolution import Evolution
from spnas_jax.search.gates import decide
from spnas_jax.search.projection import project
from spnas_jax.search.search_record import (
  HISTORY,
  finished_search,
  last_of_each_step,
  load_history,
  npz,
  params_sha256,
  save_gates,
  supernet_arrays,
)
from spnas_jax.search.search_setup import (
  check_phases,
  create_state,
  load_table,
  make_search,
  resolve_target,
  search_inputs,
)
from spnas_jax.search.search_step import Search, make_search_step
from spnas_jax.search.subnets import Subnets, forced_scores
from spnas_jax.training.loop import run_steps
from spnas_jax.training.run_setup import (
  check_recipe,
  check_split,
  device_batches,
)

# A gate whose open probability lies between these is called undecided.
UNDECIDED = (0.2689, 0.7311)  # sigmoid(-1), sigmoid(1)


def check(config: ConfigDict, workdir: Workdir) -> None:
  """Refuses what can be refused before anything is compiled.

  Raises:
    UserError: space, table, target, data, batch or phases do not fit together.
  """
  space, table = make_space(config), load_table(config)
  resolve_target(config, space, table)
  search_inputs(config, table)
  check_split(config)
  check_recipe(config, workdir, 'search')
  check_phases(config)


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
  """Stage `search`; leaves `architecture.json` and `search/supernet.npz`."""
  check(config, workdir)
  space = make_space(config)
  table = load_table(config)
  target_ms, low, high = resolve_target(config, space, table)
  inputs = search_inputs(config, table)
  done = workdir.finished('search', inputs)
  if done is not None:
    return done
  search = make_search(config, space, table, target_ms)
  workdir.claim('search', inputs)
  start = time.monotonic()
  say(_opening(search, space, table, target_ms, low, high))
  evolving = config.search.method == 'evolution'
  state, history = _trained_supernet(search, config, workdir)
  final_step = jnp.asarray(search.phases.total)
  decision = jax.device_get(
    jax.jit(
      lambda params: decide(
        search.formulation,
        space,
        params,
        jax.random.key(0),
        temperature=search.phases.temperature(final_step),
      )
    )(state.params)
  )
  logits = np.asarray(decision.logits)
  raw = space.choices_of((logits >= 0).astype(np.float32))
  found = raw
  evolution = None
  if target_ms is not None:
    found = project(space, table, logits, target_ms, config.search.slack)
  if evolving:
    found, evolution = _evolve(search, config, state, table, target_ms, found)
  arch = space.architecture_of(found)
  predicted = table.predict(arch)
  expected = float(search.runtime_ms(jnp.asarray(decision.undropped)))
  arch = arch.replace(
    provenance={
      'made_by': 'spnas_jax search',
      'config_hash': fingerprint(inputs),
      'latency_table': table.name,
      'predicted_ms': predicted,
      'dataset': config.dataset.name,
      'image_size': config.dataset.image_size,
    }
  )
  scores = forced_scores(
    config,
    config.search,
    search.supernet,
    state.params,
    space.gates_of(found),
  )
  final_ce = float(history['cross_entropy'][-1])
  result = {
    'target_ms': target_ms,
    'predicted_ms': predicted,
    'min_ms': low,
    'max_ms': high,
    'raw_decode_ms': table.predict(space.architecture_of(raw)),
    'expected_ms': expected,
    'projected_layers': sum(a != b for a, b in zip(raw, found, strict=True)),
    'undecided_gates': int(np.sum(undecided(logits))),
    'num_gates': len(space.gates),
    'architecture': arch.to_string(),
    'raw_architecture': space.architecture_of(raw).to_string(),
    'supernet_top1': scores['top1'],
    'supernet_cross_entropy': scores['cross_entropy'],
    'cost_epochs': config.search.epochs,
    'cost_images': search.phases.total * config.search.batch_size,
    'steps': search.phases.total,
    'warmup_steps': search.phases.warm_up,
    'seconds': round(time.monotonic() - start, 3),
    'final_cross_entropy': final_ce,
    'final_lambda': float(history['lambda'][-1]),
    'params_sha256': params_sha256(state.params),
  }
  steps, searched_from = history['step'], search.phases.warm_up
  result['saturated_gates'] = float(history['saturated_gates'][-1])
  result['flips_per_epoch'] = flips_per_epoch(
    steps,
    history['logit'],
    searched_from,
    dataset_facts(config).steps_per_epoch(config.search.batch_size),
  )
  result['warnings'] = (
    []
    if evolving
    else warnings(
      gates=config.search.gates,
      logits=history['logit'],
      steps=steps,
      first=searched_from,
      saturated=result['saturated_gates'],
      final_lambda=result['final_lambda'],
      lambda_limit=None
      if search.controller is None
      else search.controller.limit,
      result=result,
    )
  )
  if evolution is not None:
    result['evolution'] = evolution
  workdir.write(
    'search/supernet.npz',
    supernet_arrays(space, state.params, decision, history),
  )
  save_gates(workdir, space.gates_of(found))
  workdir.write('architecture.json', arch.to_json())
  _report(result, space, found)
  return workdir.finish('search', inputs, result, time.monotonic() - start)


def _trained_supernet(search: Search, config: ConfigDict, workdir: Workdir):
  """(state, history): trained here, or another finished search's."""
  other = config.search.evolution.supernet
  if config.search.method != 'evolution' or not other:
    return _run_steps(search, config, workdir)
  history = last_of_each_step(
    load_history(Workdir(other, 'search.evolution.supernet'))
  )
  return finished_search(config, workdir)[1], history


def _evolve(search, config, state, table, target_ms, own):
  """Breeds networks for the target, then for the rest of the front.

  Returns:
    (choices of the best network at the target, what to report).
  """
  c = config.search.evolution
  space = search.supernet.space
  start = time.monotonic()
  subnets = Subnets(config, search.supernet, state.params, c.images)
  evolution = Evolution(
    space,
    table,
    subnets.score,
    np.random.default_rng(config.seed),
    c.mutation,
  )
  slack = config.search.slack
  best = evolution.run(target_ms, slack, c.population, c.generations, (own,))
  low_ms, _ = evolution.band(target_ms, slack)
  if low_ms < target_ms * (1 - slack):
    say(
      f'search: no network lies within {100 * slack:g}% below '
      f'{target_ms:.4g} ms; the slowest that meet it were bred, from '
      f'{low_ms:.4g} ms on'
    )
  low, high = table.limits(space)
  for share in np.linspace(0.15, 0.95, c.front_points):
    limit = low + share * (high - low)
    evolution.run(limit, slack, c.population, max(1, c.generations // 4))

  def row(scored):
    return {
      'architecture': space.architecture_of(scored.choices).to_string(),
      'predicted_ms': scored.ms,
      'supernet_top1': scored.top1,
      'supernet_cross_entropy': scored.cross_entropy,
    }

  return best.choices, {
    'best': row(best),
    'band_ms': [low_ms, target_ms],
    'gates_own': row(evolution.score(own)),
    'front': [row(s) for s in evolution.front()],
    'networks': [row(s) for s in evolution.scored],
    'evaluations': len(evolution.scored),
    'scored_on': f'{subnets.num_images} {subnets.split} images',
    'seconds': round(time.monotonic() - start, 3),
  }


def _run_steps(search: Search, config: ConfigDict, workdir: Workdir):
  """The loop; returns (state, history of the logged steps)."""
  c = config.search
  per_epoch = dataset_facts(config).steps_per_epoch(c.batch_size)
  history = load_history(workdir)

  def describe(m: dict[str, float]) -> str:
    ramp = f' (target {m["target_ms"]:.4g})' if 'target_ms' in m else ''
    return (
      f'CE {m["cross_entropy"]:.3f}  R {m["undropped_ms"]:.4g} ms{ramp}'
      f'  λ {m["lambda"]:.3g}'
    )

  def on_log(step: int, metrics: dict[str, np.ndarray]) -> None:
    for key, value in metrics.items():
      history.setdefault(key, []).append(np.asarray(value))
    history.setdefault('step', []).append(np.asarray(step))
    stacked = {key: np.stack(values) for key, values in history.items()}
    workdir.write(HISTORY, npz(stacked))

  state = run_steps(
    'search',
    workdir,
    create_state(search, config),
    pmap_step(make_search_step(search)),
    lambda first: device_batches(config, c, config.seed, first),
    total_steps=search.phases.total,
    steps_per_epoch=per_epoch,
    recipe=c,
    describe=describe,
    on_log=on_log,
  )
  return state, last_of_each_step(history)


def undecided(logits: np.ndarray) -> np.ndarray:
  """Gates whose probability of being open is not far from one half."""
  p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
  return (p > UNDECIDED[0]) & (p < UNDECIDED[1])


def _opening(search, space, table, target_ms, low, high) -> str:
  aim = (
    f'target {target_ms:.4g} ms'
    if target_ms is not None
    else f'fixed λ {search.recipe.lambda_:g}'
  )
  return (
    f'search: {len(space.layers)} searchable layers, {len(space.gates)} gates, '
    f'{space.num_networks:.3g} networks from {low:.4g} to {high:.4g} ms on '
    f'{table.name!r}; {aim}; {search.phases.total} steps, the first '
    f'{search.phases.warm_up} warm up'
  )


def _report(result, space: SearchSpace, found) -> None:
  lines = [f'search: found {result["architecture"]}']
  target = result['target_ms']
  if target is not None:
    off = 100 * (result['predicted_ms'] / target - 1)
    raw = 100 * (result['raw_decode_ms'] / target - 1)
    lines.append(
      f'search: predicted {result["predicted_ms"]:.4g} ms, {off:+.1f}% of the '
      f'target {target:.4g} ms; before projection {raw:+.1f}%, '
      f'{result["projected_layers"]} of {len(space.layers)} layers changed by '
      f'it, {result["undecided_gates"]} of {result["num_gates"]} gates were '
      'undecided'
    )
  else:
    lines.append(f'search: predicted {result["predicted_ms"]:.4g} ms')
  lines.append(
    f'search: supernet top-1 with these decisions '
    f'{100 * result["supernet_top1"]:.1f}% (batch norm re-estimated)'
  )
  lines += [f'search: WARNING: {text}' for text in result['warnings']]
  say('\n'.join(lines))
