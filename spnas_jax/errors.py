"""The one exception that means "the user's input is wrong"."""


class UserError(Exception):
  """Wrong input: a config value, a file, a flag.

  The message is one line that names the field, the value and what is allowed.
  `main.py` prints it and exits with code 2.
  """
