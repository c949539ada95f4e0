"""A search over one tiny stage, and what tests of whole steps share."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from spnas_jax.config.defaults import default_config
from spnas_jax.core.parallel import AXIS
from spnas_jax.models.supernet import SuperNet
from spnas_jax.networks.space import Stage
from spnas_jax.search.controller import Controller, ControllerState
from spnas_jax.search.gates import FORMULATIONS
from spnas_jax.search.runtime import RuntimeModel
from spnas_jax.search.search_step import Search
from spnas_jax.training.schedules import Phases, learning_rate_schedule
from spnas_jax.training.train_state import TrainState

SPACE = tiny.space()
TABLE = tiny.table(SPACE)
# What whole steps are compiled for; one stage is enough for what they show.
SMALL = tiny.space(stages=(Stage(8, 2, 2, (3, 5), (2, 4)),))
SMALL_TABLE = tiny.table(SMALL)
BATCH = 8


def recipe(**changes):
  """Section `search` for a few steps of a tiny space."""
  c = default_config().search
  c.update(
    batch_size=BATCH, schedule='constant', lr_warmup_epochs=0.0, dropout=0.2
  )
  c.update(changes)
  return c


def make_search(
  gates='sampled',
  space=SMALL,
  warm_up=0,
  total=20,
  target_ms=None,
  temperature=1.0,
  **changes,
):
  """A search; XLA's own convolutions, which compile fast."""
  c = recipe(gates=gates, **changes)
  formulation = FORMULATIONS[gates]
  return Search(
    supernet=SuperNet(
      space,
      placement=formulation.placement,
      num_thresholds=formulation.num_thresholds(space),
      dtype=c.dtype,
      axis_name=AXIS,
      implementation='primitive',
    ),
    formulation=formulation,
    runtime=RuntimeModel.of(SMALL_TABLE if space is SMALL else TABLE, space),
    phases=Phases(warm_up, total, temperature, temperature),
    controller=target_ms and Controller(target_ms=target_ms, **c.controller),
    learning_rate=learning_rate_schedule(c, 10, total),
    recipe=c,
    seed=0,
  )


@functools.cache
def initial(space=SMALL, num_thresholds=None):
  """Variables in NumPy: a state made of them may be donated."""
  net = SuperNet(
    space, num_thresholds=num_thresholds, implementation='primitive'
  )
  return jax.device_get(tiny.variables(net))


def state_of(search):
  net = search.supernet
  variables = jax.tree.map(jnp.array, initial(net.space, net.num_thresholds))
  return TrainState.create(
    variables, search.optimizer(), ControllerState.create()
  )


def batches(count, devices):
  """Batches as they lie on the devices: [devices, BATCH / devices, ...]."""
  result = []
  for i in range(count):
    batch = {
      'image': np.asarray(tiny.images(BATCH, SMALL, seed=i)),
      'label': np.asarray(tiny.labels(BATCH, seed=i)),
    }
    result.append(
      {
        k: v.reshape(devices, BATCH // devices, *v.shape[1:])
        for k, v in batch.items()
      }
    )
  return result


@contextlib.contextmanager
def compilations():
  """Collects one item for everything that XLA compiles (or loads) meanwhile."""
  seen = []

  def listen(event, duration, **kwargs):
    del duration
    if event == '/jax/core/compile/backend_compile_duration':
      seen.append(kwargs.get('fun_name', ''))

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield seen
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


def as_one_device(f):
  """`f` under the axis that steps expect, without pmap: [1, ...] in and out."""
  return tiny.jit(jax.vmap(f, in_axes=None, axis_size=1, axis_name=AXIS))


def assert_same_states(states, others):
  """States of two runs: equal but for the order of float32 sums."""
  for a, b in zip(states, others, strict=True):
    for name in ('params', 'batch_stats', 'ema_params', 'ema_batch_stats'):
      jax.tree_util.tree_map_with_path(
        lambda path, x, y: np.testing.assert_allclose(
          x, y, rtol=0, atol=1e-4 if path[0].key == 'thresholds' else 2e-6
        ),
        getattr(a, name),
        getattr(b, name),
      )


def assert_all_moved(states):
  """Every parameter is trained, far beyond the tolerance above.

  But for one kind: what a projection's norm adds, the norms behind it subtract.
  """
  moved = jax.tree.map(
    lambda x, y: np.abs(x - y).max(), states[0].params, states[-1].params
  )
  for path, value in jax.tree_util.tree_leaves_with_path(moved):
    if [k.key for k in path[-2:]] != ['project_bn', 'bias']:
      assert value > 4e-5, path
