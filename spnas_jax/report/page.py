"""The report's page: parts in, one HTML file out that needs nothing else.

Every text passes through `html.escape`; pictures are embedded, and so are their
SVG files: a link to a file beside the page would be dead where only the page is
sent. No script, no font, no address outside of the file.
"""

from __future__ import annotations

import base64
import dataclasses
import re
import struct
from collections.abc import Callable, Sequence
from html import escape

from matplotlib.figure import Figure

from spnas_jax.report.page_style import CSS
from spnas_jax.report.plot_style import (
  DARK,
  DPI,
  LIGHT,
  WIDTH,
  Palette,
  png,
  svg,
)


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture for light and dark pages.

  Attributes:
    name: of the file, without its ending.
    light, dark: PNG bytes.
    caption: what it shows and how to read it.
    vector: SVG bytes of the light one, for who wants to print or change it.

  A picture that is wider than `plot_style.WIDTH` keeps its size and has the
  page's whole width; on a phone it is scrolled.
  """

  name: str
  light: bytes
  dark: bytes
  caption: str
  vector: bytes = b''


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of text.

  Attributes:
    header: of the columns.
    rows: one cell per column each.
    explained: the last column says in words what the row means; on a phone it
      goes below the others.
    caption: above the table.
    wide: it takes the page's whole width, where few columns would not.
    folded: it opens on a click on these words.
  """

  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  explained: bool = False
  caption: str = ''
  wide: bool = False
  folded: str = ''


@dataclasses.dataclass(frozen=True)
class Section:
  """Heading, a paragraph, pictures side by side, tables."""

  title: str
  text: str = ''
  pictures: Sequence[Picture] = ()
  tables: Sequence[Table] = ()


@dataclasses.dataclass(frozen=True)
class Verdict:
  """One sentence of judgement; `kind` is 'good', 'bad' or 'note'."""

  kind: str
  text: str


@dataclasses.dataclass(frozen=True)
class Tile:
  """One of the few numbers a reader comes for."""

  label: str
  value: str
  note: str = ''


@dataclasses.dataclass(frozen=True)
class Missing:
  """A part the page does not have, and the command that makes it."""

  what: str
  command: str = ''


# A table of more columns goes below a picture, not beside it; with few rows it
# becomes a list on a phone, with many it is scrolled.
_NARROW, _FEW_ROWS = 3, 8
# A cell up to this long is not broken into lines.
_WORD = 14
_UNITS = re.compile(r'(?<=\d) (?=(?:ms|µs|s|min|h|kB|MB|GB|px)\b)')
_MARKS = {'good': '✓', 'bad': '✗', 'note': '–'}
_SPOKEN = {'good': 'good: ', 'bad': 'attention: ', 'note': ''}


def drawn(
  problems: list[str],
  name: str,
  caption: str,
  make: Callable[[Palette], Figure],
) -> list[Picture]:
  """A picture in every form the page needs; none, and a line in `problems`,
  where it cannot be drawn."""
  try:
    light = make(LIGHT)
    return [Picture(name, png(light), png(make(DARK)), caption, svg(light))]
  except Exception as e:  # Odd data, or Matplotlib itself.
    why = ' '.join(str(e).split()) or type(e).__name__
    problems.append(f'The picture {name} is left out: {why}')
    return []


def render(
  title: str,
  subtitle: str,
  tiles: Sequence[Tile],
  verdicts: Sequence[Verdict],
  sections: Sequence[Section],
  missing: Sequence[Missing],
  problems: Sequence[str],
) -> str:
  """The whole page."""
  body = [f'<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>']
  if tiles:
    body.append(f'<dl class="tiles">{"".join(map(_tile, tiles))}</dl>')
  if verdicts:
    lines = ''.join(map(_verdict, verdicts))
    body.append(f'<ul class="verdicts">{lines}</ul>')
  body += map(_section, sections)
  if missing or problems:
    items = [f'<li>{escape(line)}</li>' for line in problems]
    items += map(_missing, missing)
    body.append(
      '<section><h2>Not on this page</h2>'
      '<p>Each command adds a part (CONFIG: the configuration file of this '
      'run); <code>--stage=report</code> then draws the page again.</p>'
      f'<ul class="missing">{"".join(items)}</ul></section>'
    )
  content = '\n'.join(body)
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    '<meta name="color-scheme" content="light dark">\n'
    f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n'
    f'<style>{CSS}</style>\n</head>\n<body>\n<main>\n{content}\n</main>\n'
    '</body>\n</html>\n'
  )


