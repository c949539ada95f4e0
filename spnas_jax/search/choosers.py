"""What a trained supernet chooses, other than by its gates, and why.

Candidates are scored with the supernet's weights: evolution breeds them, method
'worth' draws them and adds up what each decision was worth.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from spnas_jax.config.workdir import Workdir, curve_file, curve_name
from spnas_jax.core.console import say
from spnas_jax.core.progress import Progress
from spnas_jax.data.folder_names import title
from spnas_jax.networks.architecture import Architecture
from spnas_jax.networks.space import Choices
from spnas_jax.search import worth
from spnas_jax.search.decisions import explain, weigh
from spnas_jax.search.evolution import Evolution, evolve, most_bred
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.search.search_step import Search
from spnas_jax.search.subnets import Subnets, forced_scores
from spnas_jax.training.history import npz
from spnas_jax.training.train_state import TrainState

# What method 'worth' leaves of the networks it scored: 'gates' [n, num_gates]
# and 'cross_entropy' [n], nats.
SCORED = 'search/scored.npz'


class Judge(NamedTuple):
  """A trained supernet, and what it is asked.

  Attributes:
    config: the run's.
    search: the supernet and its recipe.
    state: its weights.
    problem: the space, the latency table and the target, ms.
  """

  config: ConfigDict
  search: Search
  state: TrainState
  problem: SearchProblem

  def subnets(self, images: int) -> Subnets:
    """Scores networks on so many images, never on test images."""
    return Subnets(self.config, self.search.supernet, self.state.params, images)

  def scores(self, gates: np.ndarray) -> dict[str, float]:
    """Of the network of these gates [num_gates], on `evaluate.split`."""
    params = self.state.params
    recipe, supernet = self.config.search, self.search.supernet
    return forced_scores(self.config, recipe, supernet, params, gates)


def by_evolution(judge: Judge, own: Choices) -> tuple[Choices, dict[str, Any]]:
  """(best network that was bred for the target, what to report of it all).

  Args:
    judge: the trained supernet.
    own: what its gates decided, which is among the first generation.
  """
  config, problem = judge.config, judge.problem
  c, start = config.search.evolution, time.monotonic()
  assert problem.target_ms is not None  # A fixed lambda is refused.
  subnets = judge.subnets(c.images)
  limits = problem.target_ms, problem.min_ms, problem.max_ms
  with Progress('search', 'networks bred', most_bred(c)) as progress:

    def score(gates: np.ndarray) -> dict[str, float]:
      scores = subnets.score(gates)
      progress.advance()
      return scores

    evolution = Evolution(
      problem.space,
      problem.table,
      score,
      np.random.default_rng(config.seed),
      c.mutation,
      problem.max_bytes,
    )
    best, report = evolve(evolution, *limits, config.search.slack, own, c)
  return best, {
    **report,
    'scored_on': f'{subnets.num_images} {subnets.split} images',
    'seconds': round(time.monotonic() - start, 3),
  }


def by_worth(
  judge: Judge, workdir: Workdir, made_by: str
) -> tuple[Choices, dict[str, Any]]:
  """(network of the most worth for the target, what to report of it all).

  Leaves the scored networks and, for every further target,
  `search/curve/NAME.json`, whose provenance names `made_by`, a hash.
  """
  c, start = judge.config.search, time.monotonic()
  space, table = judge.problem.space, judge.problem.table
  target_ms = judge.problem.target_ms
  assert target_ms is not None  # A fixed lambda is refused.
  subnets = judge.subnets(c.worth.images)
  say(
    f'search: {c.worth.networks} random networks are scored on '
    f'{subnets.num_images} {subnets.split} images'
  )
  rng = np.random.default_rng(judge.config.seed)
  drawn = worth.draw(space, c.worth.networks, c.keep_probability, rng)
  scores = []
  with Progress('search', 'networks', len(drawn)) as progress:
    for gates in drawn:
      scores.append(subnets.score(gates))
      progress.advance()
  scored = np.array([score['cross_entropy'] for score in scores])
  workdir.write(SCORED, npz({'gates': drawn, 'cross_entropy': scored}))
  worths = worth.estimate(space, drawn, scored)
  limits = c.slack, judge.problem.max_bytes
  found = worth.choose(space, table, worths, target_ms, *limits)
  seconds = round(time.monotonic() - start, 3)
  curve = []
  for point_ms in judge.problem.curve_ms:
    choices = worth.choose(space, table, worths, point_ms, *limits)
    curve.append(_point(judge, workdir, made_by, point_ms, choices))
    say(f'search: {_spell_point(curve[-1])}')
  return found, {
    'decisions': explain(space, table, found, worths.worths, worths.errors),
    'curve': curve,
    'worth': {
      'networks': c.worth.networks,
      'scored_on': f'{subnets.num_images} {subnets.split} images',
      'smallest_cross_entropy': worths.smallest,
      'residual': worths.residual,
      'scored': [
        {'predicted_ms': table.predict(space.decode(gates)), **score}
        for gates, score in zip(drawn, scores, strict=True)
      ],
      'seconds': seconds,
    },
  }


def _point(
  judge: Judge,
  workdir: Workdir,
  made_by: str,
  target_ms: float,
  choices: Choices,
) -> dict[str, Any]:
  """Writes a network of the curve and tells what `search.curve` lists of it."""
  problem = judge.problem
  arch = with_provenance(judge.config, problem, choices, made_by)
  name = curve_name(target_ms)
  workdir.write(curve_file(name), arch.to_json())
  inside = judge.scores(problem.space.gates_of(choices))
  return {
    'name': name,
    'target_ms': target_ms,
    'predicted_ms': problem.table.predict(arch),
    'architecture': arch.to_string(),
    'supernet_top1': inside['top1'],
    'supernet_cross_entropy': inside['cross_entropy'],
  }


def _spell_point(point: dict[str, Any]) -> str:
  """A network of a curve in one line."""
  off = 100 * (point['predicted_ms'] / point['target_ms'] - 1)
  return (
    f'curve:{point["name"]} takes {point["predicted_ms"]:.4g} ms '
    f'({off:+.1f}%), supernet top-1 {100 * point["supernet_top1"]:.1f}%'
  )


def weighed(judge: Judge, found: Choices) -> list[dict[str, Any]]:
  """What each decision was worth: the found network with it and without it."""
  subnets = judge.subnets(judge.config.search.worth.images)

  def score(networks: list[np.ndarray]) -> list[np.ndarray]:
    losses = []
    with Progress('search', 'networks compared', len(networks)) as progress:
      for gates in networks:
        losses.append(subnets.per_image(gates)['cross_entropy'])
        progress.advance()
    return losses

  space = judge.problem.space
  return explain(space, judge.problem.table, found, *weigh(space, score, found))


def with_provenance(
  config: ConfigDict, problem: SearchProblem, found: Choices, made_by: str
) -> Architecture:
  """The network, with what it was chosen by; `made_by` is a hash of that."""
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
