"""How many timed networks does a table need that is fitted to them?

  python -m tests.benchmarks.fit_networks --data=FILE.csv [--ship]

The file has 5,000 networks of a 22-layer FBNet-style space at CIFAR size, timed
by others on six devices (HELP, Lee et al., NeurIPS 2021; MIT licence): one
digit a layer, 0 to 8 = k3 e1, k3 e1 with two groups, k3 e3, k3 e6, k5 e1, k5 e1
with two groups, k5 e3, k5 e6, skip. For each device, tables are fitted to some
of the first 4,000 networks (three draws each) and judged on the last 1,000.

Writes `results/fit_networks.json`. With --ship also `latency/*_fbnet.json`, of
the two devices whose times are exact sums of their layers'.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import pathlib

import numpy as np

from configs import fbnet_cifar
from spnas_jax.config.spaces import make_space
from spnas_jax.latency import fitting
from spnas_jax.latency.entries import Entry
from spnas_jax.latency.table import LatencyTable, Positional
from spnas_jax.latency.whole_networks import facts_of
from spnas_jax.networks.architecture import block_input_sizes
from spnas_jax.networks.space import Choice
from tests.benchmarks.stages import ROOT

RESULT = ROOT / 'tests/benchmarks/results/fit_networks.json'
# Digit -> kernel, expansion ratio, groups; the last one skips.
OPERATIONS = tuple(
  (kernel, expansion, groups)
  for kernel in (3, 5)
  for expansion, groups in ((1, 1), (1, 2), (3, 1), (6, 1))
)
SKIP = len(OPERATIONS)
LAYERS = 22
ROWS = (20, 30, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 4000)
TRAINING, DRAWS = 4000, 3
NAMES = {
  'raspi4_ms': ('raspi4', 'Raspberry Pi 4'),
  'pixel3_ms': ('pixel3', 'Google Pixel 3'),
}


def load(path: pathlib.Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """(digits [n, layers], device -> ms [n])."""
  with path.open() as file:
    header, *rows = csv.reader(file)
  digits = np.array([[int(c) for c in row[0]] for row in rows])
  columns = np.array([[float(x) for x in row[1:]] for row in rows]).T
  return digits, dict(zip(header[1:], columns, strict=True))


def space():
  """The space of the rows, but for its grouped candidates."""
  config = fbnet_cifar.get_config()
  config.latency_table = ''
  return make_space(config)


def counts_of(digits: np.ndarray) -> np.ndarray:
  """One column for each layer's operation, and one for all that is fixed."""
  chosen = np.eye(SKIP + 1)[digits].reshape(len(digits), -1)
  return np.column_stack([chosen, np.ones(len(digits))])


def facts() -> np.ndarray:
  """What takes time in each column of `counts_of`.

  A skip where channels or stride change is not free, and groups need a
  shuffle: both have a fact of their own, and so has all that is fixed.
  """
  rows, own = [], space()
  sizes = block_input_sizes(own.largest, 32)
  for layer, size in zip(own.layers, sizes, strict=False):
    for kernel, expansion, groups in OPERATIONS:
      block = dataclasses.replace(
        layer.block(Choice(kernel, expansion, 0.0)), groups=groups
      )
      entry = Entry('', 'block', own.largest, size, block.in_channels, block)
      grouped = float(groups > 1)
      rows.append([*facts_of(entry), grouped, 0.0, 0.0])
    rows.append([0.0] * 7 + [1e-3 if layer.residual else 1.0, 0.0])
  return np.array([*rows, [0.0] * 8 + [1.0]])


def errors_by_rows(
  counts: np.ndarray, measured: np.ndarray, known: np.ndarray
) -> list[dict[str, float]]:
  """Held-out error for each number of rows, percent."""
  unseen = slice(TRAINING, None)
  found = []
  for rows in ROWS:
    draws = []
    for seed in range(DRAWS if rows < TRAINING else 1):
      drawn = np.random.default_rng(seed).permutation(TRAINING)[:rows]
      made = fitting.fit(counts[drawn], measured[drawn], known)
      off = counts[unseen] @ made.ms / measured[unseen] - 1
      draws.append((100 * np.abs(off).mean(), made.held_out_pct))
    error, claimed = np.mean(draws, axis=0)
    found.append({'rows': rows, 'error_pct': error, 'claimed_pct': claimed})
  return found


