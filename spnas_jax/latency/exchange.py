"""A device that somebody else times: models out, a CSV with milliseconds back.

For a farm of phones, Xcode, a simulator, anything that takes a `.tflite` file
and tells a time. The first run of a stage leaves

  WORKDIR/measure/STAGE/models/NAME.tflite   what is to be timed
  WORKDIR/measure/STAGE/manifest.json        file, sha256, input, threads, ...
  WORKDIR/measure/STAGE/times.csv            `model,ms`, a line for each NAME

and ends (`Waiting`). Once the milliseconds are filled in, the same command goes
on as if it had measured. Several lines of one model are repeats.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import math
import re
from typing import Any

import numpy as np
import scipy.stats

from spnas_jax.config.workdir import Workdir
from spnas_jax.core import foreign
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError, Waiting
from spnas_jax.export import tflite
from spnas_jax.latency import units as latency_units
from spnas_jax.latency.devices import Device, Timing, summarise

# A time this many times too long or too short for its model is another unit.
_OFF = 300.0
# Names of models that an error lists before it only counts.
_NAMED = 3
_LONGEST_NAME = 80


class ExchangeDevice(Device):
  """Times come from a file; nothing runs here.

  A sample is what the file says, a model's time the median of its lines.
  """

  quantile = 0.5
  statistic = 'median of the times in times.csv'
  # What only tells where the time goes is not worth another model to time.
  tells_operations = True

  def __init__(self, name: str, threads: int = 1):
    """Names the device, as tables and results will."""
    self.name = name
    self.threads = threads

  def describe(self) -> dict[str, dict[str, Any]]:
    return {
      'device': {'kind': 'files', 'name': self.name},
      'software': {'runtime': 'timed elsewhere'},
    }

  @contextlib.contextmanager
  def session(self, models, warmup_runs, runs_per_round):
    raise UserError(
      "device is 'files', on which nothing runs here; allowed for stages that "
      'time models: build_table, validate_table, profile, compare_zoo'
    )
    yield

  def exchanged(
    self, stage: str, workdir: Workdir, models: dict[str, bytes]
  ) -> dict[str, Timing]:
    """Times of the models from times.csv.

    Args:
      stage: the folder in `measure`.
      workdir: of the run.
      models: what is to be timed -> TFLite model.

    Raises:
      Waiting: no time is filled in yet; models and an empty file are there.
      UserError: lines that cannot be used, by name.
    """
    folder = f'measure/{stage}'
    names = file_names(models)
    path = workdir / folder / 'times.csv'
    if not path.exists():
      self._leave(folder, workdir, models, names)
    wanted = {name: what for what, name in names.items()}
    text = foreign.read_text(path, str(path))
    times = read_times(text, list(wanted), str(path))
    if not times:
      raise Waiting(
        f'{stage}: {len(models)} models wait in '
        f'{workdir / folder / "models"}; time them ({self.threads} thread(s)), '
        f'write their ms into {path}, and run the same command again'
      )
    check_units(
      {name: times[name] for name in wanted},
      {name: tflite.macs(models[what]) for name, what in wanted.items()},
      str(path),
    )
    counts = sorted({len(values) for values in times.values()})
    say(
      f'{stage}: {len(times)} models were timed elsewhere, '
      f'{" to ".join(str(c) for c in sorted({counts[0], counts[-1]}))} '
      'time(s) each'
    )
    return {
      wanted[name]: summarise([[v] for v in values], self.quantile)
      for name, values in times.items()
    }

  def _leave(
    self,
    folder: str,
    workdir: Workdir,
    models: dict[str, bytes],
    names: dict[str, str],
  ) -> None:
    """Writes models and manifest, and last the file to fill in."""
    rows = []
    for what, content in models.items():
      file = f'models/{names[what]}.tflite'
      workdir.write(f'{folder}/{file}', content)
      (source,) = tflite.interpreter(content).get_input_details()
      rows.append(
        {
          'model': names[what],
          'file': file,
          'sha256': hashlib.sha256(content).hexdigest(),
          'bytes': len(content),
          'input_shape': [int(n) for n in source['shape']],
          'input_type': np.dtype(source['dtype']).name,
          'threads': self.threads,
          'precision': precision_of(content),
          'what': what,
        }
      )
    manifest = {'device': self.name, 'unit': 'ms', 'models': rows}
    workdir.write(f'{folder}/manifest.json', json.dumps(manifest, indent=1))
    lines = ['model,ms', *(f'{row["model"]},' for row in rows)]
    workdir.write(f'{folder}/times.csv', '\n'.join(lines) + '\n')


def file_names(models: dict[str, bytes]) -> dict[str, str]:
  """What -> a name for a file and a CSV: letters, digits, '_', '.' and '-'."""
  found: dict[str, str] = {}
  for what in models:
    name = re.sub(r'[^A-Za-z0-9_.-]+', '_', what).removesuffix('.tflite')
    if len(name) > _LONGEST_NAME or name in found.values():
      name = f'network_{hashlib.sha256(what.encode()).hexdigest()[:10]}'
    found[what] = name
  return found


def precision_of(model: bytes) -> str:
  """'float32', 'float16' (weights) or 'int8', by the model's own tensors."""
  root, _ = tflite.unpack(model)
  types = {int(tensor.type) for tensor in root.subgraphs[0].tensors}
  # TFLite's TensorType: 0 float32, 1 float16, 9 int8.
  return 'int8' if 9 in types else 'float16' if 1 in types else 'float32'


