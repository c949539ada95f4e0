"""What a run says: once, however many processes it has."""

import jax


def say(text: str) -> None:
  """Prints on process 0."""
  if jax.process_index() == 0:
    print(text, flush=True)


def last_line(text: str) -> str:
  """The last line that says something, for messages of one line."""
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  return lines[-1][:200] if lines else 'it printed nothing'
