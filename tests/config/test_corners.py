"""What the checks allow works; what does not work, they refuse in one line.

The corners of every range walk through what a run would do: the checks, the
space, the schedules, a step of search and of training, and an exported file.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_run
from hypothesis import given, settings
from hypothesis import strategies as st

from spnas_jax.config import rules as config_rules
from spnas_jax.config.rules import CHOICES, RANGES
from spnas_jax.config.spaces import make_space
from spnas_jax.core.errors import UserError
from spnas_jax.core.parallel import AXIS
from spnas_jax.data import datasets
from spnas_jax.export import tflite
from spnas_jax.latency.entries import network_tflite
from spnas_jax.models.convnet import ConvNet
from spnas_jax.networks.architecture import EPSILONS, STEM_KERNELS, Architecture
from spnas_jax.networks.block import (
  KERNELS,
  MAX_CHANNELS,
  MAX_EXPANSION,
  OPS,
  Block,
)
from spnas_jax.search.search_problem import SearchProblem
from spnas_jax.search.search_setup import (
  check_phases,
  create_state,
  make_search,
)
from spnas_jax.search.search_step import make_search_step
from spnas_jax.training.run_setup import check_batch, check_data, image_shape
from spnas_jax.training.steps import make_train_step
from spnas_jax.training.train_state import TrainState
from spnas_jax.training.trained import training_parts

# For an end that is open: in float32 it is infinite, its square in float64.
HUGE = 1e200
DEVICES = 2  # Of a traced step.

# Keys beside RANGES: corners by hand, those outside among them.
MORE = {
  'dataset.image_size': (0, 1, 2, 13, 4096, 10**9),
  'dataset.crop_padding': (0, 12, 13, 10**9),
  'dataset.train_examples': (0, 31, 32, 10**9, 10**12),
  'dataset.test_examples': (0, 1, 10**9, 10**12),
  'dataset.shuffle_buffer': (1, 10**9, 10**12),
  'dataset.holdout': (0.0, 1e-9, 0.5, 0.999999),
  'dataset.mean': ((0.0,), (0.5, 0.5), (math.nan,), ()),
  'dataset.std': ((0.0,), (1e-30,), (-1.0,)),
  'space.channels': ((1, 1), (MAX_CHANNELS, 1), (0, 1), (10**9, 1)),
  'space.layers': ((1, 1), (200, 1), (150, 50), (10**9, 1)),
  'space.strides': ((1, 1), (2, 2), (3, 1)),
  'space.kernels': ((1, 7), (1, 3, 5, 7), (7,), (9,), (2,), (3, 3), ()),
  'space.expansions': ((1, 64), (1,), (0, 1), (65,), (-1, 2)),
  'space.squeeze_ratios': ((0.0, 1.0), (1e-9,), (1.0,), (1.5,), (0.1, 0.2)),
  'space.first': ('', 'ds_k1_c1', 'ir_k7_s2_e64_c8_se1', 'ds_r501_k3_c8'),
  'search.temperature_fall': ((0.0, 0.0), (1.0, 1.0), (0.0, 1.0)),
  'search.start_logit': (-1e30, 1e30, math.nan, math.inf),
  'search.controller.proportional': (-HUGE, HUGE, math.nan),
  'search.controller.integral': (-HUGE, HUGE, math.nan),
  'train.mixup': (0.0, 1e-300, 1e-3, 100.0),
  'random_search.train_seeds': ((), (-1,), (2**31,), (0, 2**31 - 1)),
}


def set_key(config, field, value):
  section, _, key = field.rpartition('.')
  target = config_rules.get(config, section) if section else config
  kind = target.get_type(key)
  target[key] = kind(value) if kind in (int, float) else value


def ends(field) -> tuple[float, float]:
  low, high = RANGES[field]
  return low, HUGE if high == math.inf else high


def prepare(config):
  """What a run does before it compiles: a search with its space, or UserError.

  The table is made up for the space.
  """
  config_rules.check(config)
  datasets.check(config.dataset)
  space = make_space(config)
  table = tiny.table(space, config.dataset.image_size)
  problem = SearchProblem.of(config, table)
  for section in ('search', 'train'):
    check_batch(section, config[section].batch_size)
    check_data(config, section)
  check_phases(config)
  search = make_search(config, problem)
  for step in (0, search.phases.total):
    rate = search.learning_rate(step)
    assert rate >= 0 or not math.isfinite(rate)
    tau = float(search.phases.temperature(jnp.asarray(step)))
    assert tau > 0, tau
  return search


def steps_of(config, search):
  """(step, () -> state) of a search and of the training of its largest."""
  arch = search.supernet.space.largest
  model, optimizer, schedule = training_parts(config, arch, given=True)

  def create():
    shape = (1, *image_shape(config))
    return TrainState.create(
      model.init(jax.random.key(0), jnp.zeros(shape)), optimizer
    )

  return (
    (make_search_step(search), lambda: create_state(search, config)),
    (
      make_train_step(model, optimizer, schedule, config.train, config.seed),
      create,
    ),
  )


def batch_of(config, dtype):
  shape = (DEVICES, 2, *image_shape(config))
  images = np.random.default_rng(0).normal(size=shape).astype(dtype)
  return {'image': images, 'label': np.arange(4, dtype=np.int32).reshape(2, 2)}


def trace(config, search):
  """Abstract evaluation of both steps: no number is computed."""
  for section, (step, create) in zip(
    ('search', 'train'), steps_of(config, search), strict=True
  ):
    mapped = jax.vmap(step, in_axes=(None, 0), axis_name=AXIS)
    batch = batch_of(config, jnp.dtype(config[section].dtype))
    jax.eval_shape(mapped, jax.eval_shape(create), batch)


# --- every key ----------------------------------------------------------------


@pytest.mark.parametrize('field', sorted({*RANGES, *MORE, *CHOICES}))
def test_every_corner_is_refused_or_prepares_a_run(field):
  """Alone, the rest as in a tiny run. Whatever is raised must be a UserError
  that names a key of the configuration."""
  corners = MORE.get(field, CHOICES.get(field, ()))
  for value in corners or ends(field):
    config = tiny_run.get_config()
    set_key(config, field, value)
    try:
      prepare(config)
    except UserError as e:
      assert any(key in str(e) for key in ('architecture: ', *config)), e


@pytest.mark.parametrize('end', ['low', 'high'])
@pytest.mark.slow
def test_all_lowest_and_all_highest_values_run(end):
  """Two steps of search and training with every number of their recipes at one
  end at once. Nothing is refused, and nothing but a learning rate or a weight
  of the loss, which are moderate here, may take a number to infinity."""
  config = tiny_run.get_config()
  # Ends that exclude each other, that data or the table bound, or that only
  # scale a loss.
  moderate = {
    'batch_size': 32,
    'learning_rate': 1e-3,
    'weight_decay': 1e-5,
    'lambda_': 1.0,
    'limit': 20.0,
    'threshold_travel': 8.0,
    'warmup_epochs': 0.0,
    'curve_points': 0,
    'max_kb': 0.0,
    'channels': 8,
  }
  for field in RANGES:
    name = field.rpartition('.')[2]
    kept = next((v for k, v in moderate.items() if name.endswith(k)), None)
    set_key(config, field, ends(field)[end == 'high'] if kept is None else kept)
  config.train.mixup = 1e-3 if end == 'low' else 100.0
  config.train.init = 'weights.npz'  # Some keys need given weights.
  config.space.update(channels=(8,), layers=(2,), strides=(1,))
  config.space.width = 0.5 if end == 'low' else 2.0
  config.dataset.update(image_size=6)
  config.search.lambda_ = None
  search = prepare(config)
  for section, (step, create) in zip(
    ('search', 'train'), steps_of(config, search), strict=True
  ):
    batch = batch_of(config, config[section].dtype)
    mapped = tiny.jit(
      jax.vmap(step, in_axes=(None, 0), axis_name=AXIS, out_axes=(None, None))
    )
    state = tiny.jit(create)()
    for _ in range(2):
      state, metrics = mapped(state, batch)
    for path, leaf in jax.tree_util.tree_leaves_with_path((state, metrics)):
      assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)


def mixed(field):
  """A corner of a key, or its default."""
  if field in CHOICES:
    return st.sampled_from(CHOICES[field])
  return st.sampled_from([None, *ends(field)])


TRACED = sorted(
  field
  for field in {*RANGES, *CHOICES}
  if field.startswith(('space.', 'search.', 'train.'))
)


@settings(tiny.steady, max_examples=4)
@given(st.fixed_dictionaries({field: mixed(field) for field in TRACED}))
def test_mixed_corners_trace_or_are_refused(values):
  """Steps of search and training, abstractly, with corners of several keys."""
  config = tiny_run.get_config()
  for field, value in values.items():
    if value is not None:
      set_key(config, field, value)
  config.space.stem_channels = 8  # Times the width it is soon too wide.
  c = config.search
  c.temperature_end = min(c.temperature_end, c.temperature_start)
  for recipe in (config.search, config.train):
    recipe.batch_size = 32
  config.search.lambda_ = None
  c.warmup_epochs = min(c.warmup_epochs, c.epochs / 2)
  try:
    search = prepare(config)
  except UserError:
    return
  trace(config, search)


# --- every architecture -------------------------------------------------------


@st.composite
def architectures(draw):
  """Small networks whose every field is at a corner."""
  pick = lambda *values: draw(st.sampled_from(values))  # noqa: E731
  channels = stem = pick(1, 6)
  blocks = []
  for _ in range(draw(st.integers(1, 2))):
    op, out = pick(*OPS), pick(1, 6)
    stride = pick(1, 2)
    blocks.append(
      Block(
        op=op,
        kernel=pick(*KERNELS),
        stride=stride,
        in_channels=channels,
        out_channels=out,
        expansion=pick(1, MAX_EXPANSION) if op == 'ir' else 1,
        squeeze_ratio=pick(0.0, 1e-9, 1.0),
        residual=stride == 1 and channels == out and draw(st.booleans()),
        groups=pick(1, math.gcd(channels, out)),
      )
    )
    channels = out
  return Architecture(
    blocks=tuple(blocks),
    stem_channels=stem,
    head_channels=pick(0, 1, 5),
    num_classes=pick(1, 3),
    input_channels=pick(1, 3),
    stem_kernel=pick(1, 3, STEM_KERNELS[-1]),
    stem_stride=pick(1, 2),
    activation=pick('relu', 'relu6'),
    batch_norm_momentum=pick(0.0, 0.999999),
    batch_norm_epsilon=pick(*EPSILONS),
    padding=pick('same', 'symmetric'),
  )


@settings(tiny.steady, max_examples=4)
@given(architectures(), st.sampled_from([1, 2, 9]))
def test_every_architecture_trains_and_exports(arch, size):
  """What may be an `Architecture` can be traced for training, exported and run,
  down to images of one pixel."""
  shape = (2, size, size, arch.input_channels)
  model = ConvNet(arch)
  variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))

  def loss(params, stats):
    logits, _ = model.apply(
      {'params': params, 'batch_stats': stats},
      jnp.zeros(shape),
      train=True,
      mutable=['batch_stats'],
    )
    return logits.sum()

  jax.eval_shape(
    jax.grad(loss), variables['params'], variables.get('batch_stats', {})
  )
  model = network_tflite(arch, size, np.random.default_rng(0))
  images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  logits = tflite.run(model, images)
  assert logits.shape == (2, arch.num_classes)
  assert np.isfinite(logits).all()


BASE = Architecture(
  blocks=(Block('ir', 3, 1, 8, 8, 2), Block('ds', 3, 2, 8, 12)),
  stem_channels=8,
  head_channels=16,
  num_classes=10,
)


@pytest.mark.parametrize(
  ('field', 'values'),
  [
    ('stem_channels', (0, MAX_CHANNELS + 1, 1.5, True)),
    ('head_channels', (-1, MAX_CHANNELS + 1, 1.5)),
    ('num_classes', (0, MAX_CHANNELS + 1)),
    ('input_channels', (0,)),
    ('stem_kernel', (0, 2, STEM_KERNELS[-1] + 2, 3.0)),
    ('stem_stride', (0, 3, 1.0)),
    ('activation', ('swish',)),
    ('padding', ('valid',)),
    ('batch_norm_momentum', (-0.1, 1.0, math.nan)),
    ('batch_norm_epsilon', (0.0, 1e-46, 2.0, math.nan, math.inf)),
    ('blocks', ((), BASE.blocks[:1] * 501)),
  ],
)
def test_an_architecture_refuses_what_no_stage_can_do(field, values):
  for value in values:
    with pytest.raises(UserError, match=r'^architecture: .*, allowed: '):
      BASE.replace(**{field: value})


@pytest.mark.parametrize(
  ('field', 'values'),
  [
    ('op', ('mb',)),
    ('kernel', (0, 2, 9, 3.0)),
    ('stride', (0, 3)),
    ('out_channels', (0, MAX_CHANNELS + 1)),
    ('expansion', (0, MAX_EXPANSION + 1, 1.5)),
    ('squeeze_ratio', (-0.1, 1.1, math.nan, '0.5')),
    ('groups', (0, 3)),
  ],
)
def test_a_block_refuses_what_no_stage_can_do(field, values):
  """A depthwise kernel of 9 passed every check, and ended in a traceback from
  inside a compiled function."""
  for value in values:
    block = dataclasses.replace(BASE.blocks[0], **{field: value})
    words = rf'^architecture: blocks\[0\]\.{field} is .*, allowed: '
    with pytest.raises(UserError, match=words):
      BASE.replace(blocks=(block,))
