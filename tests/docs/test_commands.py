"""Every command that the documentation shows is one that the program takes."""

import ast
import functools
import importlib.util
import re
import sys

import doc_commands
import doc_pages
import pytest
from absl import flags
from ml_collections import ConfigDict

from spnas_jax import cli, stage_runs, startup
from spnas_jax.config import automatic, rules
from spnas_jax.config.defaults import default_config

BLOCKS = doc_commands.shell_blocks()


def test_every_block_says_what_it_is():
  """The site colours by it, and shell commands are found by it."""
  for page in doc_pages.pages():
    # What the laboratory noted, and what a script writes, stay as they are.
    if not page.startswith(('docs/lab/', 'tests/')):
      for block in doc_pages.blocks(page):
        assert block.language in ('sh', 'python', 'text'), (page, block.line)


@pytest.mark.parametrize('block', BLOCKS, ids=lambda b: f'{b.page}:{b.line}')
def test_commands_are_taken(block, tmp_path, monkeypatch):
  """Configurations, stages and keys exist, values pass the project's checks,
  targets and modules are there. Nothing is run."""
  found = doc_commands.commands(block.text, tmp_path)
  assert found, 'a block without a command'
  monkeypatch.chdir(tmp_path)
  for program, *arguments in found:
    if program in ('python', 'python3'):
      check_python(arguments)
    elif program == 'spnas':
      check_run(arguments)
    elif program == 'scripts/tpu.sh':
      action, *rest = arguments
      script = (doc_pages.ROOT / program).read_text()
      assert f'\n  {action})\n' in script
      if action == 'run':
        check_run(rest)
    elif program == 'make':
      targets = [a for a in arguments if '=' not in a]
      makefile = (doc_pages.ROOT / 'Makefile').read_text()
      for target in targets:
        assert re.search(rf'^{target}:', makefile, re.M), target
    else:
      assert program in doc_commands.PROGRAMS, program


def check_python(arguments):
  if arguments[0] == '-m':
    assert importlib.util.find_spec(arguments[1]), arguments
  elif arguments[0] != '-':
    assert arguments[0] == 'main.py'
    check_run(arguments[1:])


def forget_flags():
  """Makes absl take another command line; each defines flags of its own."""
  flags.FLAGS.unparse_flags()
  for name in list(flags.FLAGS):
    if name.startswith('config.'):
      delattr(flags.FLAGS, name)


def check_run(arguments):
  """What main.py does with a command line before it starts JAX."""
  argv = ['main.py', *arguments]
  forget_flags()
  # Its flags look for the configuration's path there.
  sys.argv, before = argv, sys.argv
  try:
    assert cli.parse_flags(argv) == ['main.py'], argv
  finally:
    sys.argv = before
  assert cli._STAGE.value in ('all', *stage_runs.STAGES)
  assert cli._WORKDIR.value
  assert isinstance(cli._CONFIG.value, ConfigDict), 'no such configuration'
  default = default_config()
  value_of = functools.partial(rules.get, default)
  config = automatic.with_values(cli._CONFIG.value, value_of)
  startup.check_values(config, default)


@pytest.mark.parametrize(
  'arguments',
  [
    ['--config=configs/digit.py', '--workdir=w'],
    ['--config=digits', '--workdir=w', '--config.search.epohcs=3'],
    ['--config=digits', '--workdir=w', '--config.search.epochs=-3'],
    ['--config=digits', '--workdir=w', '--stage=serch'],
  ],
)
def test_the_check_can_fail(arguments, monkeypatch):
  monkeypatch.chdir(doc_pages.ROOT)
  with pytest.raises((AssertionError, cli.UserError)):
    check_run(arguments)


def test_flags_in_sentences_exist():
  """`--config.a.b=...`, `--stage=...` and `make ...` between the blocks."""
  default, count = default_config(), 0
  makefile = (doc_pages.ROOT / 'Makefile').read_text()
  for page in doc_pages.pages():
    for code in re.findall(r'`([^`\n]+)`', doc_pages.prose(page)):
      for key in re.findall(r'--config\.([a-z_][\w.]*)', code):
        # Of sentences about keys in general.
        if key != 'a.b':
          rules.get(default, key)
          count += 1
      for stage in re.findall(r'--stage=([a-z]\w*)', code):
        assert stage in ('all', *stage_runs.STAGES), (page, code)
        count += 1
      for target in re.findall(r'^make ([\w-]+)', code):
        assert re.search(rf'^{target}:', makefile, re.M), (page, code)
        count += 1
  assert count > 50


def test_python_in_the_documentation_is_python():
  for page in doc_pages.pages():
    for block in doc_pages.blocks(page):
      if block.language == 'python':
        ast.parse(block.text)


def test_every_reason_not_to_run_a_command_is_needed():
  texts = [b.text for b in BLOCKS]
  for pattern, _ in doc_commands.NOT_RUN:
    assert any(re.search(pattern, t, re.M) for t in texts), pattern
