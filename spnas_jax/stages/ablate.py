"""Stage `ablate`: the usual checks of a one-shot search.

Three parts, chosen by `ablate.parts`:

* 'kernels' - the paper's Table 2: do weights shared between 3x3 and 5x5 kernels
  reach what individually trained ones reach?
* 'gates' - does a gate know what it decides? The gradient that the search sees
  against the true change of the loss when the gate is forced open or closed.
* 'ranking' - Kendall's tau between sub-networks' accuracy inside the supernet
  and trained from scratch.

The last two need a finished search in the workdir.
"""

from __future__ import annotations

import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax import Array, lax
from ml_collections import ConfigDict

from spnas_jax.config.spaces import dataset_facts, make_space
from spnas_jax.config.workdir import Workdir, stage_inputs
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.core.parallel import AXIS, mapped_eval, replicate
from spnas_jax.data import input_pipeline
from spnas_jax.models.supernet import SuperNet
from spnas_jax.networks.sampling import MAX_DRAWS, random_choices
from spnas_jax.networks.space import SearchSpace
from spnas_jax.search.search_problem import load_table
from spnas_jax.search.search_record import check_finished, finished_search
from spnas_jax.search.search_step import Search
from spnas_jax.search.shared_kernels import shared_kernels
from spnas_jax.search.subnets import Subnets
from spnas_jax.stages.frame import Task, stage
from spnas_jax.training.loop import take
from spnas_jax.training.objective import cross_entropy
from spnas_jax.training.run_setup import check_batch, check_recipe, check_split
from spnas_jax.training.trained import score_from_scratch


def check(config: ConfigDict, workdir: Workdir) -> None:
  """Refuses what can be refused before anything is compiled.

  Raises:
    UserError: the space, the data or the batch cannot be used, or parts that
      need a finished search have none.
  """
  space, c = make_space(config), config.ablate
  check_split(config)
  check_recipe(config, workdir, 'train')
  if {'gates', 'ranking'} & set(config.ablate.parts):
    load_table(config)
    check_finished(config, workdir)
  if 'gates' in c.parts:
    check_batch('ablate', c.images, 'images')
    count = dataset_facts(config).num_examples(_split(config))
    if c.images > count:
      raise UserError(
        f'ablate.images is {c.images}, allowed: up to {count}, the number of '
        f'{_split(config)} images'
      )
  if 'ranking' in c.parts and c.num_networks > num_architectures(space):
    raise UserError(
      f'ablate.num_networks is {c.num_networks}, allowed: up to '
      f'{num_architectures(space)}, the networks of the space'
    )


def prepare(config: ConfigDict, workdir: Workdir) -> Task:
  """Runs the configured parts; each keeps its own rows and resumes by them."""
  parts = {'kernels': shared_kernels, 'gates': gates, 'ranking': ranking}

  def part(name: str) -> dict[str, Any]:
    path = workdir / 'ablate' / f'{name}.json'
    if path.exists():
      return json.loads(path.read_text())
    result = parts[name](config, workdir)
    workdir.write(f'ablate/{name}.json', json.dumps(result, indent=1))
    return result

  return Task(
    stage_inputs(
      config, 'seed', 'dataset', 'space', 'search', 'train', 'ablate'
    ),
    lambda: {name: part(name) for name in config.ablate.parts},
  )


run = stage('ablate', prepare, check)


# --- does a gate know what it decides? ----------------------------------------


def gate_probe(supernet: SuperNet, smoothing: float):
  """Compiled (variables, gates, batch) -> (CE, dCE/dgates [num_gates]).

  Batch norm uses the statistics of the batch, as during the search.
  """

  def probe(state, batch):
    variables, forced = state

    def ce(values):
      logits, _ = supernet.apply(
        variables, batch['image'], values, train=True, mutable=['batch_stats']
      )
      return cross_entropy(logits, batch['label'], smoothing)

    return lax.pmean(jax.value_and_grad(ce)(forced), AXIS)

  return mapped_eval(probe)


def gate_effects(
  search: Search,
  variables: dict[str, Any],
  batches: list[dict[str, Array]],
  contexts: int,
  seed: int,
) -> dict[str, np.ndarray]:
  """Forces every gate open and closed in random contexts.

  Args:
    search: formulation and space.
    variables: the supernet's weights.
    batches: on the devices; one for each context, in turn.
    contexts: random settings of the other gates (each open with the warm-up's
      keep probability).
    seed: of the contexts.

  Returns:
    'change' CE(open) - CE(closed), 'open' and 'closed' dCE/dgate on either
    side, each float64 [contexts, num_gates].
  """
  space = search.supernet.space
  count = len(space.gates)
  probe = gate_probe(search.supernet, search.recipe.label_smoothing)
  rng = np.random.default_rng(seed)
  variables = replicate(variables)
  result = {
    key: np.zeros((contexts, count)) for key in ('change', 'open', 'closed')
  }
  for c in range(contexts):
    batch = batches[c % len(batches)]
    context = rng.random(count) < search.recipe.keep_probability
    context = context.astype(np.float32)

    def at(values, batch=batch):
      ce, slope = probe((variables, jnp.asarray(values)), batch)
      return float(ce), np.asarray(slope)

    here, slopes = at(context)
    for i in range(count):
      flipped = context.copy()
      flipped[i] = 1 - flipped[i]
      there, other = at(flipped)
      is_open = context[i] > 0.5
      result['change'][c, i] = here - there if is_open else there - here
      result['open'][c, i] = slopes[i] if is_open else other[i]
      result['closed'][c, i] = other[i] if is_open else slopes[i]
  return result


