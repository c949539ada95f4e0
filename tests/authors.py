"""The space of the paper's experiment, as its configuration spells it."""

import functools

from configs import imagenet_search
from spnas_jax.config.spaces import make_space
from spnas_jax.networks.space import SearchSpace


@functools.cache
def imagenet_space(
  kernels: tuple[int, ...] = (3, 5), expansions: tuple[int, ...] = (3, 6)
) -> SearchSpace:
  config = imagenet_search.get_config()
  config.space.update(kernels=kernels, expansions=expansions)
  return make_space(config)
