"""Settings all tests share: CPU, four devices, one compilation cache."""

import os
import pathlib

# Before JAX starts its backend: several devices show what one would hide.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import jax

ROOT = pathlib.Path(__file__).resolve().parent.parent

jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_compilation_cache_dir', str(ROOT / '.cache' / 'jax'))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
