"""Links of the Markdown files lead somewhere, as a code host shows them."""

import re

import doc_pages
import pytest

PAGES = doc_pages.pages()


def test_pages_are_found():
  """Else the tests below would pass with nothing to look at."""
  for page in ('README.md', 'docs/README.md', 'latency/README.md'):
    assert page in PAGES
  assert sum(len(doc_pages.links(page)) for page in PAGES) > 100


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
  """Paths exist; an anchor is a heading of the page that it is in."""
  for link in doc_pages.links(page):
    path, _, anchor = link.partition('#')
    target = (doc_pages.ROOT / page).parent / path if path else None
    if target is not None:
      assert target.exists(), f'{page} links to {link}'
      page_of_anchor = target.resolve().relative_to(doc_pages.ROOT).as_posix()
    else:
      page_of_anchor = page
    if anchor:
      assert anchor in doc_pages.anchors(page_of_anchor), (
        f'{page} links to {link}'
      )


@pytest.mark.parametrize('page', PAGES)
def test_headings_are_told_apart(page):
  """Code hosts and the site number equal headings in different ways."""
  anchors = doc_pages.anchors(page)
  linked = {
    link.partition('#')[2] for p in PAGES for link in doc_pages.links(p)
  }
  twice = {a for a in anchors if anchors.count(a) > 1}
  assert not twice & linked


def test_pages_that_messages_and_comments_name_exist():
  """'see docs/networks.md' in a message, a comment or a configuration."""
  files = [
    *(doc_pages.ROOT / 'spnas_jax').rglob('*.py'),
    *(doc_pages.ROOT / 'configs').glob('*.py'),
    *(doc_pages.ROOT / 'tests').rglob('*.py'),
    *map(doc_pages.ROOT.joinpath, PAGES),
  ]
  named = {
    name
    for file in files
    for name in re.findall(r'\b(?:docs|latency)/[\w/]+\.md', file.read_text())
  }
  assert len(named) > 5
  assert not [n for n in named if not (doc_pages.ROOT / n).exists()]
