"""Stage `random_search`: what luck finds at the same latency (paper Table 1).

Networks are drawn by rejection inside a band around the target and each is
trained with the recipe and budget of `config.train`; so is the network that the
workdir's search found, if there is one, under the same seeds. With
`random_search.curve_networks` the same is done at every point of the workdir's
curve.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from spnas_jax.config.routes import found_network, space_network
from spnas_jax.config.workdir import Workdir, stage_inputs
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.architecture import Architecture
from spnas_jax.networks.sampling import MAX_DRAWS, random_networks
from spnas_jax.report.significance import difference, network_means
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.stages.frame import Task, stage
from spnas_jax.training.run_setup import check_recipe, check_split
from spnas_jax.training.trained import score_from_scratch


def draw(
  problem: SearchProblem,
  target_ms: float,
  band: float,
  count: int,
  rng: np.random.Generator,
) -> list[Architecture]:
  """Different random networks within target (1 +- band), by rejection.

  Raises:
    UserError: the band holds too few networks.
  """
  found = random_networks(
    problem.space,
    count,
    rng,
    accept=_within(problem, target_ms, band),
    max_misses=MAX_DRAWS,
  )
  if len(found) < count:
    raise UserError(
      f'random_search.band is {band}: only {len(found)} of {count} networks '
      f'within {100 * band:g}% of {target_ms:.4g} ms in {MAX_DRAWS} draws; '
      'allowed: a wider band or fewer random_search.num_networks'
    )
  return list(found.values())


def check(config: ConfigDict, workdir: Workdir) -> None:
  """Refuses what can be refused before anything is compiled.

  Raises:
    UserError: space, table, target, data or batch do not fit together, or the
      table lacks operations of the found network.
  """
  problem = SearchProblem.of(config)
  if problem.target_ms is None:
    raise UserError(
      f'search.lambda_ is {config.search.lambda_}, must be unset for '
      '--stage=random_search, which needs a target'
    )
  if found := found_network(config, workdir):
    problem.table.predict(found)
  count = config.random_search.curve_networks
  planned = config.search.curve_points or config.search.targets_ms
  if count and not planned and not _curve(workdir):
    raise UserError(
      f'random_search.curve_networks is {count}, but the search left no curve; '
      'allowed: 0, or a search with search.curve_points or search.targets_ms'
    )
  check_split(config)
  check_recipe(config, workdir, 'train')


def _curve(workdir: Workdir) -> list[dict[str, Any]]:
  """Points of the curve that the workdir's search found."""
  return workdir.results().get('search', {}).get('curve') or []


def prepare(config: ConfigDict, workdir: Workdir) -> Task:
  """Trains the random networks, one resumable row each, and compares.

  Raises:
    UserError: the band holds too few networks.
  """
  problem, found = SearchProblem.of(config), found_network(config, workdir)
  target_ms = problem.target_ms
  assert target_ms is not None  # `check` has refused.
  inputs = stage_inputs(
    config,
    'seed',
    'dataset',
    'space',
    'train',
    'random_search',
    'evaluate.split',
    target_ms=target_ms,
    table=problem.table.fingerprint(),
    found='' if found is None else found.to_string(),
  )
  c = config.random_search
  curve = _curve(workdir) if c.curve_networks else []
  if curve:
    inputs['curve'] = [point['architecture'] for point in curve]
  rng = np.random.default_rng(config.seed)
  networks = draw(problem, target_ms, c.band, c.num_networks, rng)

  def compare() -> dict[str, Any]:
    epochs = config.train.epochs * len(c.train_seeds) * len(networks)
    result = {
      'target_ms': target_ms,
      **summary(_rows(config, workdir, problem.table, found, networks)),
      'cost_epochs': epochs,
      'found_cost_epochs': config.search.epochs if found else None,
    }
    points = [_at_point(config, workdir, problem, p, rng) for p in curve]
    return result | ({'curve': points} if points else {})

  return Task(inputs, compare, _spell)


run = stage('random_search', prepare, check)


def _at_point(
  config: ConfigDict,
  workdir: Workdir,
  problem: SearchProblem,
  point: dict[str, Any],
  rng: np.random.Generator,
) -> dict[str, Any]:
  """A point of the curve and random networks beside it.

  There may be fewer of them than asked for: next to the fastest and the slowest
  network of a space there are hardly any.
  """
  c = config.random_search
  near = random_networks(
    problem.space,
    c.curve_networks,
    rng,
    accept=_within(problem, point['target_ms'], c.band),
    max_misses=MAX_DRAWS // 10,
  )
  found = space_network(config, point['architecture'])
  networks = list(near.values())
  rows = _rows(config, workdir, problem.table, found, networks)
  return {
    **{key: point[key] for key in ('name', 'target_ms', 'predicted_ms')},
    **summary(rows),
  }


def _within(
  problem: SearchProblem, target_ms: float, band: float
) -> Callable[[Architecture], bool]:
  """Whether a network's latency is target (1 +- band)."""
  return lambda arch: abs(problem.table.predict(arch) / target_ms - 1) <= band


def _rows(
  config: ConfigDict,
  workdir: Workdir,
  table: LatencyTable,
  found: Architecture | None,
  networks: list[Architecture],
) -> list[dict[str, Any]]:
  """Scores of every network under every seed, the found one first."""
  seeds = config.random_search.train_seeds
  todo = [('random', arch, seed) for arch in networks for seed in seeds]
  if found is not None:
    todo = [('found', found, seed) for seed in seeds] + todo
  rows = []
  for kind, arch, seed in todo:
    row = score_from_scratch(
      config, workdir, 'random_search', arch, seed, table
    )
    rows.append({'kind': kind, **row})
    say(
      f'random_search: {kind} {len(rows)}/{len(todo)}  '
      f'{row["predicted_ms"]:.4g} ms  top-1 {100 * row["top1"]:.2f}%  '
      f'{row["architecture"]}'
    )
  return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
  """Mean and spread of both kinds, and their difference, see `significance`."""
  random, found = network_means(rows, 'random'), network_means(rows, 'found')
  result: dict[str, Any] = {
    'networks': rows,
    'mean_top1': float(random.mean()) if len(random) else None,
    'std_top1': float(random.std(ddof=1)) if len(random) > 1 else None,
    'found_top1': float(found.mean()) if len(found) else None,
  }
  if len(found) and len(random):
    off = difference(random, found)
    result['difference'] = float(found.mean() - random.mean())
    result['standard_error'] = off and off.standard_error
    result['degrees_of_freedom'] = off and off.degrees_of_freedom
  return result


def _spell(result: dict[str, Any]) -> list[str]:
  return [_sentence(result)] + [
    f'curve:{point["name"]}: {_sentence(point)}'
    for point in result.get('curve', ())
  ]


def _sentence(result: dict[str, Any]) -> str:
  """Random networks of one latency, and what was found there."""
  if result['mean_top1'] is None:
    return f'top-1 {100 * result["found_top1"]:.2f}%, no random network near it'
  spread = result['std_top1']
  line = f'random top-1 {100 * result["mean_top1"]:.2f}%' + (
    f' ± {100 * spread:.2f}' if spread is not None else ''
  )
  if 'difference' in result:
    line += (
      f'; found {100 * result["found_top1"]:.2f}%, difference '
      f'{100 * result["difference"]:+.2f} points'
    )
    if result['standard_error'] is not None:
      line += f', standard error {100 * result["standard_error"]:.2f}'
  return line