def gates(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
  """Correlation of what the search sees with the truth, per kind of gate."""
  c = config.ablate
  search, state = finished_search(config, workdir)
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  split = _split(config)
  # Whole batches only: what fills the last one up would count as images.
  whole = dataset_facts(config).num_examples(split) // c.images
  batches = list(
    take(
      input_pipeline.prefetch_to_devices(
        input_pipeline.eval_batches(
          config.dataset, batch_size=c.images, split=split
        ),
        axis_name=AXIS,
      ),
      min(c.contexts, whole),
    )
  )
  effects = gate_effects(search, variables, batches, c.contexts, config.seed)
  space = search.supernet.space
  mean = {key: value.mean(0) for key, value in effects.items()}
  rows = []
  for kind in dict.fromkeys(g.kind for g in space.gates):
    own = np.array([g.kind == kind for g in space.gates])
    change = mean['change'][own]
    both = (mean['open'][own] + mean['closed'][own]) / 2
    # A hard gate (official, paper) only ever sees the side it is on.
    rows.append(
      {
        'kind': kind,
        'gates': int(own.sum()),
        'abs_change': float(np.abs(change).mean()),
        'abs_slope_open': float(np.abs(mean['open'][own]).mean()),
        'abs_slope_closed': float(np.abs(mean['closed'][own]).mean()),
        'correlation_open': _correlation(mean['open'][own], change),
        'correlation_closed': _correlation(mean['closed'][own], change),
        'correlation_both': _correlation(both, change),
      }
    )
    r = rows[-1]
    say(
      f'ablate: {kind} gates: |change of CE| {r["abs_change"]:.2g}, |slope| '
      f'open {r["abs_slope_open"]:.2g} closed {r["abs_slope_closed"]:.2g}; '
      'correlation with the change: '
      f'open {_show(r["correlation_open"])}, '
      f'closed {_show(r["correlation_closed"])}, '
      f'their mean {_show(r["correlation_both"])}'
    )
  return {
    'formulation': search.formulation.name,
    'split': split,
    'contexts': c.contexts,
    'images_per_context': c.images,
    'rows': rows,
    'per_gate': {
      'layer': [g.layer for g in space.gates],
      'kind': [g.kind for g in space.gates],
      **{key: value.tolist() for key, value in mean.items()},
    },
  }


def _split(config: ConfigDict) -> str:
  """Split of the images on which gates are checked."""
  return 'validation' if dataset_facts(config).num_validation else 'test'


def _show(correlation: Any) -> str:
  return 'too few gates' if correlation is None else f'{correlation:.2f}'


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
  """Pearson's; None where one side does not vary."""
  if len(a) < 3 or a.std() == 0 or b.std() == 0:
    return None
  return float(np.corrcoef(a, b)[0, 1])


# --- does the supernet rank networks as training does? ------------------------


def ranking(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
  """Kendall's tau over random networks of the whole space."""
  c = config.ablate
  search, state = finished_search(config, workdir)
  space, table = search.supernet.space, load_table(config)
  subnets = Subnets(config, search.supernet, state.params, c.ranking_images)
  rows = []
  rng = np.random.default_rng(config.seed)
  drawn = random_choices(space, c.num_networks, rng, max_misses=MAX_DRAWS)
  for choices in drawn.values():
    arch = space.architecture_of(choices)
    trained = score_from_scratch(
      config, workdir, 'ablate', arch, config.seed, table
    )
    shared = subnets.score(space.gates_of(choices))
    rows.append(
      {
        'architecture': arch.to_string(),
        'predicted_ms': trained['predicted_ms'],
        'top1': trained['top1'],
        'cross_entropy': trained['cross_entropy'],
        'supernet_top1': shared['top1'],
        'supernet_cross_entropy': shared['cross_entropy'],
      }
    )
    say(
      f'ablate: ranking {len(rows)}/{c.num_networks}: '
      f'{trained["predicted_ms"]:.4g} ms, from scratch '
      f'{100 * trained["top1"]:.2f}%, in the supernet '
      f'{100 * shared["top1"]:.2f}%'
    )
  taus = {
    'kendall_tau_top1': _tau(rows, 'supernet_top1', 'top1'),
    'kendall_tau_cross_entropy': _tau(
      rows, 'supernet_cross_entropy', 'cross_entropy'
    ),
    'kendall_tau_of_ms': _tau(rows, 'predicted_ms', 'top1'),
  }
  say(f'ablate: ranking {taus}')
  return {**taus, 'num_networks': len(rows), 'networks': rows}


def _tau(rows, a: str, b: str) -> float | None:
  """Kendall's tau; None where all values of one side tie."""
  tau = float(
    scipy.stats.kendalltau([r[a] for r in rows], [r[b] for r in rows]).statistic
  )
  return None if math.isnan(tau) else tau


def num_architectures(space: SearchSpace) -> int:
  """Different networks: which layers of a stage are skipped does not show."""
  size = 1
  for own in space.stages:
    count = len(own.kernels) * len(own.expansions) * len(own.squeeze_ratios)
    least = 1 if own.skippable else own.layers
    size *= sum(count**kept for kept in range(least, own.layers + 1))
  return size
