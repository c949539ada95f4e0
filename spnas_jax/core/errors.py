"""The exceptions that end a run in one line instead of a traceback."""


class UserError(Exception):
  """Wrong input: a config value, a file, a flag.

  The message is one line that names the field, the value and what is allowed.
  `main.py` prints it and exits with code 2.
  """


class Diverged(Exception):
  """A loss or weight became NaN or infinite; `main.py` exits with code 1."""


class Waiting(Exception):
  """A stage goes on once somebody has done something outside of it.

  The message says what; `main.py` prints it and exits with code 0.
  """
