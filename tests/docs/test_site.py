"""The site: what is generated is complete, and it builds without a warning."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import doc_pages
import pytest
import tiny_run
from ml_collections import ConfigDict

import spnas_jax
from spnas_jax import stage_runs
from spnas_jax.config import rules
from spnas_jax.config.defaults import default_config

PACKAGES = ('mkdocs', 'material', 'mkdocstrings')
SITE = doc_pages.ROOT / 'docs' / 'site'


@pytest.fixture(scope='module')
def sources():
  """The module docs/site/sources.py; it imports its neighbours by name."""
  sys.path.insert(0, str(SITE))
  try:
    return importlib.import_module('sources')
  finally:
    sys.path.remove(str(SITE))


def keys(config: ConfigDict, path: str = '') -> list[str]:
  """Full names of all keys."""
  found = []
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      found += keys(value, f'{path}{name}.')
    else:
      found.append(path + name)
  return found


def test_every_key_is_described_once(sources):
  """With its default, a comment, and its range or choices if it has some."""
  page = sources.page('docs/configuration.md')
  config = default_config()
  entries = dict(re.findall(r'^\*\*`([\w.]+)`\*\*\{ #\1 \} (.*)$', page, re.M))
  assert sorted(entries) == sorted(keys(config))
  assert page.count('{ #') == len(entries)
  for key, facts in entries.items():
    assert f'default `{rules.get(config, key)!r}`' in facts
  for key in (*rules.RANGES, *rules.CHOICES, *rules.CHOICES_OF_EACH):
    assert 'allowed: ' in entries[key], key
  assert entries['search.slack'].endswith('allowed: 0 to 1')
  assert entries['dataset.image_size'].endswith('allowed: 1 to 4096')
  assert "`'bicubic'`" in entries['dataset.interpolation']
  assert 'allowed: ' in entries['space.kernels']
  assert not re.search(r'^:   \s*$', page, re.M), 'a key without a comment'


def test_stages_and_public_names_are_described(sources):
  command_line = sources.page('docs/command_line.md')
  for stage in stage_runs.STAGES:
    assert f'\n### {stage}\n' in command_line
  python = sources.page('docs/python.md')
  for name in spnas_jax._PUBLIC:
    assert f'\n## {name}\n' in python


def test_marks_are_known(sources):
  """A misspelt one would stay a comment that nobody sees."""
  marks = [
    mark
    for page in doc_pages.pages()
    for mark in re.findall(r'<!-- generated: (\w+)', doc_pages.read(page))
  ]
  assert sorted(marks) == sorted(sources.GENERATED)


def test_links_of_the_site_lead_somewhere(sources, tmp_path):
  """Also those that leave docs/, which it moves."""
  sources.main(tmp_path / 'sources')
  pages = sorted((tmp_path / 'sources').rglob('*.md'))
  assert len(pages) > 20
  for page in pages:
    for link in re.findall(r'\]\((?!\w+:)([^)\s#]+)', page.read_text()):
      assert (page.parent / link).exists(), (page, link)


def test_documented_results_are_there(workdir):
  """Keys of results.json that docs/results.md explains, of the stages that ran
  in this workdir."""
  results = tiny_run.results(workdir)
  named = re.findall(r'`(\w+)\.(\w+)`', doc_pages.read('docs/results.md'))
  checked = [(stage, key) for stage, key in named if stage in results]
  assert {stage for stage, _ in checked} == {'search', 'train', 'evaluate'}
  for stage, key in checked:
    assert key in results[stage], f'{stage}.{key}'


@pytest.mark.slow
@pytest.mark.skipif(
  not all(
    map(importlib.util.find_spec, ('mkdocs', 'material', 'mkdocstrings'))
  ),
  reason='requirements-docs.txt is not installed',
)
def test_the_site_builds_and_asks_nothing_of_the_network(sources, tmp_path):
  """`make docs`: warnings are errors; no page loads anything from elsewhere."""
  sources.main(doc_pages.ROOT / 'build' / 'docs_sources')
  command = [sys.executable, '-m', 'mkdocs', 'build', '--strict']
  done = subprocess.run(
    [*command, '--site-dir', str(tmp_path)],
    cwd=doc_pages.ROOT,
    env=tiny_run.environment(NO_MKDOCS_2_WARNING='1'),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  pages = [p.read_text() for p in pathlib.Path(tmp_path).rglob('*.html')]
  assert len(pages) > 20
  for text in pages:
    # A link may lead out; nothing that a browser fetches by itself may.
    for tag in re.findall(r'<(?:script|img|iframe|link)\b[^>]*>', text):
      assert not re.search(r'(?:src|href)="?(?:https?:)?//', tag), tag
  assert any('target_fraction' in text for text in pages)
