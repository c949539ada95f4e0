"""What a run leaves behind: results.json, atomic files, finished stages.

Paths are `etils.epath` paths, so a workdir may be a bucket. Only process 0
writes.

A newer version can continue a workdir that an older one began. If the record
lacks a configuration key, the key counts as equal where it has its default,
which means what versions without the key did. If the record lacks a fact beside
the configuration, the fact was not looked at then and is not compared now. What
the record does have must be equal. Records stay as they were written, so what
later stages noted of them (`fingerprint` of a stage's recorded inputs) still
fits.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import sys
import uuid
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from spnas_jax.config import defaults as config_lib
from spnas_jax.config import rules as config_rules
from spnas_jax.core import foreign
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.core.parallel import barrier
from spnas_jax.core.remote import as_path, is_remote, reaching
from spnas_jax.data import folder_names

_PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'tensorflow-cpu',
  'ai-edge-litert',
)

# Keys that change what is printed or where files are, never a result.
_NO_INFLUENCE = (
  'log_every_steps',
  'trace_step',
  'trace_steps',
  'checkpoint_epochs',
  'skip_damaged_checkpoint',
  'data_dir',
  'raw_dir',
  'folder',  # What is in it counts, see `stage_inputs`.
)

# Keys of older versions, with the value under which they did nothing: their
# workdirs go on.
_GONE = {
  'train.random_erasing': 0.0,
  'dataset.randaugment_operations': 0,
  'dataset.randaugment_magnitude': 9.0,
}


# A JSON list of numbers over several lines, which no JSON string has.
_NUMBERS = re.compile(r'\[\n\s*(?:[-+.\deE]+,\n\s*)*[-+.\deE]+\n\s*\]')


class Workdir:
  """A folder with one run's files.

  Attributes:
    path: the folder, absolute.
  """

  def __init__(self, path, field: str = '--workdir'):
    """Makes the folder.

    Args:
      path: the folder.
      field: the flag or key that names it, for messages.

    Raises:
      UserError: it cannot be made or read.
    """
    text = os.fspath(path)
    remote = is_remote(text)
    if not remote:
      text = os.path.abspath(os.path.expanduser(text))
    self._lock: int | None = None
    self.path = as_path(field, text)
    try:
      with reaching(field, text):
        self.path.mkdir(parents=True, exist_ok=True)
        list(self.path.iterdir())
      if not remote and not os.access(
        text, os.R_OK | os.W_OK | os.X_OK, effective_ids=True
      ):
        raise PermissionError('no permission')
    except OSError as e:
      reason = e.strerror or str(e)
      raise UserError(
        f'{field} is {text!r}, must be a folder that can be read and written '
        f'({reason})'
      ) from e

  def __truediv__(self, name: str) -> epath.Path:
    return self.path / name

  def lock(self) -> None:
    """Keeps other runs out of the folder until this process ends.

    Buckets have no locks, and neither has Windows: nothing happens there.

    Raises:
      UserError: another run is in it.
    """
    remote = is_remote(self.path)
    if sys.platform == 'win32' or remote or jax.process_index() != 0:
      return
    import fcntl

    # However the process ends, the lock goes with it.
    self._lock = os.open(os.fspath(self.path), os.O_RDONLY)
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      raise UserError(
        f'--workdir {self.path} is in use by another run; wait for it, or give '
        'another --workdir'
      ) from e

  def unlock(self) -> None:
    """Lets other runs in again."""
    if self._lock is not None:
      os.close(self._lock)
      self._lock = None

  # --- files ------------------------------------------------------------------

  def write(self, name: str, content: str | bytes) -> None:
    """Writes a file so that no reader ever sees half of it."""
    if jax.process_index() != 0:
      return
    target = self.path / name
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f'.{target.name}.{uuid.uuid4().hex}'
    if isinstance(content, str):
      content = content.encode()
    try:
      partial.write_bytes(content)
      partial.replace(target)
    except BaseException:
      partial.unlink(missing_ok=True)
      raise

  def results(self) -> dict[str, Any]:
    """results.json: one object per finished stage.

    Raises:
      UserError: the file is there but is not a JSON object.
    """
    return self._read_object('results.json') or {}

  def _read_object(self, name: str) -> dict[str, Any] | None:
    """A JSON object, None if there is no such file."""
    path = self.path / name
    with reaching('--workdir', self.path):
      if not path.exists():
        return None
    try:
      with reaching('--workdir', self.path):
        text = foreign.read_text(path, 'the file')
      value = foreign.parse_json(text, 'it')
      if not isinstance(value, dict):
        raise ValueError(f'it holds a {type(value).__name__}, not an object')
      return value
    except (OSError, ValueError, UserError) as e:
      raise UserError(
        f'{path}: cannot be read ({e}); restore it or use another --workdir'
      ) from e

  # --- stages -----------------------------------------------------------------

  def finished(self, stage: str, inputs: dict[str, Any]) -> dict | None:
    """A stage's result, if it is already complete for these inputs.

    Raises:
      UserError: the stage is complete, but for other inputs: finished results
        are never overwritten.
    """
    result = self.results().get(stage)
    # All processes look before any can finish the stage, so all decide alike.
    barrier(f'{stage}: finished?')
    if not isinstance(result, dict) or 'config_hash' not in result:
      return None
    same = result['config_hash'] == fingerprint(inputs)
    changed = differences(result.get('inputs', {}), inputs)
    if same or ('inputs' in result and not changed):
      say(f'{stage}: already complete in {self.path}')
      return result
    raise UserError(
      f'--workdir {self.path} holds a finished {stage} with another '
      f'configuration ({changed}); give another --workdir, or remove '
      f'{stage!r} from its results.json'
    )

  def claim(self, stage: str, inputs: dict[str, Any]) -> None:
    """Records the inputs of a stage's unfinished files in the folder.

    Raises:
      UserError: they belong to a run with other inputs.
    """
    name = f'{stage}/inputs.json'
    old = self._read_object(name)
    if old is None:
      self.write(name, json.dumps(inputs, indent=1))
    elif changed := differences(old, inputs):
      raise UserError(
        f'--workdir {self.path} holds an unfinished {stage} with another '
        f'configuration ({changed}); give another --workdir, or remove its '
        f'folder {stage!r}'
      )

  def spend(self, stage: str, seconds: float) -> None:
    """Notes how long an unfinished stage has run, all its parts together."""
    self.write(f'{stage}/spent.json', json.dumps({'seconds': seconds}) + '\n')

  def spent(self, stage: str) -> float:
    """Seconds that earlier parts of an interrupted stage ran; 0 = none did."""
    try:
      noted = (self._read_object(f'{stage}/spent.json') or {}).get('seconds')
    except UserError:  # No run stops for it.
      return 0.0
    if isinstance(noted, (int, float)) and math.isfinite(noted):
      return max(0.0, noted)
    return 0.0

  def finish(
    self,
    stage: str,
    inputs: dict[str, Any],
    result: dict[str, Any],
    seconds: float,
  ) -> dict[str, Any]:
    """Writes a stage's object into results.json, atomically.

    Args:
      stage: name of the stage.
      inputs: what its result depends on.
      result: its keys.
      seconds: wall time, of all parts of a stage that was interrupted.
    """
    entry = {
      **result,
      'wall_seconds': round(seconds, 3),
      'config_hash': fingerprint(inputs),
      'inputs': json.loads(json.dumps(inputs)),
      'versions': versions(),
      'platform': {
        'device': jax.devices()[0].device_kind,
        'num_devices': jax.device_count(),
        'num_processes': jax.process_count(),
        'machine': platform.machine(),
        'cpus': os.cpu_count(),
      },
    }
    self.record(stage, entry)
    barrier(f'{stage}: finished')  # The next stage reads what this one left.
    return entry

  def record(self, stage: str, value: Any) -> None:
    """Puts a stage's value into results.json, atomically."""
    if jax.process_index() != 0:
      return
    results = self.results()
    results[stage] = value
    self.write('results.json', _readable(results) + '\n')


