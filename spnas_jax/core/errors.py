"""The exceptions that end a run in one line instead of a traceback."""

# Letters of a message.
_LONGEST = 3000


class UserError(Exception):
  """Wrong input: a config value, a file, a flag.

  The message is one line that names the field, the value and what is allowed.
  `main.py` prints it and exits with code 2. What it quotes may be a damaged
  file's: the middle of more than a screen is left out.
  """

  def __str__(self) -> str:
    text = super().__str__()
    if len(text) > _LONGEST:
      return f'{text[: _LONGEST // 2]} [...] {text[-_LONGEST // 2 :]}'
    return text


class Diverged(Exception):
  """A loss or weight became NaN or infinite; `main.py` exits with code 1."""


class Waiting(Exception):
  """A stage goes on once somebody has done something outside of it.

  The message says what; `main.py` prints it and exits with code 0.
  """


class Preempted(BaseException):
  """A stage was asked to stop by SIGTERM; the message says where it goes on.

  Like KeyboardInterrupt no Exception: whoever catches those goes on working.
  `main.py` exits with code 143, 128 + 15, as shells report the signal.
  """