def _text(text: str) -> str:
  """Escaped; a number and its unit stay on one line."""
  return _UNITS.sub('&nbsp;', escape(text))


def _tile(tile: Tile) -> str:
  note = f'<dd class="aside">{escape(tile.note)}</dd>' if tile.note else ''
  return (
    f'<div><dt>{escape(tile.label)}</dt><dd class="value">'
    f'{_text(tile.value)}</dd>{note}</div>'
  )


def _verdict(verdict: Verdict) -> str:
  kind = verdict.kind
  return (
    f'<li class="{kind}"><span class="mark" aria-hidden="true">{_MARKS[kind]}'
    f'</span><span><span class="spoken">{_SPOKEN[kind]}</span>'
    f'{_text(verdict.text)}</span></li>'
  )


def _missing(part: Missing) -> str:
  command = f'<code>{escape(part.command)}</code>' if part.command else ''
  return f'<li>{escape(part.what)} {command}</li>'


def _section(section: Section) -> str:
  parts = [f'<h2>{escape(section.title)}</h2>']
  if section.text:
    parts.append(f'<p>{escape(section.text)}</p>')
  pictures = list(map(_picture, section.pictures))
  tables = list(section.tables)
  if len(pictures) == 1:  # What is narrow fits beside it.
    beside = [table for table in tables if not _is_broad(table)]
    if beside:
      pictures.append(f'<div>{"".join(map(_table, beside))}</div>')
    tables = [table for table in tables if _is_broad(table)]
  if pictures:
    parts.append(f'<div class="pictures">{"".join(pictures)}</div>')
  parts += map(_table, tables)
  return f'<section>{"".join(parts)}</section>'


def _picture(picture: Picture) -> str:
  width, height = struct.unpack('>II', picture.light[16:24])
  dark = _uri(picture.dark)
  wide = width > 1.01 * WIDTH * DPI
  kind = ' class="wide"' if wide else ''
  shown = f' style="width: {96 * width // DPI}px"' if wide else ''
  link = (
    f' <a download="{escape(picture.name)}.svg" '
    f'href="{_uri(picture.vector, "svg+xml")}">SVG</a>'
    if picture.vector
    else ''
  )
  # Paper is light, whatever the reader's screen is.
  return (
    f'<figure{kind}><div class="scroll"><picture>'
    f'<source media="screen and (prefers-color-scheme: dark)" srcset="{dark}">'
    f'<img src="{_uri(picture.light)}" width="{width}" height="{height}"'
    f'{shown} alt="{escape(picture.caption)}"></picture></div>'
    f'<figcaption>{_text(picture.caption)}{link}</figcaption></figure>'
  )


def _uri(content: bytes, kind: str = 'png') -> str:
  return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def _is_broad(table: Table) -> bool:
  return table.wide or table.explained or len(table.header) > _NARROW


def _table(table: Table) -> str:
  caption = f'<h3>{escape(table.caption)}</h3>' if table.caption else ''
  header = ''.join(f'<th scope="col">{escape(h)}</th>' for h in table.header)
  rows = ''.join(
    '<tr>'
    + _cell('th scope="row"', row[0])
    + ''.join(
      _cell(f'td data-of="{escape(of)}"', cell)
      for of, cell in zip(table.header[1:], row[1:], strict=True)
    )
    + '</tr>'
    for row in table.rows
  )
  kind = f'columns{len(table.header)}'
  if table.explained:
    kind = 'explained'
  elif table.wide:
    kind = 'wide cards' if len(table.header) > 2 else 'wide'
  elif len(table.header) > _NARROW:
    kind = 'cards' if len(table.rows) <= _FEW_ROWS else 'data'
  body = (
    f'{caption}<div class="scroll"><table class="{kind}">'
    f'<thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div>'
  )
  if table.folded:
    words = escape(table.folded)
    body = f'<details><summary>{words}</summary>{body}</details>'
  return f'<div class="table">{body}</div>'


def _cell(kind: str, text: str) -> str:
  """A short one stays on one line."""
  short = ' class="short"' if len(text) <= _WORD else ''
  return f'<{kind}{short}>{escape(text)}</{kind.split()[0]}>'
