"""What a workdir holds, read for the report: the only place that reads it.

No missing file is an error here. A part that is absent is None or empty; a
part that is there but cannot be used leaves a line in `Findings.problems`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir, differences, stage_inputs
from spnas_jax.core.errors import UserError
from spnas_jax.core.remote import as_path, reaching
from spnas_jax.export.network import FILES
from spnas_jax.latency.table import LatencyTable, network_keys
from spnas_jax.networks.architecture import (
  Architecture,
  Block,
  block_input_sizes,
)
from spnas_jax.networks.space import Choice, Choices, SearchSpace
from spnas_jax.report.figures import Curve
from spnas_jax.report.network_figures import (
  GateRow,
  NetworkRow,
  PartTime,
  Superkernel,
)
from spnas_jax.training.history import History, read_npz

MODELS = {precision: name for precision, (name, _) in FILES.items()}
_UNREADABLE = (UserError, OSError)


@dataclasses.dataclass
class Findings:
  """Attributes, each empty or None where the workdir does not have it.

  results: results.json.
  arch: the network the search found; without one, the network that was trained.
  image_size: side of the images, px.
  space: the search's space.
  choices: what the search chose for every layer of the space; None = skipped.
  table: the latency table of the search.
  search_curves, train_curves: scalars over the steps.
  supernet: arrays of `search/supernet.npz`.
  mistake_images: uint8 [n, h, w, c], of the evaluation's 'worst_mistakes'.
  model_bytes: precision -> size of the exported file.
  problems: one line for each part that is there but could not be used.
  """

  image_size: int
  results: dict[str, Any] = dataclasses.field(default_factory=dict)
  arch: Architecture | None = None
  space: SearchSpace | None = None
  choices: Choices | None = None
  table: LatencyTable | None = None
  search_curves: dict[str, Curve] = dataclasses.field(default_factory=dict)
  train_curves: dict[str, Curve] = dataclasses.field(default_factory=dict)
  supernet: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  mistake_images: np.ndarray | None = None
  model_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
  problems: list[str] = dataclasses.field(default_factory=list)

  def stage(self, name: str) -> dict[str, Any]:
    """A stage's object in results.json, {} if it has not run."""
    value = self.results.get(name)
    return value if isinstance(value, dict) else {}


def gather(config: ConfigDict, workdir: Workdir) -> Findings:
  """Reads everything.

  Raises:
    UserError: results.json is damaged.
  """
  found = Findings(config.dataset.image_size, workdir.results())

  def attempt(what, read, *args):
    try:
      return read(*args)
    except _UNREADABLE as e:
      found.problems.append(f'{what} is left out: {" ".join(str(e).split())}')
      return None

  found.arch = attempt('The network', _read_architecture, workdir)
  if found.arch and found.arch.num_classes <= 5:
    found.results = without_top5(found.results)
  found.search_curves, found.train_curves = (
    attempt(f'What {stage} logged', _read_curves, workdir, stage) or {}
    for stage in ('search', 'train')
  )
  for stage, curves in (
    ('search', found.search_curves),
    ('train', found.train_curves),
  ):
    if stage in found.results and not curves:
      found.problems.append(
        f'The curves of {stage} are left out: there is no {stage}/history.npz.'
      )
  path = workdir / 'search' / 'supernet.npz'
  if path.exists():
    arrays = attempt('What the supernet learned', read_npz, path)
    found.supernet = arrays or {}
  if rows := found.stage('evaluate').get('worst_mistakes'):
    found.mistake_images = attempt(
      'The picture of the worst mistakes', _read_mistakes, workdir, rows
    )
  found.model_bytes = {
    precision: (workdir / name).stat().length
    for precision, name in MODELS.items()
    if (workdir / name).exists()
  }
  search = found.stage('search')
  if search:
    found.space = attempt('The search space', _read_space, config, search)
  if found.space and found.arch:
    found.choices = attempt(
      'What the search chose', _read_choices, workdir, found.space, found.arch
    )
  found.table = attempt(
    'The latency table', _read_table, config, workdir, search
  )
  return found


def without_top5(value: Any) -> Any:
  """Results without 'top5', which is always 1 for up to five classes."""
  if isinstance(value, list):
    return [without_top5(item) for item in value]
  if not isinstance(value, dict):
    return value
  return {
    key: without_top5(item)
    for key, item in value.items()
    if not key.startswith('top5')
  }


def _read_architecture(workdir: Workdir) -> Architecture | None:
  for name in ('architecture.json', 'train/architecture.json'):
    path = workdir / name
    if path.exists():
      return Architecture.from_json(path.read_text())
  return None


