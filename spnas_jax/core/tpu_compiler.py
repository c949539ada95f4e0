"""Compiling for TPUs that are not there, and reading what the compiler says.

libtpu compiles for any topology by name. The step time is the compiler's own
estimate, not a measurement: it adds the cycles of all operations of a step,
counts the body of a loop once, and leaves out collectives, whose operations
carry none, and the input pipeline.
"""

from __future__ import annotations

import collections
import contextlib
import importlib.metadata
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.core.parallel import mapped_step

GIB = 2**30
# Step of the search for the largest batch, images per device.
GRAIN = 8

_EXAMPLES = "'v2:2x2', 'v3:4x4', 'v4:2x2x2', 'v5e:4x4'"
_ITEM_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'f16': 2}
_ITEM_BYTES |= {'bf16': 2, 's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'f64': 8}


class Chip(NamedTuple):
  """What the compiler does not say by itself, for one JAX device.

  Attributes:
    memory_gib: what a program may use, as the compiler puts it when one is too
      large.
    clock_hz: as published; None = not published.
  """

  memory_gib: float
  clock_hz: float | None


# By JAX's device kind. A device is a core up to v4 (as compiled for here) and
# on TPU7x, a chip otherwise.
CHIPS = {
  'TPU v2': Chip(7.48, 700e6),
  'TPU v3': Chip(15.48, 940e6),
  'TPU v4': Chip(15.25, 1050e6),
  'TPU v5 lite': Chip(15.75, 1500e6),
  'TPU v5': Chip(95.74, 1750e6),
  'TPU v6 lite': Chip(31.25, None),
  'TPU7x': Chip(94.75, None),
}


class Program(NamedTuple):
  """A step and the shapes that it takes.

  Attributes:
    step: pure (state, batch) -> (state, metrics) of one device.
    state: its state at step 0, as shapes.
    image: shape of one image, [H, W, C].
    dtype: of the images.
  """

  step: Callable
  state: Any
  image: tuple[int, int, int]
  dtype: str


class Compiled(NamedTuple):
  """What the compiler says of a program; bytes are those of one device."""

  temp_bytes: int
  argument_bytes: int
  output_bytes: int
  peak_bytes: int
  all_reduce_bytes: tuple[int, ...]
  cycles_by_kind: dict[str, int]
  seconds: float


class TooLarge(NamedTuple):
  """The program does not fit the device's memory.

  Attributes:
    needed_bytes: what the compiler asked for, None if it does not say.
  """

  needed_bytes: int | None


def tpu_devices(
  topology: str, field: str = 'compile.topology'
) -> list[jax.Device]:
  """The devices of a TPU that need not exist.

  Args:
    topology: as in 'v2:2x2'.
    field: the config key it comes from.

  Raises:
    UserError: libtpu is not installed, or does not know the name.
  """
  # No chip is opened, so there is nothing that two processes could share.
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  from jax.experimental import topologies

  try:
    importlib.metadata.version('libtpu')
  except importlib.metadata.PackageNotFoundError as e:
    raise UserError(
      f'{field} is {topology!r}: compiling for a TPU needs libtpu; '
      'pip install -r requirements-tpu.txt'
    ) from e
  try:
    return list(
      topologies.get_topology_desc(
        platform='tpu', topology_name=topology
      ).devices
    )
  except (jax.errors.JaxRuntimeError, RuntimeError) as e:
    reason = str(e).strip().splitlines()[0]
    raise UserError(
      f'{field} is {topology!r}, allowed: a TPU and its chips in x, y '
      f'and, from v4 on but not on v5e and v6e, z, such as {_EXAMPLES} '
      f'({reason})'
    ) from e


def lower(
  program: Program, devices: list[jax.Device], share: int
) -> jax.stages.Lowered:
  """The mapped step for `share` images on each device."""
  shape = (len(devices), share)
  batch = {
    'image': jax.ShapeDtypeStruct(
      (*shape, *program.image), jnp.dtype(program.dtype)
    ),
    'label': jax.ShapeDtypeStruct(shape, jnp.int32),
  }
  return mapped_step(program.step, devices).lower(program.state, batch)


def try_batch(
  program: Program, devices: list[jax.Device], share: int
) -> Compiled | TooLarge:
  """Compiles for `share` images on each device, or says that it is too much."""
  start = time.monotonic()
  try:
    with _uncached():
      compiled = lower(program, devices, share).compile()
  except jax.errors.JaxRuntimeError as e:
    if 'RESOURCE_EXHAUSTED' in str(e):
      return TooLarge(needed_bytes(str(e)))
    raise
  return read(compiled, time.monotonic() - start)


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
  """Keeps programs out of JAX's compilation cache.

  They are large, and without a TPU what was written cannot be read again.
  """
  name = 'jax_persistent_cache_min_compile_time_secs'
  before = getattr(jax.config, name)
  jax.config.update(name, math.inf)
  try:
    yield
  finally:
    jax.config.update(name, before)


def read(compiled: Any, seconds: float) -> Compiled:
  """Reads a compiled mapped step of any platform.

  Args:
    compiled: a `jax.stages.Compiled`.
    seconds: what compiling took.
  """
  memory = compiled.memory_analysis()
  text = compiled.as_text()
  return Compiled(
    temp_bytes=memory.temp_size_in_bytes,
    argument_bytes=memory.argument_size_in_bytes,
    output_bytes=memory.output_size_in_bytes,
    # The donated state's buffers are both argument and output.
    peak_bytes=memory.temp_size_in_bytes
    + memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes,
    all_reduce_bytes=all_reduce_bytes(text),
    cycles_by_kind=cycles_by_kind(text),
    seconds=seconds,
  )


def fits(outcome: Compiled | TooLarge, kind: str) -> bool:
  """Whether state, batch and temporaries fit a device of this kind."""
  if isinstance(outcome, TooLarge):
    return False
  chip = CHIPS.get(kind)
  return chip is None or outcome.peak_bytes <= chip.memory_gib * GIB


def describe(outcome: Compiled | TooLarge, kind: str) -> dict[str, Any]:
  """Keys of `results.json`; None where a program that does not fit has none."""
  chip = CHIPS.get(kind, Chip(float('nan'), None))
  memory = None if kind not in CHIPS else round(chip.memory_gib * GIB)
  result: dict[str, Any] = {
    'fits': fits(outcome, kind),
    'memory_bytes_per_device': memory,
  }
  if isinstance(outcome, TooLarge):
    names = ('temp_bytes', 'argument_bytes', 'output_bytes', 'peak_bytes')
    result |= {f'{name}_per_device': None for name in names}
    return result | {
      'needed_bytes_per_device': outcome.needed_bytes,
      'num_all_reduces': None,
      'all_reduce_bytes': None,
      'estimated_cycles': None,
      'cycles_by_kind': None,
      'estimated_step_seconds': None,
      'compile_seconds': None,
    }
  cycles = sum(outcome.cycles_by_kind.values())
  return result | {
    'temp_bytes_per_device': outcome.temp_bytes,
    'argument_bytes_per_device': outcome.argument_bytes,
    'output_bytes_per_device': outcome.output_bytes,
    'peak_bytes_per_device': outcome.peak_bytes,
    'num_all_reduces': len(outcome.all_reduce_bytes),
    'all_reduce_bytes': sum(outcome.all_reduce_bytes),
    'estimated_cycles': cycles,
    'cycles_by_kind': outcome.cycles_by_kind,
    'estimated_step_seconds': None
    if chip.clock_hz is None
    else cycles / chip.clock_hz,
    'compile_seconds': round(outcome.seconds, 3),
  }


def find_largest_batch(
  programs: Sequence[Program], devices: list[jax.Device], start: int
) -> dict[str, Any]:
  """Bisects the images a device can take in each of the programs.

  Returns:
    'largest_batch_per_device', a multiple of GRAIN (0 = not even GRAIN),
    and 'batches_tried', rows of {'images_per_device', 'fits'}.
  """
  kind = devices[0].device_kind
  tried: dict[int, bool] = {}

  def good(share: int) -> bool:
    tried[share] = all(
      fits(try_batch(program, devices, share), kind) for program in programs
    )
    verdict = 'fits' if tried[share] else 'does not fit'
    say(f'compile: {share} images a device: {verdict}')
    return tried[share]

  largest = bisect(good, start)
  rows = [
    {'images_per_device': share, 'fits': tried[share]}
    for share in sorted(tried)
  ]
  return {'largest_batch_per_device': largest, 'batches_tried': rows}


def bisect(good: Callable[[int], bool], start: int) -> int:
  """Largest multiple of GRAIN for which `good` holds; 0 if there is none.

  Args:
    good: holds up to some number and not beyond it.
    start: where to begin; it is doubled until `good` fails.
  """
  low, high = 0, max(1, start // GRAIN)
  while good(high * GRAIN):
    low, high = high, 2 * high
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (middle, high) if good(middle * GRAIN) else (low, middle)
  return low * GRAIN


def all_reduce_bytes(text: str) -> tuple[int, ...]:
  """Bytes that each all-reduce of a compiled HLO module sums up."""
  found = re.findall(
    r'^\s*\S+ = (\(.*?\)|\S+) all-reduce(?:-start)?\(', text, re.MULTILINE
  )
  return tuple(_shape_bytes(shape) for shape in found)


def _shape_bytes(shape: str) -> int:
  """Bytes of an HLO shape such as 'f32[3,5]{1,0}' or a tuple of them."""
  total = 0
  for name, sizes in re.findall(r'\b([a-z]+\d*)\[([\d,]*)\]', shape):
    count = 1
    for size in sizes.split(',') if sizes else ():
      count *= int(size)
    total += count * _ITEM_BYTES[name]
  return total


def cycles_by_kind(text: str) -> dict[str, int]:
  """The compiler's estimates over the operations of a module, by what they do.

  Fused operations carry no estimate besides their fusion's, so nothing counts
  twice. A fusion bears the name of one of its operations: what a convolution is
  fused with, as a norm's statistics, counts as the convolution.

  Returns:
    'forward' and 'backward' with the part of a block, as in 'backward
    depthwise', and 'other' (gates, losses, optimizer) -> cycles, most first.
  """
  found: collections.Counter[str] = collections.Counter()
  for line in text.splitlines():
    if cycles := re.search(r'"estimated_cycles":"(\d+)"', line):
      # .../transpose(jvp(SuperNet))/layer03/depthwise/...
      name = re.search(r'op_name="[^"]*\(\w+Net\)+/(?:[a-z]+\d+/)?(\w+)', line)
      way = 'backward' if 'transpose(jvp' in line else 'forward'
      found[f'{way} {name[1]}' if name else 'other'] += int(cycles[1])
  return dict(found.most_common())


def needed_bytes(message: str) -> int | None:
  """Bytes in '(12.50G) exceeds available HBM' or 'Used 12.50G of ...'."""
  found = re.search(r'([\d.]+)([KMGT])\)? (?:exceeds|of) ', message)
  if found is None:
    return None
  power = 'KMGT'.index(found[2]) + 1
  return round(float(found[1]) * 1024**power)