def _readable(results: Any) -> str:
  """JSON with a key a line and a list of numbers a line.

  Otherwise the confusion matrix of 200 classes would take 40,000 lines.
  """
  text = json.dumps(results, indent=1)
  return _NUMBERS.sub(lambda found: ' '.join(found.group().split()), text)


def stage_inputs(config: ConfigDict, *fields: str, **extra) -> dict[str, Any]:
  """Flat {'a.b': value} of the config keys a stage depends on, plus extras."""
  flat: dict[str, Any] = {}

  def visit(name, value):
    if name.rpartition('.')[2] in _NO_INFLUENCE:
      return
    if isinstance(value, ConfigDict):
      for key in value:
        visit(f'{name}.{key}', value[key])
    else:
      flat[name] = value

  for field in fields:
    visit(field, config_rules.get(config, field))
  if 'dataset' in fields and config.dataset.folder:
    flat['dataset.fingerprint'] = folder_names.fingerprint(config.dataset)
  return {**flat, **extra}


def fingerprint(inputs: dict[str, Any]) -> str:
  """Short hash of a stage's inputs."""
  text = json.dumps(inputs, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def curve_name(target_ms: float) -> str:
  """Name of a curve's point, as in '0.35ms'."""
  return f'{target_ms:.4g}ms'


def curve_file(name: str) -> str:
  """Where a workdir keeps the network of a curve's point."""
  return f'search/curve/{name}.json'


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
  """'search.epochs: 3 there, 5 here' for the first few keys that differ.

  Args:
    old: as recorded, possibly by a version with fewer keys (see above).
    new: of this version.
  """
  new = json.loads(json.dumps(new))
  old = {k: v for k, v in old.items() if _GONE.get(k, ...) != v}
  # A fact beside the configuration has no default: it is not compared.
  unrecorded = {**new, **_defaults()}
  changed = [
    f'{key}: {_short(old.get(key))} there, {_short(new.get(key))} here'
    for key in sorted({*old, *new})
    if old.get(key, unrecorded.get(key)) != new.get(key)
  ]
  more = f' and {len(changed) - 3} more' if len(changed) > 3 else ''
  return '; '.join(changed[:3]) + more


@functools.cache
def _defaults() -> dict[str, Any]:
  """The default of every key, flat, as JSON has it."""
  default = config_lib.default_config()
  return json.loads(json.dumps(stage_inputs(default, *default)))


def _short(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 60 else text[:57] + '...'


def versions() -> dict[str, str]:
  """Versions of the packages that decide a result."""
  found = {'python': platform.python_version()}
  for name in _PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found
