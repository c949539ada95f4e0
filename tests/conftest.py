"""Settings all tests share: CPU, four devices, one compilation cache."""

import gc
import os
import pathlib
import shutil
import tempfile

# Before JAX starts its backend: several devices show what one would hide.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Compiling is most of the time and what is compiled runs for a few steps: LLVM
# optimises nothing here, nor in the processes that tests start.
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')

import jax
import pytest
import tiny_run

# As `startup` does for a run: tracing makes objects that stay.
gc.set_threshold(50_000)
ROOT = pathlib.Path(__file__).resolve().parent.parent

jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_compilation_cache_dir', str(ROOT / '.cache' / 'jax'))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


def pytest_configure(config):
  """A folder that the processes of this test run share, see `tiny_run`."""
  if not hasattr(config, 'workerinput'):  # Not one that another has started.
    os.environ['TINY_RUN_SHARED'] = tempfile.mkdtemp(prefix='tiny_run_shared')


def pytest_unconfigure(config):
  if not hasattr(config, 'workerinput'):
    shutil.rmtree(os.environ['TINY_RUN_SHARED'], ignore_errors=True)


@pytest.fixture
def workdir(tmp_path):
  """A copy of a workdir in which search, train and evaluate are finished."""
  folder = tmp_path / 'run'
  shutil.copytree(tiny_run.finished(), folder)
  return folder


@pytest.fixture
def light_workdir(tmp_path):
  """A folder with somebody's files; no stage has to have run for it."""
  (tmp_path / 'run' / 'search').mkdir(parents=True)
  for name in ('results.json', 'architecture.json', 'search/inputs.json'):
    (tmp_path / 'run' / name).write_text('{"precious": 1}')
  return tmp_path / 'run'
