"""Which judge ranks networks as training does? Supernets against cheaper ones.

  python -m tests.benchmarks.rankers [--worth=WORKDIR ...]

No training: the forty random Fashion-MNIST networks of `search_quality` are
ranked by what is already known of them, and each ranking is compared (Kendall's
tau) with their cross-entropy after six epochs of training from scratch. Judges:

* predicted ms, parameters, multiply-adds: of two networks, the larger;
* a training of two epochs;
* an additive model of such trainings: for each stage, the number of 5x5
  kernels, of expansions 6 and of layers; each network is predicted by a model
  fitted to the 39 others. The same of the six epochs themselves says what any
  additive judge could reach;
* supernets, as scored, and an additive model of those scores;
* the worths of finished searches by `search.method='worth'` (--worth), which
  scored networks of their own.

Writes `results/rankers.json`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

from configs import fashion_mnist
from spnas_jax.config.spaces import make_space
from spnas_jax.networks.architecture import Architecture, num_macs
from spnas_jax.networks.space import SearchSpace
from tests.benchmarks.search_rows import RANKED
from tests.benchmarks.stages import ROOT

RESULTS = ROOT / 'tests/benchmarks/results'


def networks() -> dict[str, dict[str, Any]]:
  """Block string -> what `search_quality` knows of a random network.

  'band': '0' = drawn from the whole space, else the target's share in percent;
  'ms', 'params'; 'train' and 'long': mean cross-entropy after 2 and 6 epochs.
  """
  found: dict[str, dict[str, Any]] = {}
  for key, row in json.loads(
    (RESULTS / 'search_quality.json').read_text()
  ).items():
    kind, _, band, *group = key.split('-')
    if kind in ('train', 'long') and {'random', 'spread'} & set(group):
      own = found.setdefault(row['architecture'], {'train': [], 'long': []})
      own |= {
        'band': band,
        'ms': row['predicted_ms'],
        'params': row['params'],
      }
      own[kind].append(row['cross_entropy'])
  for own in found.values():
    own |= {kind: float(np.mean(own[kind])) for kind in ('train', 'long')}
  return found


def supernet_scores() -> dict[str, dict[str, float]]:
  """Supernet -> block string -> cross-entropy inside it."""
  rows = json.loads((RESULTS / 'search_quality.json').read_text())
  return {
    key.split('-')[3]: {
      n['architecture']: n['cross_entropy'] for n in row['networks']
    }
    for key, row in rows.items()
    if key.startswith('ranking') and key.split('-')[3] in RANKED
  }


def counts(space: SearchSpace, arch: Architecture) -> list[int]:
  """For each stage: 5x5 kernels, expansions 6, layers."""
  found = []
  for stage in space.stages:
    own = [b for b in arch.blocks if b.out_channels == stage.channels]
    found += [
      sum(b.kernel == stage.kernels[-1] for b in own),
      sum(b.expansion == stage.expansions[-1] for b in own),
      len(own),
    ]
  return found


def left_out(features: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Each value as a linear model of all the others predicts it."""
  design = np.column_stack([np.ones(len(features)), features])
  predicted = np.empty(len(values))
  for i in range(len(values)):
    others = np.arange(len(values)) != i
    fit = np.linalg.lstsq(design[others], values[others], rcond=None)[0]
    predicted[i] = design[i] @ fit
  return predicted


def judges(worths: Sequence[pathlib.Path]) -> dict[str, np.ndarray]:
  """Judge -> predicted cross-entropies, in any unit, of `networks()`."""
  space, known = make_space(fashion_mnist.get_config()), networks()
  archs = [Architecture.from_string(text) for text in known]
  features = np.array([counts(space, arch) for arch in archs], float)

  def column(key):
    return np.array([own[key] for own in known.values()])

  found = {
    'predicted ms': -column('ms'),
    'parameters': -column('params'),
    'multiply-adds': -np.array([num_macs(arch, 28) for arch in archs]),
    '2 epochs': column('train'),
    '2 epochs, additive': left_out(features, column('train')),
    '6 epochs, additive': left_out(features, column('long')),
  }
  for name, scores in supernet_scores().items():
    own = np.array([scores[text] for text in known])
    found[f'supernet {name}'] = own
    found[f'supernet {name}, additive'] = left_out(features, own)
  gates = np.array([_gates(space, arch) for arch in archs])
  for path in worths:
    rows = json.loads((path / 'results.json').read_text())['search'][
      'decisions'
    ]
    found[f'worth {path.name}'] = -gates @ [row['worth'] for row in rows]
  return found


def _gates(space: SearchSpace, arch: Architecture) -> np.ndarray:
  """Gates of a network whose batch norm may have other settings."""
  return space.encode(
    arch.replace(
      batch_norm_momentum=space.batch_norm_momentum,
      batch_norm_epsilon=space.batch_norm_epsilon,
    )
  )


def main() -> None:
  """Prints and writes tau of every judge, over the space and in each band."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--worth', type=pathlib.Path, nargs='*', default=())
  args = parser.parse_args()
  known = networks()
  truth = np.array([own['long'] for own in known.values()])
  bands = np.array([own['band'] for own in known.values()])
  rows = []
  for judge, values in judges(args.worth).items():
    row: dict[str, Any] = {'judge': judge}
    for name, inside in (
      ('all', bands != ''),
      ('whole_space', bands == '0'),
      ('band_40', bands == '40'),
      ('band_55', bands == '55'),
    ):
      tau = scipy.stats.kendalltau(values[inside], truth[inside]).statistic
      row[name] = round(float(tau), 3)
    rows.append(row)
    print(json.dumps(row))
  result = {'networks': len(known), 'rows': rows}
  (RESULTS / 'rankers.json').write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
  main()
