"""Compiling for a TPU that is not there, and reading what comes out."""

import importlib.metadata
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax import lax

from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir
from spnas_jax.core import tpu_compiler
from spnas_jax.core.errors import UserError
from spnas_jax.core.parallel import AXIS, average, mapped_step
from spnas_jax.core.tpu_compiler import (
  CHIPS,
  GIB,
  Compiled,
  TooLarge,
  all_reduce_bytes,
  bisect,
  cycles_by_kind,
  describe,
  fits,
  needed_bytes,
  read,
  tpu_devices,
)
from spnas_jax.stages import compile as compile_stage

# As libtpu writes it, shortened.
HLO = """
HloModule jit_step, is_scheduled=true

%fused (p: f32[8]) -> f32[8] {
  ROOT %add.1 = f32[8]{0:T(256)} add(%p, %p)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %fusion.1 = f32[8]{0:T(256)} fusion(%a), kind=kLoop, calls=%fused, \
metadata={op_name="jit(f)/transpose(jvp(SuperNet))/layer03/depthwise/conv"}, \
backend_config={"estimated_cycles":"1200","flag_configs":[]}
  %fusion.3 = f32[8]{0:T(256)} fusion(%a), kind=kLoop, calls=%fused, \
metadata={op_name="jit(f)/jvp(SuperNet)/first0/depthwise/cond/conv"}, \
backend_config={"estimated_cycles":"500"}
  %fusion.5 = f32[8]{0:T(256)} fusion(%a), kind=kLoop, calls=%fused, \
metadata={op_name="jit(f)/jvp(SuperNet)/layer11/depthwise/cond/conv"}, \
backend_config={"estimated_cycles":"300"}
  %all-reduce.4 = (f32[3,5]{1,0:T(8,128)S(1)}, /*index=1*/bf16[4]{0:T(512)\
(128)(2,1)}) all-reduce(%fusion.1, %x), channel_id=1, to_apply=%region
  %get-tuple-element.7 = f32[3,5]{1,0} get-tuple-element(%all-reduce.4), \
index=0, metadata={op_name="jit(step)/shard_map/psum"}
  %all-reduce-start.2 = f32[]{:T(128)} all-reduce-start(%y), channel_id=2
  %all-reduce-done.2 = f32[]{:T(128)} all-reduce-done(%all-reduce-start.2)
  ROOT %fusion.2 = f32[8]{0} fusion(%z), kind=kLoop, calls=%fused, \
backend_config={"estimated_cycles":"34"}
}
"""


def compiled(peak: float, cycles: int = 700) -> Compiled:
  return Compiled(int(peak), 10, 10, int(peak), (8, 4), {'other': cycles}, 1.0)


def test_all_reduces_are_counted_with_their_bytes():
  assert all_reduce_bytes(HLO) == (3 * 5 * 4 + 4 * 2, 4)
  assert all_reduce_bytes('ENTRY %main { }') == ()


def test_cycles_are_summed_by_what_they_are_for():
  assert list(cycles_by_kind(HLO).items()) == [
    ('backward depthwise', 1200),
    ('forward depthwise', 800),
    ('other', 34),
  ]


@pytest.mark.parametrize(
  'message, gib',
  [
    (
      'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
      'for HLO temporaries (257.50G) exceeds available HBM (7.48G).',
      257.5,
    ),
    ('Ran out of memory in memory space hbm. Used 9.25G of 7.48G hbm.', 9.25),
    ('Used 512.00M of 7.48G hbm.', 0.5),
    ('Ran out of memory', None),
  ],
)
def test_needed_bytes(message, gib):
  assert needed_bytes(message) == (None if gib is None else gib * GIB)


@pytest.mark.parametrize('limit', [0, 7, 8, 100, 128, 500])
@pytest.mark.parametrize('start', [1, 8, 128])
def test_bisection_finds_the_largest_multiple_of_eight(limit, start):
  tried = []

  def good(share):
    assert share not in tried, 'compiled twice'
    tried.append(share)
    return share <= limit

  assert bisect(good, start) == limit // 8 * 8


def test_what_fits():
  v2 = CHIPS['TPU v2'].memory_gib * GIB
  assert fits(compiled(v2 - 1), 'TPU v2') and not fits(
    compiled(v2 + 2), 'TPU v2'
  )
  assert fits(compiled(v2 * 100), 'TPU v99')  # The compiler took it.
  assert not fits(TooLarge(None), 'TPU v99')


