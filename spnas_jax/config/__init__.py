"""Every configuration key, its checks, and what a run leaves behind."""

from spnas_jax.config.defaults import default_config

# Configuration files start from it.
__all__ = ['default_config']