def _read_curves(workdir: Workdir, stage: str) -> dict[str, Curve]:
  """Every scalar that a stage logged, over its steps."""
  arrays = History(workdir, stage).arrays()
  steps = arrays.pop('step', np.zeros(0))
  return {
    key: Curve(steps, values.astype(np.float64))
    for key, values in arrays.items()
    if values.ndim == 1
  }


def _read_mistakes(
  workdir: Workdir, rows: Sequence[dict[str, Any]]
) -> np.ndarray:
  """The images of these mistakes."""
  path = workdir / 'evaluate' / 'worst_mistakes.npz'
  if not path.exists():
    raise UserError(f'there is no evaluate/{path.name}')
  arrays = read_npz(path)
  index = [row['index'] for row in rows]
  if arrays['index'].tolist() != index or len(arrays['images']) != len(index):
    raise UserError(f'evaluate/{path.name} is of another evaluation')
  return arrays['images']


def _read_space(config: ConfigDict, search: dict[str, Any]) -> SearchSpace:
  """The configured space, if it is the one that was searched."""
  asked = stage_inputs(config, 'space', 'dataset.name', 'dataset.image_size')
  searched = search.get('inputs', asked)
  theirs = {key: searched[key] for key in asked if key in searched}
  changed = differences(theirs, asked)
  if changed:
    raise UserError(f'the search ran with another configuration ({changed})')
  return make_space(config)


def _read_choices(
  workdir: Workdir, space: SearchSpace, arch: Architecture
) -> Choices:
  """The search's own record; without it, kept layers count as the first."""
  path = workdir / 'search' / 'found.npy'
  if path.exists():
    try:
      gates = np.load(io.BytesIO(path.read_bytes()))
    except (ValueError, EOFError) as e:
      raise UserError(f'{path.name} is damaged') from e
    if gates.shape == (len(space.gates),) and space.decode(gates) == arch:
      return space.choices_of(gates)
  return space.choices_of(space.encode(arch))


def _read_table(
  config: ConfigDict, workdir: Workdir, search: dict[str, Any]
) -> LatencyTable | None:
  """The configured table or the workdir's, if it is the search's."""
  path: Any = config.latency_table
  with reaching('latency_table', path):
    there = bool(path) and as_path('latency_table', path).exists()
  if not there:
    path = workdir / 'latency_table.json'
    if not path.exists():
      return None
  table = LatencyTable.load(path)
  wanted = search.get('inputs', {}).get('table')
  own = hashlib.sha256(table.to_json().encode()).hexdigest()[:16]
  if wanted is not None and wanted != own:
    raise UserError(f'{path} is not the table that the search used')
  return table


# --- rows for the pictures ----------------------------------------------------


def block_name(block: Block) -> str:
  """'MBConv 5×5-6', the paper's name of an operation."""
  if block.op != 'ir':
    return f'DSConv {block.kernel}×{block.kernel}'
  name = f'MBConv {block.kernel}×{block.kernel}-{block.expansion}'
  return name + (' SE' if block.squeeze_ratio else '')


def choice_name(choice: Choice | None) -> str:
  """'5×5-6' or 'skipped'."""
  if choice is None:
    return 'skipped'
  name = f'{choice.kernel}×{choice.kernel}-{choice.expansion}'
  return name + (' SE' if choice.squeeze_ratio else '')


def network_rows(found: Findings) -> list[NetworkRow]:
  """Rows of `network_figures.network`; the skipped ones where known."""
  arch = found.arch
  if arch is None:
    return []
  sizes = block_input_sizes(arch, found.image_size)
  stem_ms, block_ms, head_ms, _ = _times(found)

  def shape(size, channels):
    return f'{size}×{size}×{channels}'

  rows = [
    NetworkRow(
      f'stem {arch.stem_kernel}×{arch.stem_kernel}',
      shape(sizes[0], arch.stem_channels),
      ms=stem_ms,
    )
  ]
  kept = iter(range(len(arch.blocks)))
  for layer, present in _layout(found):
    if not present:
      rows.append(NetworkRow('skipped', '', skipped=True, layer=layer))
      continue
    i = next(kept)
    block = arch.blocks[i]
    rows.append(
      NetworkRow(
        block_name(block),
        shape(sizes[i + 1], block.out_channels),
        block.kernel,
        block.expansion,
        block_ms[i],
        layer=layer,
      )
    )
  features = arch.feature_channels
  name = 'head, classifier' if arch.head_channels else 'classifier'
  rows.append(NetworkRow(name, f'{features} → {arch.num_classes}', ms=head_ms))
  return rows


