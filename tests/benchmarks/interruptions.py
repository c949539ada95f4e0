"""Seventy interruptions at random moments of one search on digits.

  python -m tests.benchmarks.interruptions [--kills=50] [--terms=20] [--seed=0]

Starts one search again and again, and each time ends it by SIGKILL or SIGTERM:
half of them while it starts (imports, compilation, reading a checkpoint), half
while it trains, where a checkpoint is written every other step. Then lets it
finish. Prints one JSON object: the exit codes, how far each start came, whether
the end has the bits of a search that nothing disturbed, and what is in its
workdir that is not in the other's. Fails where bits or files differ.

Whatever interrupts, the newest step must never be behind an older one.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

from spnas_jax.latency.table import LatencyTable
from tests.benchmarks.stages import ROOT

# Epochs of 45 steps at batch 32: some 450 steps, one checkpoint in two steps.
OPTIONS = (
  '--config.search.epochs=10.0',
  '--config.search.warmup_epochs=2.0',
  '--config.search.batch_size=32',
  '--config.search.log_every_steps=2',
  '--config.search.checkpoint_epochs=0.045',
  '--config.search.lr_warmup_epochs=0.0',
  '--config.dataset.image_size=12',
  '--config.space.channels=(8,12)',
  '--config.space.layers=(2,2)',
  '--config.space.strides=(2,1)',
  '--config.latency_table=TABLE',
)


def start(workdir: pathlib.Path, table: pathlib.Path) -> subprocess.Popen:
  options = [option.replace('TABLE', str(table)) for option in OPTIONS]
  return subprocess.Popen(
    [
      *(sys.executable, 'main.py', '--stage=search'),
      *('--config=configs/digits.py', f'--workdir={workdir}', *options),
    ],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def make_table(folder: pathlib.Path) -> pathlib.Path:
  """Of this machine, two rounds: which times it holds does not matter here."""
  options = [option for option in OPTIONS if 'search' not in option][:-1]
  subprocess.run(
    [
      *(sys.executable, 'main.py', '--stage=build_table'),
      *('--config=configs/digits.py', f'--workdir={folder}', *options),
      '--config.build_table.rounds=2',
      '--config.build_table.calibration_networks=2',
    ],
    cwd=ROOT,
    check=True,
    stdout=sys.stderr,
  )
  path = folder / 'latency_table.json'
  LatencyTable.load(str(path))
  return path


def interrupt(
  process: subprocess.Popen, how: signal.Signals, rng: random.Random
) -> dict[str, object]:
  """Lets a search run for a while, ends it; what became of it."""
  assert process.stdout is not None
  began = time.monotonic()
  while_training = rng.random() < 0.5
  first = last = resumed = None
  # Imports and compilation take some ten seconds.
  wait = rng.uniform(0.0, 12.0)
  if while_training:
    for line in process.stdout:
      if found := re.search(r'resuming at step (\d+)', line):
        resumed = int(found[1])
      if found := re.search(r'step (\d+)/', line):
        first = int(found[1])
        break
    wait = rng.uniform(0.0, 1.5)
  time.sleep(wait)
  process.send_signal(how)
  said = process.stdout.read()
  code = process.wait(timeout=120)
  for found in re.finditer(r'resuming at step (\d+)', said):
    resumed = int(found[1])
  for found in re.finditer(r'step (\d+)/', said):
    last = int(found[1])
  assert 'Traceback' not in said, said[-3000:]
  return {
    'signal': how.name,
    'while': 'training' if while_training else 'starting',
    'seconds': round(time.monotonic() - began, 1),
    'code': code,
    'resumed': resumed,
    'step': last if last is not None else first,
  }


def finish(workdir: pathlib.Path, table: pathlib.Path) -> str:
  """Hash of the weights of a search that is left alone from here."""
  process = start(workdir, table)
  said, _ = process.communicate(timeout=1200)
  assert process.returncode == 0, said[-3000:]
  results = json.loads((workdir / 'results.json').read_text())
  return results['search']['params_sha256']


def files(workdir: pathlib.Path) -> set[str]:
  """Paths, without what carries a time or a machine's name in it.

  The library that writes checkpoints draws names for the files with their data.
  """
  found = {str(path.relative_to(workdir)) for path in workdir.rglob('*')}
  return {
    re.sub(r'/d/[0-9a-f]{32}$', '/d/*', path)
    for path in found
    if 'events/' not in path
  }


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--kills', type=int, default=50)
  parser.add_argument('--terms', type=int, default=20)
  parser.add_argument('--seed', type=int, default=0)
  arguments = parser.parse_args()
  rng = random.Random(arguments.seed)
  signals = [signal.SIGKILL] * arguments.kills
  signals += [signal.SIGTERM] * arguments.terms
  rng.shuffle(signals)
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    table = make_table(folder / 'table')
    whole = finish(folder / 'whole', table)
    rows: list[dict[str, object]] = []
    early = 0
    for how in signals:
      process = start(folder / 'run', table)
      row = interrupt(process, how, rng)
      if row['code'] == 0:  # It was faster.
        early += 1
      rows.append(row)
      print(json.dumps(row), file=sys.stderr, flush=True)
    ours = finish(folder / 'run', table)
    extra = sorted(files(folder / 'run') ^ files(folder / 'whole'))
  resumed = [row['resumed'] for row in rows if row['resumed'] is not None]
  result = {
    'interruptions': len(rows),
    'finished_before': early,
    'codes': {
      f'{how.name} {code}': sum(
        row['signal'] == how.name and row['code'] == code for row in rows
      )
      for how in (signal.SIGKILL, signal.SIGTERM)
      for code in sorted({row['code'] for row in rows})  # type: ignore[type-var]
    },
    'resumed_at': resumed,
    'never_back': resumed == sorted(resumed),
    'same_bits': ours == whole,
    'files_that_differ': extra,
  }
  print(json.dumps({**result, 'rows': rows}, indent=1))
  good = result['same_bits'] and result['never_back'] and not extra
  sys.exit(0 if good else 1)


if __name__ == '__main__':
  main()