def read_times(
  text: str, wanted: list[str], path: str
) -> dict[str, list[float]]:
  """Milliseconds by model, in the order of `wanted`; {} = none filled in.

  Args:
    text: of the CSV file.
    wanted: names of all models.
    path: of the file, for messages.

  Raises:
    UserError: another header, names that nobody asked for, numbers that are
      none, lines that say the same twice, or models without a time.
  """
  rows = foreign.parse_csv(text, ['model', 'ms'], path)
  times: dict[str, list[float]] = collections.defaultdict(list)
  unknown, wrong = [], []
  for name, *cells in rows:
    name = name.removesuffix('.tflite')
    if not any(cells):
      if name and name not in wanted:
        unknown.append(name)
      continue
    if name not in wanted:
      unknown.append(name)
    elif len(cells) != 1 or not (ms := milliseconds(cells[0])):
      wrong.append(f'{name},{",".join(cells)}')
    else:
      times[name].append(ms)
  if unknown:
    raise UserError(
      f'{path} has times of {_some(unknown)}, which nobody asked for; allowed: '
      'the models of manifest.json'
    )
  if wrong:
    raise UserError(
      f'{path} has {_some(wrong)}, allowed: a number of ms above 0 with a '
      'decimal point'
    )
  if not times:
    return {}
  if missing := [name for name in wanted if name not in times]:
    raise UserError(
      f'{path} has no time of {_some(missing)}; {len(times)} of '
      f'{len(wanted)} models have one: add the others and run again'
    )
  _check_copies(times, path)
  return {name: times[name] for name in wanted}


def _check_copies(times: dict[str, list[float]], path: str) -> None:
  """Refuses a file that holds the same measurement twice.

  Repeats may agree where a tool rounds; that *all* lines do, to four digits, is
  a file that was appended to itself.
  """
  several = [values for values in times.values() if len(values) > 1]
  exact = [
    v for v in several if any(len(f'{x:.10g}'.strip('0.')) > 3 for x in v)
  ]
  if len(exact) > 2 and all(len(set(values)) == 1 for values in several):
    copied = [name for name, values in times.items() if len(values) > 1]
    raise UserError(
      f'{path} says the same twice of {_some(copied)}; allowed: several lines '
      'of a model where it was timed several times'
    )


def check_units(
  times: dict[str, list[float]], macs: dict[str, float], path: str
) -> None:
  """Refuses times that are not in ms.

  A single one against the others: far from the power of the multiply-adds that
  fits most models (0 where calls count, 1 where work does; Theil and Sen's
  slope, which a few wrong ones do not move). All of them: `units.check`.

  Raises:
    UserError: naming the models, or what all of them look like.
  """
  names = list(times)
  ms = np.array([np.median(times[name]) for name in names])
  work = np.array([max(macs[name], 1.0) for name in names])
  far = np.zeros(len(names), bool)
  if len(set(work)) > 2:
    fit = scipy.stats.theilslopes(np.log(ms), np.log(work))
    left = np.log(ms) - fit.slope * np.log(work)
    far = np.abs(left - np.median(left)) > np.log(_OFF)
  if far.any():
    wrong = [f'{names[i]},{ms[i]:g}' for i in np.flatnonzero(far)]
    raise UserError(
      f'{path} has {_some(wrong)}, some {_OFF:.0f} times or more off the other '
      'models; allowed: ms everywhere'
    )
  try:
    latency_units.check(float(ms.sum()), float(work.sum()))
  except UserError as e:
    raise UserError(f'{path}: {e}') from e


def milliseconds(text: str) -> float | None:
  """A finite number above 0, or None."""
  try:
    value = float(text)
  except ValueError:
    return None
  return value if math.isfinite(value) and value > 0 else None


def _some(names: list[str]) -> str:
  """The first few of them and how many more."""
  more = len(names) - _NAMED
  words = ', '.join(repr(name) for name in names[:_NAMED])
  return f'{words} and {more} more' if more > 0 else words
