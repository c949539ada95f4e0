"""Stage `random_search`: what luck finds at the same latency (paper Table 1).

Networks are drawn by rejection inside a band around the target and each is
trained with the recipe and budget of `config.train`; so is the network that the
workdir's search found, if there is one, under the same seeds.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from spnas_jax.config.defaults import make_space
from spnas_jax.config.routes import found_network
from spnas_jax.config.workdir import Workdir, stage_inputs
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.architecture import Architecture
from spnas_jax.networks.space import SearchSpace
from spnas_jax.report.significance import difference, network_means
from spnas_jax.search.search_setup import (
  load_table,
  resolve_target,
  search_inputs,
)
from spnas_jax.training.run_setup import check_recipe, check_split
from spnas_jax.training.trained import score_from_scratch

# Draws without a network in the band before giving up.
MAX_DRAWS = 200_000


def draw(
  space: SearchSpace,
  table: LatencyTable,
  target_ms: float,
  band: float,
  count: int,
  rng: np.random.Generator,
) -> list[Architecture]:
  """Different random networks within target (1 +- band), by rejection.

  Raises:
    UserError: the band holds too few networks.
  """
  found: dict[str, Architecture] = {}
  for _ in range(MAX_DRAWS):
    arch = space.sample(rng)
    if abs(table.predict(arch) / target_ms - 1) <= band:
      found.setdefault(arch.to_string(), arch)
      if len(found) == count:
        return list(found.values())
  raise UserError(
    f'random_search.band is {band}: only {len(found)} of {count} networks '
    f'within {100 * band:g}% of {target_ms:.4g} ms in {MAX_DRAWS} draws; '
    'allowed: a wider band or fewer random_search.num_networks'
  )


def check(config: ConfigDict, workdir: Workdir) -> None:
  """Refuses what can be refused before anything is compiled.

  Raises:
    UserError: space, table, target, data or batch do not fit together, or the
      table lacks operations of the found network.
  """
  space, table = make_space(config), load_table(config)
  target_ms, _, _ = resolve_target(config, space, table)
  if target_ms is None:
    raise UserError(
      f'search.lambda_ is {config.search.lambda_}, must be unset for '
      '--stage=random_search, which needs a target'
    )
  if found := found_network(config, workdir):
    table.predict(found)
  check_split(config)
  check_recipe(config, workdir, 'train')


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
  """Trains the random networks, one resumable row each, and compares."""
  check(config, workdir)
  c = config.random_search
  space, table = make_space(config), load_table(config)
  target_ms, _, _ = resolve_target(config, space, table)
  assert target_ms is not None  # `check` has refused.
  found = found_network(config, workdir)
  inputs = stage_inputs(
    config,
    'seed',
    'dataset',
    'space',
    'train',
    'random_search',
    'evaluate.split',
    target_ms=target_ms,
    table=search_inputs(config, table)['table'],
    found='' if found is None else found.to_string(),
  )
  done = workdir.finished('random_search', inputs)
  if done is not None:
    return done
  # Before the claim: a band that holds too few is for the user to widen.
  networks = draw(
    space,
    table,
    target_ms,
    c.band,
    c.num_networks,
    np.random.default_rng(config.seed),
  )
  workdir.claim('random_search', inputs)
  start = time.monotonic()
  rows = []
  for kind, archs in (
    ('found', [found] if found else []),
    ('random', networks),
  ):
    for arch in archs:
      for seed in c.train_seeds:
        row = score_from_scratch(
          config, workdir, 'random_search', arch, seed, table
        )
        rows.append({'kind': kind, **row})
        say(
          f'random_search: {kind} {len(rows)}/'
          f'{(len(networks) + bool(found)) * len(c.train_seeds)}  '
          f'{row["predicted_ms"]:.4g} ms  top-1 {100 * row["top1"]:.2f}%  '
          f'{row["architecture"]}'
        )
  result = {'target_ms': target_ms, **summary(rows)}
  result['cost_epochs'] = (
    config.train.epochs * len(c.train_seeds) * len(networks)
  )
  result['found_cost_epochs'] = config.search.epochs if found else None
  _print(result)
  return workdir.finish(
    'random_search', inputs, result, time.monotonic() - start
  )


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
  """Mean and spread of both kinds, and their difference, see `significance`."""
  random, found = network_means(rows, 'random'), network_means(rows, 'found')
  result: dict[str, Any] = {
    'networks': rows,
    'mean_top1': float(random.mean()),
    'std_top1': float(random.std(ddof=1)) if len(random) > 1 else None,
    'found_top1': float(found.mean()) if len(found) else None,
  }
  if len(found):
    off = difference(random, found)
    result['difference'] = float(found.mean() - random.mean())
    result['standard_error'] = off and off.standard_error
    result['degrees_of_freedom'] = off and off.degrees_of_freedom
  return result


def _print(result: dict[str, Any]) -> None:
  spread = result['std_top1']
  line = f'random_search: random top-1 {100 * result["mean_top1"]:.2f}%' + (
    f' ± {100 * spread:.2f}' if spread is not None else ''
  )
  if result['found_top1'] is not None:
    line += (
      f'; found {100 * result["found_top1"]:.2f}%, difference '
      f'{100 * result["difference"]:+.2f} points'
    )
    if result['standard_error'] is not None:
      line += f', standard error {100 * result["standard_error"]:.2f}'
  say(line)
