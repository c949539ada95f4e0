"""Milliseconds of a search step, against training one compact network.

  python -m tests.benchmarks.bench_step [--torch_python=peers/bin/python]
    [--cases=imagenet_224,imagenet_32,fashion_mnist] [--rounds=21]

Takes turns, one timed step each a round, in an order drawn for every round:

  search  the search step of the supernet: gates, masks, runtime term and
          thresholds, optimizer and moving average
  train   this project's training step of the space's largest network
  torch   PyTorch's training step of that network: channels_last, cross-entropy,
          RMSProp, in the environment of requirements-peers.txt; left out
          without --torch_python

Cases: the ImageNet space with batch 8 at 224 px and batch 32 at 32 px, and
configs/fashion_mnist.py with its own batch, all float32; for a GPU
(bench_gpu.py) the ImageNet space with batch 256 at 224 px in bfloat16, PyTorch
with autocast. Images are made up and lie in memory. The others' threads sleep
before each turn.

Prints one JSON object: medians, least times, ratios of medians, seconds of
compilation with an empty cache.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
PAUSE_SECONDS = 0.05


class Case(NamedTuple):
  """What is trained; None = the config's own."""

  module: str
  image_size: int | None
  batch: int | None
  dtype: str = 'float32'
  steps: int = 1  # a turn, waited for at its end


CPU_CASES = {
  'imagenet_224': Case('imagenet_search', 224, 8),
  'imagenet_32': Case('imagenet_search', 32, 32),
  'fashion_mnist': Case('fashion_mnist', None, None),
}
GPU_CASES = {
  'imagenet_224_amp': Case('imagenet_search', 224, 256, 'bfloat16', 5),
}
CASES = CPU_CASES | GPU_CASES


def timed(turn: Callable[[], Any], steps: int) -> float:
  """Milliseconds of a step, from a turn of several."""
  time.sleep(PAUSE_SECONDS)
  start = time.perf_counter()
  turn()
  return (time.perf_counter() - start) * 1e3 / steps


# --- ours ---------------------------------------------------------------------


def our_steps(case: str):
  """Both steps of a case.

  Returns:
    ({'search', 'train'} -> step, the same -> seconds of compilation, the
    largest network, image size, batch).
  """
  import jax
  import numpy as np

  from spnas_jax.core.parallel import mapped_step, replicate
  from spnas_jax.search.search_problem import SearchProblem
  from spnas_jax.search.search_setup import create_state, make_search
  from spnas_jax.search.search_step import make_search_step
  from spnas_jax.training.run_setup import init_variables
  from spnas_jax.training.steps import make_train_step
  from spnas_jax.training.train_state import TrainState
  from spnas_jax.training.trained import training_parts

  module, size, batch, dtype, num_steps = CASES[case]
  config = importlib.import_module(f'configs.{module}').get_config()
  config.search.dtype = config.train.dtype = dtype
  # Resolved before the size is changed: a table is of one size.
  problem = SearchProblem.of(config)
  config.dataset.image_size = size or config.dataset.image_size
  config.search.batch_size = batch or config.search.batch_size
  search = make_search(config, problem)
  for key in set(config.train) & set(config.search):
    config.train[key] = config.search[key]
  arch = problem.space.largest
  model, optimizer, schedule = training_parts(config, arch)
  variables = init_variables(
    model, config.dataset.image_size, arch.input_channels, 0
  )
  rng = np.random.default_rng(0)
  shape = (
    1,
    config.search.batch_size,
    config.dataset.image_size,
    config.dataset.image_size,
    arch.input_channels,
  )
  data = {
    'image': rng.normal(size=shape).astype(np.float32),
    'label': rng.integers(arch.num_classes, size=shape[:2], dtype=np.int32),
  }
  parts = {
    'search': (make_search_step(search), create_state(search, config)),
    'train': (
      make_train_step(model, optimizer, schedule, config.train, 0),
      TrainState.create(variables, optimizer),
    ),
  }
  steps, seconds = {}, {}
  for name, (step, state) in parts.items():
    start = time.perf_counter()
    run, state = mapped_step(step), replicate(state)
    compiled = run.lower(state, data).compile()
    seconds[name] = round(time.perf_counter() - start, 2)
    steps[name] = _turn(jax, compiled, state, data, num_steps)
  return steps, seconds, arch, config.dataset.image_size, shape[1]


def _turn(jax, compiled, state, data, num_steps) -> Callable[[], Any]:
  data = jax.pmap(lambda x: x)(data)  # Onto the device, once.

  def turn():
    nonlocal state
    for _ in range(num_steps):
      state, _ = compiled(state, data)
    jax.block_until_ready(state)

  return turn


# --- theirs -------------------------------------------------------------------


