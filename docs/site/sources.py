"""Writes the sources of the documentation site into a folder: `make docs`.

  python docs/site/sources.py build/docs_sources

They are the pages below docs/ and those elsewhere in the repository that pages
link to. What is generated is filled in, and links are pointed to where the
files are in the site. No builder of sites has to know of any of it.
"""

from __future__ import annotations

import pathlib
import posixpath
import re
import shutil
import sys
from collections.abc import Iterator

import configuration
import python_names
import stage_list

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What stands for `<!-- generated: NAME -->`.
GENERATED = {
  'configuration': configuration.markdown,
  'stages': stage_list.markdown,
  'python': python_names.markdown,
}
# Pages from elsewhere, and files as they are; they lie below `repository/`.
PAGES = (
  'CHANGELOG.md',
  'CONTRIBUTING.md',
  'latency/README.md',
  'tests/benchmarks/benchmarks.md',
)
FILES = ('spnas_jax/config/defaults.py', 'spnas_jax/data/datasets.py')
# What has another place in the site than in the repository.
_MOVED = {
  'README.md': 'README.md',
  'README.md#stages': 'command_line.md#stages',
  'spnas_jax/__init__.py': 'python.md',
}
_LINK = re.compile(r'(?<=\]\()(?!\w+:)([^)\s#]+)(#[^)\s]*)?(?=\))')
_MARK = re.compile(r'^<!-- generated: (\w+) -->$', re.M)


def main(folder: pathlib.Path) -> None:
  """Writes the sources, over what an earlier run left."""
  shutil.rmtree(folder, ignore_errors=True)
  for name in repository_files():
    target = folder / place(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith('.md'):
      target.write_text(page(name))
    else:
      shutil.copy(ROOT / name, target)


def repository_files() -> Iterator[str]:
  """Paths in the repository of everything that the site has."""
  for path in sorted((ROOT / 'docs').rglob('*')):
    if path.is_file() and not path.is_relative_to(ROOT / 'docs' / 'site'):
      yield path.relative_to(ROOT).as_posix()
  yield 'docs/site/site.css'
  yield from PAGES + FILES


def place(name: str) -> str:
  """Path in the site of a path in the repository."""
  if name in _MOVED:
    return _MOVED[name]
  if name.startswith('docs/'):
    return name.removeprefix('docs/')
  return f'repository/{name}'


def page(name: str) -> str:
  """A page as the site has it."""
  text = (ROOT / name).read_text()
  text = _MARK.sub(lambda m: GENERATED[m[1]](), text)
  origin, here = posixpath.dirname(name), posixpath.dirname(place(name))

  def to_site(match: re.Match) -> str:
    anchor = match[2] or ''
    target = posixpath.normpath(posixpath.join(origin, match[1]))
    whole = _MOVED.get(target + anchor) or place(target) + anchor
    return posixpath.relpath(whole, here or '.')

  return _LINK.sub(to_site, text)


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
