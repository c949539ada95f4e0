"""The commands that the documentation shows, and which of them no test runs."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess

import doc_pages

# What a test cannot run: a pattern of a block's text, and why. Everything else
# in a block of shell commands is run by test_commands_run.py.
NOT_RUN = (
  (r'make (test|test-all|format|bench|docs)\b', 'would run this test'),
  (r'gcloud|scripts/tpu', 'needs an account at Google Cloud'),
  (r'requirements-cuda|srun|dtype=bfloat16', 'needs a GPU'),
  (r'tensorboard', 'serves until it is stopped'),
  (r'--stage=compile', 'needs libtpu; tests/stages/test_compile.py'),
  (r'device=ssh', 'needs another computer; tests/latency/test_ssh.py'),
  (r'configs/imagenet_train', 'needs ImageNet; tests/models, tests/stages'),
  (r'configs/fashion_mnist', 'needs a Debian package; tests/data'),
  (r'^pip install \.', 'make install-check does it'),
  (r'tests\.benchmarks', 'takes hours'),
)
BASH = shutil.which('bash') or '/bin/bash'
# Programs beside Python and what comes with a system.
PROGRAMS = (
  *('adb', 'apt-get', 'gcloud', 'git', 'make', 'pip', 'srun', 'tensorboard'),
)
# Of the system, which a block may need to get to its next command.
_TOOLS = ('basename', 'cat', 'cp', 'head', 'ls', 'mkdir', 'sleep')
# Bash runs a block, and writes down what it would start: no parser of ours has
# to know of quotes, loops or variables.
_RECORD = """
command_not_found_handle() { printf '%s\\0' "$#" "$@" >&3; }
timeout() { shift 2; "$@"; }
cd() { :; }
.() { :; }
scripts/again.sh() { "$@"; }
scripts/tpu.sh() { command_not_found_handle scripts/tpu.sh "$@"; }
"""


def not_run(text: str) -> str:
  """Why no test runs a block; '' = one does."""
  for pattern, why in NOT_RUN:
    if re.search(pattern, text, re.M):
      return why
  return ''


def shell_blocks() -> list[doc_pages.Block]:
  """Every block of shell commands, page by page."""
  return [
    block
    for page in doc_pages.pages()
    for block in doc_pages.blocks(page)
    if block.language == 'sh'
  ]


def commands(text: str, folder: pathlib.Path) -> list[list[str]]:
  """The programs that a block starts, each with its arguments.

  Args:
    text: of the block.
    folder: an empty folder in which the block may write files.
  """
  tools = folder / '.tools'
  tools.mkdir()
  for name in _TOOLS:
    for place in ('/usr/bin', '/bin'):
      if os.path.exists(f'{place}/{name}'):
        (tools / name).symlink_to(f'{place}/{name}')
        break
  for path in doc_pages.ROOT.iterdir():
    if not path.name.startswith('.'):
      (folder / path.name).symlink_to(path)
  read, write = os.pipe()
  with os.fdopen(read, 'rb') as pipe:
    done = subprocess.run(
      [BASH, '-c', f'exec 3>&{write}\n{_RECORD}\n{text}'],
      cwd=folder,
      env={'PATH': str(tools), 'HOME': str(folder)},
      pass_fds=(write,),
      capture_output=True,
      text=True,
      timeout=30,
      check=False,
    )
    os.close(write)
    words = pipe.read().decode().split('\0')[:-1]
  assert not re.search(r'syntax error|unexpected', done.stderr), done.stderr
  found = []
  while words:
    count = int(words[0])
    found.append(words[1 : count + 1])
    words = words[count + 1 :]
  return found