def serve() -> None:
  """PyTorch's half: the set-up on one line, then a turn for each line."""
  import torch
  from torch import nn

  setup = json.loads(sys.stdin.readline())
  torch.set_num_threads(setup['threads'])
  torch.backends.cudnn.benchmark = True
  device = torch.device(setup['device'])
  arch, batch, size = setup['arch'], setup['batch'], setup['size']

  def conv(inputs, outputs, kernel=1, stride=1, groups=1, act=True):
    layers = [
      nn.Conv2d(
        inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
      ),
      nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if act else []))

  class MBConv(nn.Module):
    def __init__(self, block):
      super().__init__()
      inputs, outputs = block['in_channels'], block['out_channels']
      mid = inputs * block['expansion']
      self.residual = inputs == outputs and block['stride'] == 1
      kernel, stride = block['kernel'], block['stride']
      expand = [conv(inputs, mid)] if block['op'] == 'ir' else []
      self.body = nn.Sequential(
        *expand,
        conv(mid, mid, kernel, stride, groups=mid),
        conv(mid, outputs, act=False),
      )

    def forward(self, x):
      return x + self.body(x) if self.residual else self.body(x)

  last = arch['blocks'][-1]['out_channels']
  model = nn.Sequential(
    conv(
      arch['input_channels'],
      arch['stem_channels'],
      arch['stem_kernel'],
      arch['stem_stride'],
    ),
    *(MBConv(block) for block in arch['blocks']),
    conv(last, arch['head_channels']),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(arch['head_channels'], arch['num_classes']),
  ).to(device, memory_format=torch.channels_last)
  loss = nn.CrossEntropyLoss(label_smoothing=0.1)
  optimizer = torch.optim.RMSprop(
    model.parameters(), lr=1e-3, alpha=0.9, momentum=0.9, eps=1e-3
  )
  images = torch.randn(batch, arch['input_channels'], size, size)
  images = images.to(device, memory_format=torch.channels_last)
  labels = torch.randint(arch['num_classes'], (batch,)).to(device)
  mixed = torch.autocast(
    device.type, torch.bfloat16, enabled=setup['dtype'] == 'bfloat16'
  )

  def turn():
    for _ in range(setup['steps']):
      optimizer.zero_grad(set_to_none=True)
      with mixed:
        error = loss(model(images), labels)
      error.backward()
      optimizer.step()
    if device.type == 'cuda':
      torch.cuda.synchronize()

  print(json.dumps(torch.__version__), flush=True)
  for _ in sys.stdin:
    print(json.dumps(timed(turn, setup['steps'])), flush=True)


# --- both ---------------------------------------------------------------------


def measure(case: str, rounds: int, torch_python: str | None) -> dict[str, Any]:
  """Medians of one case."""
  import jax

  turns, seconds, arch, size, batch = our_steps(case)
  num_steps = CASES[case].steps
  contenders: dict[str, Callable[[], float]] = {
    name: functools.partial(timed, turn, num_steps)
    for name, turn in turns.items()
  }
  torch, version = None, None
  if torch_python:
    # The served half runs where this project is not.
    from tests.benchmarks.peer_process import PeerProcess

    network = dataclasses.asdict(arch)
    network.pop('provenance')
    torch = PeerProcess(torch_python, __file__, '--serve')
    version = torch.ask(
      {
        'arch': network,
        'size': size,
        'batch': batch,
        'threads': len(os.sched_getaffinity(0)),
        'device': 'cuda' if jax.default_backend() == 'gpu' else 'cpu',
        'dtype': CASES[case].dtype,
        'steps': num_steps,
      }
    )
    contenders['torch'] = functools.partial(torch.ask, 'turn')
  load = os.getloadavg()[0]
  for _ in range(2):
    for contender in contenders.values():
      contender()
  times: dict[str, list[float]] = {name: [] for name in contenders}
  order, rng = list(contenders), random.Random(0)
  for _ in range(rounds):
    # Whoever comes behind PyTorch finds a colder cache: let it be anybody.
    rng.shuffle(order)
    for name in order:
      times[name].append(contenders[name]())
  if torch:
    torch.close()
  median = {name: statistics.median(own) for name, own in times.items()}
  ratios = {'search_over_train': median['search'] / median['train']}
  if torch:
    ratios['search_over_torch'] = median['search'] / median['torch']
    ratios['train_over_torch'] = median['train'] / median['torch']
  return {
    'image_size': size,
    'batch': batch,
    'dtype': CASES[case].dtype,
    'images_per_s': {
      name: round(1e3 * batch / ms, 1) for name, ms in median.items()
    },
    'median_ms': {name: round(ms, 2) for name, ms in median.items()},
    'least_ms': {name: round(min(own), 2) for name, own in times.items()},
    'ratios': {name: round(ratio, 3) for name, ratio in ratios.items()},
    'compile_seconds': seconds,
    'load': [round(load, 2), round(os.getloadavg()[0], 2)],
    'torch': version,
  }


def report(
  cases: Sequence[str], rounds: int, torch_python: str | None
) -> dict[str, Any]:
  """Measures the cases one after the other."""
  import jax

  # Compiling is measured, so nothing may come from a cache.
  jax.config.update('jax_enable_compilation_cache', False)
  return {
    'machine': {
      'processor': platform.processor() or platform.machine(),
      'cores': len(os.sched_getaffinity(0)),
      'device': jax.devices()[0].device_kind,
      'jax': jax.__version__,
      'malloc': os.environ.get('GLIBC_TUNABLES', ''),
    },
    'cases': {case: measure(case, rounds, torch_python) for case in cases},
  }


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--cases', default=','.join(CPU_CASES))
  parser.add_argument('--rounds', type=int, default=21)
  parser.add_argument('--torch_python', help='an interpreter that has PyTorch')
  parser.add_argument('--serve', action='store_true', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.serve:
    serve()
    return
  print(
    json.dumps(
      report(args.cases.split(','), args.rounds, args.torch_python), indent=2
    )
  )


if __name__ == '__main__':
  main()
