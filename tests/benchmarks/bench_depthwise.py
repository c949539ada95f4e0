"""Milliseconds of a depthwise convolution, forward and both gradients.

  python -m tests.benchmarks.bench_depthwise [--torch_python=peers/bin/python]
    [--rounds=9] [--maps=imagenet|small|all]

Compares, taking turns within every round, on the platform JAX runs on:

  ours       `depthwise_conv`
  primitive  the same with implementation='primitive': XLA's convolution
  torch      PyTorch on the CPU, channels_last, in the environment of
             requirements-peers.txt, or in this one where it can be imported;
             left out where there is neither

Shapes: every depthwise convolution of the largest ImageNet network at 224 px,
batch 8 ('imagenet'), and those of small images at batch 64 ('small'). Each turn
is one untimed call, after the other libraries' threads have gone to sleep, and
one timed call.

Prints one JSON object: medians and least times, their ratios, `total` over the
layers of the ImageNet network, and `compile`, the seconds from Python to a
program that holds all these layers, with the milliseconds it takes.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Shape(NamedTuple):
  """One convolution, 'same' padding; `layers` of the network have it."""

  batch: int
  size: int
  channels: int
  kernel: int
  stride: int
  layers: int


IMAGENET = (
  Shape(8, 112, 96, 5, 2, 1),
  Shape(8, 56, 144, 5, 1, 3),
  Shape(8, 56, 144, 5, 2, 1),
  Shape(8, 28, 240, 5, 1, 3),
  Shape(8, 28, 240, 5, 2, 1),
  Shape(8, 14, 480, 5, 1, 4),
  Shape(8, 14, 576, 5, 1, 3),
  Shape(8, 14, 576, 5, 2, 1),
  Shape(8, 7, 1152, 5, 1, 4),
)
SMALL = (
  Shape(64, 28, 48, 5, 1, 0),
  Shape(64, 28, 48, 3, 1, 0),
  Shape(64, 28, 96, 5, 2, 0),
  Shape(64, 14, 96, 5, 1, 0),
  Shape(64, 14, 144, 5, 2, 0),
  Shape(64, 7, 240, 5, 1, 0),
  Shape(64, 7, 240, 3, 1, 0),
  Shape(64, 4, 240, 5, 1, 0),
)
PAUSE_SECONDS = 0.02
# Sends a shape to time, receives milliseconds.
Contender = Callable[[Shape], float]


def timed(function: Callable[[], Any]) -> float:
  """Milliseconds of the second of two calls."""
  time.sleep(PAUSE_SECONDS)
  function()
  start = time.perf_counter()
  function()
  return (time.perf_counter() - start) * 1e3


def jax_contender(implementation: str) -> Contender:
  """Times one implementation of `depthwise_conv`; compiles each shape once."""
  import jax

  @functools.cache
  def prepare(shape: Shape) -> Callable[[], Any]:
    inputs = jax_inputs(shape)
    compiled = (
      jax.jit(jax_step(shape.stride, implementation)).lower(*inputs).compile()
    )
    return lambda: jax.block_until_ready(compiled(*inputs))

  return lambda shape: timed(prepare(shape))


def jax_inputs(shape: Shape):
  """x, kernel and the output's gradient."""
  import jax

  batch, size, channels, kernel, stride, _ = shape
  output = -(-size // stride)
  keys = jax.random.split(jax.random.key(0), 3)
  return tuple(
    jax.random.normal(key, s)
    for key, s in zip(
      keys,
      (
        (batch, size, size, channels),
        (kernel, kernel, 1, channels),
        (batch, output, output, channels),
      ),
      strict=True,
    )
  )


def jax_step(stride: int, implementation: str):
  """(x, kernel, dy) -> (y, dx, dkernel)."""
  import jax

  from spnas_jax.models.depthwise import depthwise_conv

  conv = functools.partial(
    depthwise_conv, stride=stride, implementation=implementation
  )

  def step(x, kernel, dy):
    y, pullback = jax.vjp(conv, x, kernel)
    return (y, *pullback(dy))

  return step


def compile_network(implementation: str, rounds: int) -> dict[str, float]:
  """Compiles all layers of the ImageNet network as one program."""
  import jax

  shapes = [shape for shape in IMAGENET for _ in range(shape.layers)]
  inputs = [jax_inputs(shape) for shape in shapes]

  def network(inputs):
    return [
      jax_step(shape.stride, implementation)(*arrays)
      for shape, arrays in zip(shapes, inputs, strict=True)
    ]

  start = time.perf_counter()
  lowered = jax.jit(network).lower(inputs)
  middle = time.perf_counter()
  compiled = lowered.compile()
  end = time.perf_counter()
  times = [
    timed(lambda: jax.block_until_ready(compiled(inputs)))
    for _ in range(rounds)
  ]
  return {
    'layers': len(shapes),
    'trace_and_lower_s': round(middle - start, 2),
    'compile_s': round(end - middle, 2),
    'run_ms': round(statistics.median(times), 1),
  }


def serve_torch() -> None:
  """PyTorch's half: the number of threads, then a shape on every line."""
  import torch

  torch.set_num_threads(json.loads(sys.stdin.readline()))

  @functools.cache
  def prepare(shape: Shape) -> Callable[[], Any]:
    batch, size, channels, kernel, stride, _ = shape
    x = torch.randn(batch, channels, size, size)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(channels, 1, kernel, kernel).requires_grad_()

    def forward():
      # An even size at stride 2 has the same cost as with 'same' padding.
      return torch.nn.functional.conv2d(
        x, weight, stride=stride, padding=kernel // 2, groups=channels
      )

    dy = torch.randn_like(forward())
    return lambda: torch.autograd.grad(forward(), (x, weight), dy)

  print(json.dumps(torch.__version__), flush=True)
  for line in sys.stdin:
    print(json.dumps(timed(prepare(Shape(*json.loads(line))))), flush=True)


def measure(
  contenders: dict[str, Contender], shape: Shape, rounds: int
) -> dict[str, Any]:
  """Medians of all contenders on one shape, and their least times.

  The least time is the steadier of the two where others use the machine.
  """
  times: dict[str, list[float]] = {name: [] for name in contenders}
  for _ in range(rounds):
    for name, contender in contenders.items():
      times[name].append(contender(shape))
  medians = {name: statistics.median(values) for name, values in times.items()}
  least = {name: min(values) for name, values in times.items()}
  return {
    **shape._asdict(),
    'median': summary(medians),
    'least': summary(least),
  }


def summary(milliseconds: dict[str, float]) -> dict[str, float]:
  """Rounded milliseconds and what ours is a multiple of."""
  result = {f'{name}_ms': round(ms, 3) for name, ms in milliseconds.items()}
  for name, ms in milliseconds.items():
    if name != 'ours':
      result[f'ours_over_{name}'] = round(milliseconds['ours'] / ms, 3)
  return result


def processor() -> str:
  """The CPU's name, where Linux tells it."""
  path = pathlib.Path('/proc/cpuinfo')
  lines = path.read_text().splitlines() if path.exists() else []
  names = [line.split(':')[1].strip() for line in lines if 'model name' in line]
  return names[0] if names else platform.processor()


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=9)
  parser.add_argument(
    '--maps', choices=('imagenet', 'small', 'all'), default='all'
  )
  parser.add_argument('--torch_python', help='an interpreter that has PyTorch')
  parser.add_argument('--serve', action='store_true', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.serve:
    serve_torch()
    return

  import jax

  # Compiling is measured, so nothing may come from a cache.
  jax.config.update('jax_enable_compilation_cache', False)
  cores = len(os.sched_getaffinity(0))
  load_before = os.getloadavg()
  contenders: dict[str, Contender] = {
    'ours': jax_contender('auto'),
    'primitive': jax_contender('primitive'),
  }
  torch, version = None, None
  torch_python = args.torch_python
  if torch_python is None and importlib.util.find_spec('torch'):
    torch_python = sys.executable
  if torch_python is not None:
    # The served half runs where this project is not.
    from tests.benchmarks.peer_process import PeerProcess

    torch = PeerProcess(torch_python, __file__, '--serve')
    version = torch.ask(cores)
    contenders['torch'] = torch.ask
  rows: dict[str, list[dict[str, Any]]] = {}
  for name, shapes in (('imagenet', IMAGENET), ('small', SMALL)):
    if args.maps in (name, 'all'):
      rows[name] = [measure(contenders, s, args.rounds) for s in shapes]
  result: dict[str, Any] = {'rows': rows}
  if 'imagenet' in rows:
    result['total'] = {
      statistic: summary(
        {
          name: sum(
            row['layers'] * row[statistic][f'{name}_ms']
            for row in rows['imagenet']
          )
          for name in contenders
        }
      )
      for statistic in ('median', 'least')
    }
    result['compile'] = {
      name: compile_network(implementation, rounds=3)
      for name, implementation in (('ours', 'auto'), ('primitive', 'primitive'))
    }
  result['machine'] = {
    'processor': processor(),
    'cores': cores,
    'device': jax.devices()[0].device_kind,
    'jax': jax.__version__,
    'torch': version,
    'rounds': args.rounds,
    'load_before': load_before,
    'load_after': os.getloadavg(),
  }
  if torch:
    torch.close()
  print(json.dumps(result, indent=2))


if __name__ == '__main__':
  main()