def test_a_program_that_is_too_large_is_a_result():
  good = describe(compiled(GIB), 'TPU v2')
  assert good['estimated_step_seconds'] == pytest.approx(1e-6)
  assert good['num_all_reduces'] == 2 and good['all_reduce_bytes'] == 12
  bad = describe(TooLarge(5), 'TPU v2')
  assert not bad['fits'] and bad['needed_bytes_per_device'] == 5
  assert {k for k in good if k not in bad} == set()
  assert describe(compiled(GIB), 'TPU7x')['estimated_step_seconds'] is None


def test_average_is_the_mean_over_devices_in_few_arrays():
  rng = np.random.default_rng(0)
  tree = {
    'kernel': rng.normal(size=(4, 3, 2)).astype(np.float32),
    'norms': [rng.normal(size=(4, 5)).astype(np.float32) for _ in range(3)],
    'step': rng.normal(size=4).astype(np.float32),
  }
  mapped = jax.pmap(average, axis_name=AXIS, out_axes=None)
  jax.tree.map(
    lambda mean, all_: np.testing.assert_allclose(mean, all_.mean(0), 1e-5),
    mapped(tree),
    tree,
  )
  operands = mapped.lower(tree).as_text().count('all_reduce"')
  assert operands == 2  # The kernel, and everything else.


def test_a_step_lowered_for_this_machine_is_read_like_a_tpu_s():
  def step(state, batch):
    gradient = average({'w': (batch['image'] @ state['w']).mean() * state['w']})
    return gradient, {'loss': lax.pmean(batch['image'].mean(), AXIS)}

  shapes = (
    {'w': jax.ShapeDtypeStruct((6, 5), jnp.float32)},
    {'image': jax.ShapeDtypeStruct((4, 2, 6), jnp.float32)},
  )
  facts = read(mapped_step(step).lower(*shapes).compile(), 1.5)
  assert sum(facts.all_reduce_bytes) == 6 * 5 * 4 + 4
  assert facts.peak_bytes >= facts.temp_bytes
  assert facts.argument_bytes >= 6 * 5 * 4
  assert facts.seconds == 1.5


def test_without_libtpu_one_line_says_what_to_install(monkeypatch):
  def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(tpu_compiler.importlib.metadata, 'version', missing)
  with pytest.raises(UserError, match=r'pip install -r requirements-tpu\.txt'):
    tpu_devices('v2:2x2')


# --- for real, where libtpu is installed --------------------------------------

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed'
)


@pytest.fixture
def config(tmp_path):
  c = tiny.config(sync_batch_norm=False)
  c.dataset.image_size = 12
  path = tmp_path / 'table.json'
  path.write_text(tiny.table(make_space(c)).to_json())
  c.latency_table = str(path)
  return c


@needs_libtpu
def test_the_search_step_compiles_for_a_tpu_with_one_all_reduce(
  config, tmp_path
):
  workdir = Workdir(tmp_path / 'run')
  result = compile_stage.run(config, workdir)
  assert result['topology'] == 'v2:2x2' and result['num_devices'] == 8
  assert result['global_batch'] == 16 and result['fits']
  assert result['num_all_reduces'] == 1
  assert 0 < result['temp_bytes_per_device'] < result['peak_bytes_per_device']
  assert 0 < result['estimated_step_seconds'] < 1
  state = compile_stage.search_program(config).state
  floats = [x for x in jax.tree.leaves(state.params) if x.dtype == np.float32]
  assert result['all_reduce_bytes'] > 4 * sum(x.size for x in floats)
  assert workdir.results()['compile']['libtpu']


@needs_libtpu
def test_the_train_step_compiles_for_a_pod(config, tmp_path):
  config.compile.update(topology='v3:4x4', step='train')
  config.train.update(batch_size=64, sync_batch_norm=False)
  config.architecture = make_space(config).smallest.to_string()
  result = compile_stage.run(config, Workdir(tmp_path / 'run'))
  assert result['num_devices'] == 32 and result['num_all_reduces'] == 1


@needs_libtpu
def test_synchronised_batch_norm_needs_many_all_reduces(config, tmp_path):
  config.search.sync_batch_norm = True
  result = compile_stage.run(config, Workdir(tmp_path / 'run'))
  norms = 1 + 4 * 3 + 1  # Stem, four blocks, head.
  assert result['num_all_reduces'] > norms
  assert 'sync_batch_norm=False' in result['note']


@needs_libtpu
def test_wrong_topologies_and_batches(config, tmp_path):
  for name in ('v9:2x2', 'v2:1x1', 'nonsense'):
    with pytest.raises(UserError, match=r'compile\.topology.*v2:2x2'):
      tpu_devices(name)
  config.search.batch_size = 12
  with pytest.raises(UserError, match=r'search\.batch_size is 12.*8 devices'):
    compile_stage.run(config, Workdir(tmp_path / 'run'))