def ship(name: str, spelled: str, digits: np.ndarray, measured: np.ndarray):
  """The positional table of a device whose times are exact sums.

  Sums fix entries only up to a constant a layer. A layer that may be skipped
  counts from its skip, which takes nothing; the others share the rest with the
  constant as the prior does.
  """
  own, counts, known = space(), counts_of(digits), facts()
  free = [
    i * (SKIP + 1) + SKIP
    for i, layer in enumerate(own.layers)
    if layer.skippable
  ]
  kept = np.setdiff1d(np.arange(counts.shape[1]), free)
  made = fitting.fit(counts[:, kept], measured, known[kept])
  ms = np.zeros(counts.shape[1])
  ms[kept] = made.ms
  off = np.abs(counts @ ms - measured).max()
  entries = {'constant': {'ms': round(float(ms[-1]), 6)}}
  for i in range(LAYERS):
    for digit, (kernel, expansion, groups) in enumerate(OPERATIONS):
      if groups == 1:
        value = round(float(ms[i * (SKIP + 1) + digit]), 6)
        entries[f'layer{i:02d}_k{kernel}_e{expansion}'] = {'ms': value}
  table = LatencyTable(
    name=f'{name}_fbnet',
    device={'name': spelled},
    software={},
    threads=1,
    protocol={
      'statistic': 'sum of per-layer times, as published',
      'networks': len(measured),
      'largest_error_ms': round(float(off), 6),
    },
    date='2021',
    image_size=32,
    entries={
      key: {**entry, 'spread_ms': None, 'count': None}
      for key, entry in entries.items()
    },
    calibration={'factor': 1.0},
    positional=Positional(network=own.largest.to_string(), first=0, last=0),
    provenance=(
      'Fitted by tests/benchmarks/fit_networks.py to the latencies of 5,000 '
      'networks published with HELP (Lee, Lee, Chong, Hwang, NeurIPS 2021; '
      'github.com/HayeonLee/HELP, MIT licence). Times of that data set are '
      'sums of per-layer times; they hold up to a constant.'
    ),
  )
  path = ROOT / 'latency' / f'{name}_fbnet.json'
  path.write_text(table.to_json() + '\n')
  return path, off


def main() -> None:
  """Fits, judges, prints and writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--data', type=pathlib.Path, required=True)
  parser.add_argument('--ship', action='store_true')
  args = parser.parse_args()
  digits, devices = load(args.data)
  counts, known = counts_of(digits), facts()
  devices['raspi4_ms, whole ms'] = np.round(devices['raspi4_ms'])
  devices['pixel3_ms, whole ms'] = np.round(devices['pixel3_ms'])
  result = []
  for name, measured in devices.items():
    found = errors_by_rows(counts, measured, known)
    floor = found[-1]['error_pct']
    # Exact sums have no floor: a thousandth of a percent is none either.
    enough = next(
      row['rows'] for row in found if row['error_pct'] <= max(1.1 * floor, 1e-3)
    )
    within_2 = [row['rows'] for row in found if row['error_pct'] <= 2]
    result.append(
      {
        'device': name,
        'floor_pct': floor,
        'rows_within_1.1_of_floor': enough,
        'rows_within_2_pct': within_2[0] if within_2 else None,
        'by_rows': found,
      }
    )
    print(json.dumps({k: v for k, v in result[-1].items() if k != 'by_rows'}))
  RESULT.write_text(json.dumps(result, indent=1) + '\n')
  if args.ship:
    for column, (name, spelled) in NAMES.items():
      path, off = ship(name, spelled, digits, devices[column])
      print(f'{path}: largest error {off:.2g} ms')


if __name__ == '__main__':
  main()
