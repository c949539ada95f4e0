"""The state of a run as a step sees it."""

import jax
from tiny_search import make_search, state_of


def test_state_aliases_nothing():
  """Donating a state two of whose leaves share a buffer would free it twice."""
  state = state_of(make_search(target_ms=2.0))
  leaves = jax.tree.leaves(state)
  pointers = [leaf.unsafe_buffer_pointer() for leaf in leaves]
  assert len(set(pointers)) == len(leaves)
