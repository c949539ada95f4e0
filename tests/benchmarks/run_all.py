"""Runs every benchmark, one after the other, and writes benchmarks.md.

  make bench                        (TORCH_PYTHON=peers/bin/python for PyTorch)
  python -m tests.benchmarks.run_all [--only=bench_step,bench_input]

Each script's JSON goes to results/<script>.json with versions, load and date;
benchmarks.md is written from whatever results there are, so one script can be
repeated alone. Figures that need PyTorch are left out without it, those of the
TPU compiler without libtpu (requirements-tpu.txt), and those of a GPU without
JAX's CUDA plugin.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from spnas_jax.config.workdir import versions

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
Figures = Iterator[tuple[str, str]]


def step(r: dict[str, Any]) -> Figures:
  device = r['machine'].get('device', 'cpu')
  for case, own in r['cases'].items():
    what = f'{device}, {case}, batch {own["batch"]} at {own["image_size"]} px'
    for name, ms in own['median_ms'].items():
      rate = 1e3 * own['batch'] / ms
      yield f'{what}: {name} step', f'{ms:.1f} ms, {rate:,.0f} images/s'
    for name, ratio in own['ratios'].items():
      yield f'{what}: {name.replace("_over_", " / ")}', f'{ratio:.3f}'


def compile_(r: dict[str, Any]) -> Figures:
  for name in ('cold', 'cached'):
    own = r[name]
    yield (
      f'compile the search step, {r["case"]}, {name}',
      f'{own["total_s"]:.1f} s wall, {own["total_cpu_s"]:.1f} s CPU',
    )


def pipeline(r: dict[str, Any]) -> Figures:
  yield (
    'Fashion-MNIST search step: with input pipeline / data on the device',
    f'{r["pipeline_over_on_device"]:.3f}',
  )


def depthwise(r: dict[str, Any]) -> Figures:
  for name, value in r['total']['median'].items():
    if '_over_' in name:
      yield (
        'depthwise convolutions of the ImageNet network, both directions: '
        + name.replace('_over_', ' / '),
        f'{value:.3f}',
      )


def input_(r: dict[str, Any]) -> Figures:
  yield (
    'JPEG records at 224 px, images a CPU second: ours / usual tf.data',
    f'{r["ours_over_usual"]:.2f}',
  )
  yield 'share of decoding in it', f'{r["decode_share_of_ours"]:.2f}'


def folder(r: dict[str, Any]) -> Figures:
  what = 'folder of JPEG files at 128 px: ours / image_dataset_from_directory'
  yield f'{what}, images/s', f'{r["ours_over_usual"]:.2f}'
  yield f'{what}, images a CPU second', f'{r["ours_over_usual_per_cpu_s"]:.2f}'


def export(r: dict[str, Any]) -> Figures:
  models = r['models']
  yield (
    "MobileNetV2 TFLite: ours / Keras' export, ms",
    f'{r["ours_over_keras"]:.3f}',
  )
  yield (
    'MobileNetV2 TFLite: float32 / int8, ms',
    f'{models["float32"]["ms"] / models["int8"]["ms"]:.2f}',
  )


def table(r: dict[str, Any]) -> Figures:
  for check, when in zip(r['checks'], ('', ', again'), strict=True):
    yield (
      f'latency table, {check["num_networks"]} unseen networks, '
      f'{r["space"]}{when}: mean error, rank correlation',
      f'{check["mean_abs_pct"]:.2f}%, {check["rank_correlation"]:.3f}',
    )
  yield (
    'the same networks timed twice, mean difference',
    f'{r["repeat_networks"]["mean_abs_pct"]:.2f}%',
  )


def table_kinds(r: dict[str, Any]) -> Figures:
  for kind, own in r['kinds'].items():
    other = own['by_float32_table']
    yield (
      f'latency table, {kind.replace("_", " ")}, {r["num_networks"]} unseen '
      f'networks, {r["space"]}, {own["date"]} at load '
      f"{own['conditions']['load_1_min']:.0f}: mean error at the day's speed, "
      'rank correlation, repeats within',
      f'{own["mean_abs_pct_at_todays_speed"]:.2f}%, '
      f'{own["rank_correlation"]:.3f}, {own["repeat_pct"]:.2f}%',
    )
    yield (
      'the same networks by the float32 table: as it is, with the best factor',
      f'{other["mean_abs_pct"]:.1f}%, '
      f'{other["mean_abs_pct_with_best_factor"]:.1f}%',
    )


def mapping(r: dict[str, Any]) -> Figures:
  least, *_, most = sorted(r['all_ratios'])
  yield (
    f'digits search step on {r["devices"]} CPU devices: jit of shard_map / '
    'pmap, median of rounds (all)',
    f'{r["shard_map_over_pmap"]:.3f} ({least:.2f} to {most:.2f})',
  )


def interrupted(r: dict[str, Any]) -> Figures:
  codes = ', '.join(f'{name}: {n}' for name, n in r['codes'].items() if n)
  yield (
    f'digits search, {r["interruptions"]} interruptions at random moments '
    f'({codes}): same bits at the end, files that differ',
    f'{"yes" if r["same_bits"] else "no"}, {len(r["files_that_differ"])}',
  )


def soaked(r: dict[str, Any]) -> Figures:
  what = f'digits search, {r["steps"]:,} steps'
  yield (
    f'{what}: memory in the second half, MiB per 1,000 steps',
    f'{r["mib_per_1000_steps"]:.2f} ± {r["standard_error"]:.2f}',
  )
  times = r['cpu_ms_per_step_of_tenths']
  yield (
    f'{what}: CPU time of a step in the first and the last tenth',
    f'{times[0]} and {times[-1]} ms',
  )


def curve(r: dict[str, Any]) -> Figures:
  what = 'digits, CPU time of a curve of five networks'
  yield f'{what} / one search', f'{r["curve_over_gradient"]:.3f}'
  yield f'{what} / one search by worths', f'{r["curve_over_worth"]:.3f}'
  yield (
    'its points within 2% below their targets',
    f'{r["landed"]} of {r["points"]}',
  )


def multipath(r: dict[str, Any]) -> Figures:
  size = f'batch {r["batch_size"]} at {r["image_size"]} px'
  for method, row in r['methods'].items():
    if method != 'single_path':
      own = row['factors']
      yield (
        f'{method} / single path, {size}',
        ', '.join(f'{key} {value:.2f}' for key, value in own.items()),
      )


def tpu(r: dict[str, Any]) -> Figures:
  for row in r['rows'].values():
    what = (
      f'TPU compiler, {row["method"]}, {2 * len(row["expansions"])} operations '
      f'a layer and the skip, {row["dtype"]}, {row["topology"]} '
      f'({row["num_devices"]} devices), {r["images_per_device"]} images each'
      + (', rematerialised' if row.get('remat') else '')
      + (', jit of shard_map' if row.get('mapping') == 'shard_map' else '')
      + (f', {row["date"]}' if 'date' in row else '')
    )
    own = row['programs']
    if not all(program['fits'] for program in own):
      # The compiler refuses some programs and only reports on others.
      needed = [
        program.get('needed_bytes_per_device')
        or program['peak_bytes_per_device']
        or 0
        for program in own
      ]
      yield what, f'does not fit: {max(needed) / 2**30:.1f} GiB needed'
      continue
    temp = max(program['temp_bytes_per_device'] for program in own) / 2**30
    reduces = sum(program['num_all_reduces'] for program in own)
    reduced = sum(program['all_reduce_bytes'] for program in own) / 1e6
    cycles = sum(program['estimated_cycles'] for program in own) / 1e6
    seconds = [program['estimated_step_seconds'] for program in own]
    lasting = '' if None in seconds else f' ({sum(seconds):.3f} s)'
    yield (
      what,
      f'{temp:.2f} GiB of temporaries, {reduces} all-reduces of {reduced:.1f} '
      f'MB, {cycles:.0f} M cycles estimated{lasting}',
    )


# Script -> what to say of its JSON.
SCRIPTS: dict[str, Callable[[dict[str, Any]], Figures]] = {
  'bench_step': step,
  'bench_compile': compile_,
  'bench_pipeline': pipeline,
  'bench_depthwise': depthwise,
  'bench_multipath': multipath,
  'bench_input': input_,
  'bench_folder': folder,
  'bench_export': export,
  'bench_table': table,
  'bench_table_kinds': table_kinds,
  'bench_mapping': mapping,
  'curve_cost': curve,
  'interruptions': interrupted,
  'soak': soaked,
  'bench_tpu': tpu,
  'bench_gpu': step,
}
WITH_TORCH = ('bench_step', 'bench_gpu', 'bench_depthwise')
# Left out where none of these packages is installed.
NEEDS = {
  'bench_tpu': ('libtpu',),
  'bench_gpu': ('jax_cuda13_plugin', 'jax_cuda12_plugin'),
}


def run(script: str) -> None:
  """Runs a script and keeps what it prints."""
  command = [sys.executable, '-m', f'tests.benchmarks.{script}']
  torch = os.environ.get('TORCH_PYTHON')
  if torch and script in WITH_TORCH:
    command.append(f'--torch_python={torch}')
  start, load = time.monotonic(), os.getloadavg()
  done = subprocess.run(
    command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
  )
  text = done.stdout[done.stdout.index('{') :]
  result = {
    'result': json.loads(text),
    'command': ' '.join(['python', *command[1:3]]),
    'date': datetime.date.today().isoformat(),
    'machine': f'{platform.machine()}, {os.cpu_count()} CPUs',
    'versions': versions(),
    'load_before_and_after': [round(load[0], 2), round(os.getloadavg()[0], 2)],
    'seconds': round(time.monotonic() - start, 1),
  }
  path = HERE / 'results' / f'{script}.json'
  path.parent.mkdir(exist_ok=True)
  path.write_text(json.dumps(result, indent=1) + '\n')


def markdown() -> str:
  """All results as one table."""
  lines = [
    '# Benchmarks',
    '',
    'Written by `make bench`; medians of interleaved rounds. Machines are',
    'shared: compare ratios, not milliseconds. Raw figures: `results/`.',
    '',
    '| what | figure | command | date, load before and after |',
    '|---|---|---|---|',
  ]
  used: dict[str, None] = {}
  for script, say in SCRIPTS.items():
    path = HERE / 'results' / f'{script}.json'
    if not path.exists():
      lines.append(f'| {script} | not run | | |')
      continue
    kept = json.loads(path.read_text())
    before, after = (
      'not read' if load is None else load
      for load in kept['load_before_and_after']
    )
    for what, figure in say(kept['result']):
      lines.append(
        f'| {what} | {figure} | `{kept["command"]}` | {kept["date"]}, '
        f'{before} and {after} |'
      )
    packages = ', '.join(f'{k} {v}' for k, v in kept['versions'].items())
    used[f'{kept["machine"]}; {packages}'] = None
  return '\n'.join([*lines, '', *(f'* {text}' for text in used), ''])


def main() -> None:
  """Runs and writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--only', help='scripts, separated by commas')
  args = parser.parse_args()
  for script in args.only.split(',') if args.only else SCRIPTS:
    wanted = NEEDS.get(script, ())
    if wanted and not any(map(importlib.util.find_spec, wanted)):
      print(f'{script}: left out, needs {" or ".join(wanted)}', flush=True)
    elif script:
      print(script, flush=True)
      run(script)
  (HERE / 'benchmarks.md').write_text(markdown())
  print(f'wrote {HERE / "benchmarks.md"}')


if __name__ == '__main__':
  main()
