"""The documentation as Markdown files: pages, links, anchors, fenced blocks."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
_FENCE = re.compile(
  r'^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$',
  re.M | re.S,
)
# Not images' own addresses, nor what has a scheme.
_LINK = re.compile(r'\]\((?!\w+:)([^)\s]*)\)')
_HEADING = re.compile(r'^#{1,6} +(.*?)(?: +#+)?$', re.M)


@dataclasses.dataclass(frozen=True)
class Block:
  """A fenced block.

  Attributes:
    page: path of its page in the repository.
    line: of the page, from 1, on which its text starts.
    language: what the fence says.
    text: its lines, without the indent of the fence.
  """

  page: str
  line: int
  language: str
  text: str


def pages() -> list[str]:
  """Paths in the repository of everything that people read as Markdown."""
  found = [
    *ROOT.glob('*.md'),
    *(ROOT / 'docs').rglob('*.md'),
    *(ROOT / 'latency').glob('*.md'),
    *(ROOT / 'tests' / 'benchmarks').glob('*.md'),
    *(ROOT / 'notebooks').glob('*.ipynb'),
  ]
  return sorted(path.relative_to(ROOT).as_posix() for path in found)


def read(page: str) -> str:
  """Text of a page; of a notebook, its Markdown cells."""
  text = (ROOT / page).read_text()
  if page.endswith('.ipynb'):
    cells = json.loads(text)['cells']
    text = '\n\n'.join(
      ''.join(c['source']) for c in cells if c['cell_type'] == 'markdown'
    )
  return text


def blocks(page: str) -> list[Block]:
  """The fenced blocks of a page, in order."""
  text = read(page)
  return [
    Block(
      page,
      text.count('\n', 0, match.start('text')) + 1,
      match['language'],
      re.sub(f'^{match["indent"]}', '', match['text'], flags=re.M),
    )
    for match in _FENCE.finditer(text)
  ]


def prose(page: str) -> str:
  """A page without its fenced blocks."""
  return _FENCE.sub('', read(page))


def links(page: str) -> list[str]:
  """Targets of a page's links into the repository, as written."""
  return _LINK.findall(re.sub(r'`[^`\n]*`', '', prose(page)))


def anchors(page: str) -> list[str]:
  """Anchors of a page's headings, as code hosts spell them."""
  found = []
  for heading in _HEADING.findall(prose(page)):
    words = re.sub(r'\]\([^)]*\)', '', heading.replace('`', ''))
    found.append(re.sub(r'[^\w\- ]', '', words.lower()).replace(' ', '-'))
  return found
