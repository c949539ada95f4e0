"""The report's page: parts in, one HTML file out that needs nothing else.

Every text passes through `html.escape`; pictures are embedded. No script, no
font, no address outside of the file.
"""

from __future__ import annotations

import base64
import dataclasses
import struct
from collections.abc import Sequence
from html import escape

from spnas_jax.report.plot_style import DPI, WIDTH


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture for light and dark pages.

  Attributes:
    name: of the file, without its ending.
    light, dark: PNG bytes.
    caption: what it shows and how to read it.

  A picture that is wider than `plot_style.WIDTH` keeps its size and has the
  page's whole width; on a phone it is scrolled.
  """

  name: str
  light: bytes
  dark: bytes
  caption: str


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of text.

  Attributes:
    header: of the columns.
    rows: one cell per column each.
    explained: the last column says in words what the row means; on a phone it
      goes below the others.
    caption: above the table.
  """

  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  explained: bool = False
  caption: str = ''


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


_MARKS = {'good': '✓', 'bad': '✗', 'note': '–'}
_SPOKEN = {'good': 'good: ', 'bad': 'attention: ', 'note': ''}


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
    f'<style>{_CSS}</style>\n</head>\n<body>\n<main>\n{content}\n</main>\n'
    '</body>\n</html>\n'
  )


def _tile(tile: Tile) -> str:
  note = f'<dd class="aside">{escape(tile.note)}</dd>' if tile.note else ''
  return (
    f'<div><dt>{escape(tile.label)}</dt><dd class="value">'
    f'{escape(tile.value)}</dd>{note}</div>'
  )


def _verdict(verdict: Verdict) -> str:
  kind = verdict.kind
  return (
    f'<li class="{kind}"><span class="mark" aria-hidden="true">{_MARKS[kind]}'
    f'</span><span><span class="spoken">{_SPOKEN[kind]}</span>'
    f'{escape(verdict.text)}</span></li>'
  )


def _missing(part: Missing) -> str:
  command = f'<code>{escape(part.command)}</code>' if part.command else ''
  return f'<li>{escape(part.what)} {command}</li>'


def _section(section: Section) -> str:
  parts = [f'<h2>{escape(section.title)}</h2>']
  if section.text:
    parts.append(f'<p>{escape(section.text)}</p>')
  pictures = list(map(_picture, section.pictures))
  tables = list(map(_table, section.tables))
  if len(pictures) == 1:  # Its tables fit beside it.
    pictures, tables = pictures + tables, []
  if pictures:
    parts.append(f'<div class="pictures">{"".join(pictures)}</div>')
  parts += tables
  return f'<section>{"".join(parts)}</section>'


def _picture(picture: Picture) -> str:
  width, height = struct.unpack('>II', picture.light[16:24])
  dark = _uri(picture.dark)
  wide = width > 1.01 * WIDTH * DPI
  kind = ' class="wide"' if wide else ''
  shown = f' style="width: {96 * width // DPI}px"' if wide else ''
  return (
    f'<figure{kind}><div class="scroll"><picture>'
    f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    f'<img src="{_uri(picture.light)}" width="{width}" height="{height}"'
    f'{shown} alt="{escape(picture.caption)}"></picture></div>'
    f'<figcaption>{escape(picture.caption)}</figcaption></figure>'
  )


def _uri(content: bytes) -> str:
  return f'data:image/png;base64,{base64.b64encode(content).decode()}'


def _table(table: Table) -> str:
  caption = f'<h3>{escape(table.caption)}</h3>' if table.caption else ''
  header = ''.join(f'<th scope="col">{escape(h)}</th>' for h in table.header)
  rows = ''.join(
    f'<tr><th scope="row">{escape(row[0])}</th>'
    + ''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])
    + '</tr>'
    for row in table.rows
  )
  kind = 'explained' if table.explained else f'columns{len(table.header)}'
  return (
    f'<div class="table">{caption}<div class="scroll"><table class="{kind}">'
    f'<thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div></div>'
  )


_CSS = """
:root {
  --page: #f4f6f8; --card: #ffffff; --ink: #1b2127; --muted: #59636e;
  --line: #dfe3e8; --good: #00694e; --bad: #b04600;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1215; --card: #181c21; --ink: #e9ecef; --muted: #a3adb8;
    --line: #343b43; --good: #3fc39b; --bad: #f2994a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 1020px; margin: 0 auto; padding: 12px; }
header { padding: 12px 12px 0; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; }
h2 { font-size: 1.2rem; margin: 0 0 .4rem; }
h3 { font-size: 1rem; font-weight: 600; margin: 0 0 .2rem; }
p { margin: 0 0 .9rem; max-width: 46rem; }
header p, figcaption, thead th, .aside { color: var(--muted); }
header p { overflow-wrap: anywhere; }
section, .verdicts, .tiles > div {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px;
}
section { padding: 16px; margin: 0 0 16px; }
.tiles {
  display: grid; gap: 12px; margin: 0 0 12px;
  grid-template-columns: repeat(auto-fit, minmax(150px, 1fr));
}
.tiles > div { padding: 10px 16px; }
.tiles dt { color: var(--muted); font-size: .9rem; }
.tiles dd { margin: 0; }
.value { font-size: 1.5rem; font-weight: 600; line-height: 1.25; }
.aside { font-size: .85rem; }
.verdicts { list-style: none; margin: 0 0 16px; padding: 12px 16px; }
.verdicts li { display: flex; gap: .6rem; padding: .2rem 0; }
.mark { flex: none; width: 1rem; text-align: center; font-weight: 700; }
.good .mark { color: var(--good); }
.bad .mark { color: var(--bad); }
.spoken {
  position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%);
}
.pictures {
  display: grid; gap: 24px; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr));
}
figure { margin: 0; min-width: 0; max-width: 480px; }
img { display: block; width: 100%; height: auto; }
.wide { grid-column: 1 / -1; max-width: none; }
figcaption { font-size: .9rem; margin-top: .4rem; }
.scroll { overflow-x: auto; }
.table + .table, .pictures + .table { margin-top: 20px; }
table { border-collapse: collapse; width: 100%; }
th, td {
  text-align: left; vertical-align: top; padding: .35rem 1rem .35rem 0;
  border-bottom: 1px solid var(--line); font-weight: 400;
}
thead th { font-size: .85rem; }
td { font-variant-numeric: tabular-nums; }
.columns2 { max-width: 32rem; }
.columns3 { max-width: 40rem; }
.explained th[scope=row] { width: 15rem; }
.explained td:nth-child(2) { white-space: nowrap; font-weight: 600; }
.explained td:last-child { color: var(--muted); }
code {
  font: .85rem/1.4 ui-monospace, Menlo, Consolas, monospace;
  white-space: nowrap;
}
.missing { padding-left: 1.1rem; margin: 0; }
.missing li { margin-bottom: .5rem; }
.missing code { display: block; overflow-x: auto; color: var(--muted); }
@media (max-width: 640px) {
  main { padding: 6px; }
  section { padding: 12px 8px; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tiles > div, .verdicts { padding: 8px 10px; }
  .value { font-size: 1.25rem; white-space: nowrap; }
  .explained thead { display: none; }
  .explained, .explained tbody { display: block; }
  .explained tr {
    display: grid; grid-template-columns: minmax(0, 1fr) auto;
    column-gap: 1rem; padding: .4rem 0; border-bottom: 1px solid var(--line);
  }
  .explained th[scope=row], .explained td {
    border: 0; padding: 0; width: auto;
  }
  .explained td:last-child { grid-column: 1 / -1; font-size: .9rem; }
}
@media print { section, figure { break-inside: avoid; } }
"""