def part_times(found: Findings) -> list[PartTime]:
  """Rows of `network_figures.layer_times`; none without a table."""
  arch = found.arch
  stem_ms, block_ms, head_ms, constant_ms = _times(found)
  if arch is None or not any(ms is not None for ms in block_ms):
    return []
  slowest, measured = _slowest(found), _measured(found)
  parts = []
  if constant_ms is not None:
    parts.append(PartTime('fixed parts', constant_ms))
  if stem_ms is not None:
    parts.append(PartTime('stem', stem_ms, measured_ms=measured[0]))
  kept = iter(range(len(arch.blocks)))
  for layer, present in _layout(found):
    limit = slowest[layer] if slowest and layer is not None else None
    place = '' if layer is None else f'{layer}  '
    if not present:
      parts.append(PartTime(f'{place}skipped', 0.0, limit))
      continue
    i = next(kept)
    block, ms = arch.blocks[i], block_ms[i]
    if ms is not None:
      name = place + block_name(block).removeprefix('MBConv ')
      kernel = 0 if layer is None else block.kernel
      parts.append(PartTime(name, ms, limit, kernel, measured[1 + i]))
  if head_ms is not None:
    parts.append(PartTime('head', head_ms, measured_ms=measured[-1]))
  return parts


def _layout(found: Findings) -> list[tuple[int | None, bool]]:
  """(searchable layer or None, present) of every block, skipped ones too."""
  assert found.arch is not None
  if found.space is None or found.choices is None:
    return [(i, True) for i in range(len(found.arch.blocks))]
  return [
    *[(None, True)] * len(found.space.first),
    *[(i, c is not None) for i, c in enumerate(found.choices)],
    *[(None, True)] * len(found.space.last),
  ]


def _times(found: Findings):
  """(stem, each block, head, all that has no entry of its own), ms or None."""
  arch, table = found.arch, found.table
  blocks: list[float | None] = [None] * len(arch.blocks if arch else ())
  unknown = None, blocks, None, None
  if arch is None or table is None or table.image_size != found.image_size:
    return unknown
  try:
    times = [table.factor * table.entry_ms(key) for key in table.keys_of(arch)]
  except UserError:  # A table of another space or device.
    return unknown
  if table.positional is None:
    return times[0], times[1:-1], times[-1], None
  first = table.positional.first
  blocks[first : first + len(times) - 1] = times[1:]
  return None, blocks, None, times[0]


def _slowest(found: Findings) -> Sequence[float]:
  """Each searchable layer's slowest candidate, ms; empty if not known."""
  if found.table is None or found.space is None or found.choices is None:
    return ()
  _, costs = found.table.costs(found.space)
  return [float(layer.max()) for layer in costs]


def _measured(found: Findings) -> Sequence[float | None]:
  """Measured ms of stem, each block, head inside the network that is drawn."""
  assert found.arch is not None
  keys = network_keys(found.arch, found.image_size)
  profile = found.stage('profile')
  layers = profile.get('layers', ())
  # A prediction exists only if table and measurement are from one device.
  if profile.get('predicted_ms') is None or keys != tuple(
    layer['key'] for layer in layers
  ):
    return [None] * len(keys)
  return [layer.get('measured_ms') for layer in layers]


def superkernels(found: Findings) -> list[Superkernel]:
  """Rows of `network_figures.superkernels`."""
  if found.space is None or found.choices is None:
    return []
  rows = []
  for i, choice in enumerate(found.choices):
    weights = found.supernet.get(f'layer{i:02d}/kernel')
    if weights is not None and weights.ndim == 4:
      kernel = choice.kernel if choice else 0
      stage = found.space.layers[i].stage
      rows.append(Superkernel(weights, i, stage, kernel, choice_name(choice)))
  return rows


def gate_rows(space: SearchSpace) -> list[GateRow]:
  """Rows of `network_figures.gate_history`, in the order of the gates."""
  rows = []
  for gate in space.gates:
    layer = space.layers[gate.layer]
    if gate.kind == 'kernel':
      size = layer.kernels[gate.rank]
      group = f'Use the {size}×{size} kernel?'
    elif gate.kind == 'expansion':
      group = f'Use expansion {layer.expansions[gate.rank]}?'
    elif gate.kind == 'squeeze':
      group = 'Use squeeze-and-excitation?'
    else:
      group = 'Keep the layer?'
    rows.append(GateRow(gate.layer, group))
  return rows
