"""What a run says: once, however many processes it has."""

import jax


def say(text: str) -> None:
  """Prints on process 0."""
  if jax.process_index() == 0:
    print(text, flush=True)
