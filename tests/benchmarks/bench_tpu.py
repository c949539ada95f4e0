"""What the TPU compiler says of the ImageNet search at 224 px, without a TPU.

  python -m tests.benchmarks.bench_tpu [--only=v5e] [--runs=runs/bench_tpu]

128 images a device (1024 on the paper's v2-8), each row compiled once and kept
in `--runs`, so an interrupted run goes on; minutes and 5 to more than 12 GiB of
host memory a row.

* scaling: memory, all-reduces and the compiler's estimate of a step as a slice
  grows, on v2, v3, v4 and v5e.
* multi-path: can a v2 core hold one path per candidate? FBNet's search over the
  paper's four operations a layer, and over eight, as many as FBNet's own space
  has (kernel 3 and 5, expansion 1, 2, 3 and 6; FBNet's second expansion of 1 is
  a grouped one), each beside the skip; in bfloat16 and in float32.
* remat: the single path rematerialised (`search.remat`).
* mapping: the single path under `jit` of `shard_map` instead of `pmap`.

Estimates leave collectives and the input pipeline out. Needs libtpu
(requirements-tpu.txt). Prints one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
from typing import Any

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from ml_collections import ConfigDict

from configs import imagenet_search
from spnas_jax.config.spaces import make_space
from spnas_jax.core import parallel
from spnas_jax.core.tpu_compiler import describe, tpu_devices, try_batch
from spnas_jax.latency.entries import space_entries
from spnas_jax.latency.table import LatencyTable
from spnas_jax.search.contestants import (
  make_contestant,
  num_trainable,
  programs,
)
from spnas_jax.search.search_problem import SearchProblem

SHARE = 128
PAPER, WIDE = (3, 6), (1, 2, 3, 6)


@dataclasses.dataclass(frozen=True)
class Row:
  """One method, compiled for one topology."""

  topology: str
  method: str = 'single_path'
  dtype: str = 'bfloat16'
  expansions: tuple[int, ...] = PAPER
  remat: bool = False
  mapping: str = 'pmap'

  @property
  def key(self) -> str:
    operations = 2 * len(self.expansions)
    topology = self.topology.replace(':', '-')
    key = f'{topology}_{self.method}_{operations}_{self.dtype}'
    key = f'{key}_remat' if self.remat else key
    return key if self.mapping == 'pmap' else f'{key}_{self.mapping}'


ROWS = (
  Row('v2:2x2'),
  Row('v2:2x2', dtype='float32'),
  Row('v2:2x2', remat=True),
  Row('v2:2x2', mapping='shard_map'),
  Row('v2:2x2', 'fbnet'),
  Row('v2:2x2', 'fbnet', 'float32'),
  Row('v2:2x2', 'fbnet', expansions=WIDE),
  Row('v2:2x2', 'fbnet', 'float32', WIDE),
  Row('v3:4x4'),
  Row('v4:2x2x2'),
  Row('v4:4x4x4'),
  Row('v5e:2x2'),
  Row('v5e:4x4'),
  Row('v5e:8x8'),
  Row('v5e:16x16'),
)


def table_for(config: ConfigDict, expansions: tuple[int, ...]) -> LatencyTable:
  """The published one; for expansions that it lacks, 4 ms for each operation.

  Which milliseconds are in the runtime term does not change the program.
  """
  table = LatencyTable.load(config.latency_table)
  if expansions == PAPER:
    return table
  keys = space_entries(make_space(config), config.dataset.image_size)
  entry = {'ms': 4.0, 'spread_ms': None, 'count': None}
  return dataclasses.replace(
    table, positional=None, entries=dict.fromkeys(keys, entry)
  )


def price(row: Row) -> dict[str, Any]:
  """Compiles a row; the programs of a method are an object each."""
  config = imagenet_search.get_config()
  config.space.expansions = row.expansions
  config.search.update(dtype=row.dtype, remat=row.remat)
  devices = tpu_devices(row.topology, 'topology')
  config.search.batch_size = SHARE * len(devices)
  problem = SearchProblem.of(config, table_for(config, row.expansions))
  contestant = make_contestant(config, problem, row.method)
  own = programs(contestant, config)
  parallel.use(row.mapping)
  kind = devices[0].device_kind
  return {
    **dataclasses.asdict(row),
    'device_kind': kind,
    'num_devices': len(devices),
    'params': num_trainable(contestant),
    'libtpu': importlib.metadata.version('libtpu'),
    'date': datetime.date.today().isoformat(),
    'programs': [
      describe(try_batch(program, devices, SHARE), kind) for program in own
    ],
  }


def main() -> None:
  """Compiles and prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--runs', default='runs/bench_tpu', help='finished rows')
  parser.add_argument('--only', default='', help='rows whose key starts so')
  args = parser.parse_args()
  runs = pathlib.Path(args.runs)
  runs.mkdir(parents=True, exist_ok=True)
  results = {}
  for row in ROWS:
    path = runs / f'{row.key}.json'
    if not path.exists() and row.key.startswith(args.only):
      partial = path.with_suffix('.partial')
      partial.write_text(json.dumps(price(row)))
      partial.replace(path)
    if path.exists():
      results[row.key] = json.loads(path.read_text())
  print(json.dumps({'images_per_device': SHARE, 'rows': results}, indent=2))


if __name__ == '__main__':
  main()
