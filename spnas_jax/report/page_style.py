"""How the page looks: on a screen, on a phone, on paper; light and dark."""

from __future__ import annotations

CSS = """
:root {
  --page: #f4f6f8; --card: #ffffff; --ink: #1b2127; --muted: #59636e;
  --line: #dfe3e8; --good: #00694e; --bad: #b04600; --link: #0063a0;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #0f1215; --card: #181c21; --ink: #e9ecef; --muted: #a3adb8;
    --line: #343b43; --good: #3fc39b; --bad: #f2994a; --link: #6fbdf0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  overflow-wrap: break-word;
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
.verdicts li > span { min-width: 0; }
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
th, .columns2 td, .columns3 td, .wide td { overflow-wrap: anywhere; }
thead th, th[scope=row] { min-width: 4rem; }
.short { white-space: nowrap; }
.columns2 { max-width: 32rem; }
.columns3 { max-width: 40rem; }
.explained th[scope=row] { width: 15rem; }
.explained td:nth-child(2) { white-space: nowrap; font-weight: 600; }
.explained td:last-child { color: var(--muted); }
code { font: .85rem/1.4 ui-monospace, Menlo, Consolas, monospace; }
a, summary { color: var(--link); }
summary { cursor: pointer; padding: .3rem 0; }
.missing { padding-left: 1.1rem; margin: 0; }
.missing li { margin-bottom: .5rem; }
.missing code {
  display: block; color: var(--muted); word-break: break-all;
}
@media screen and (max-width: 640px) {
  main { padding: 6px; }
  section { padding: 12px 8px; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tiles > div, .verdicts { padding: 8px 10px; }
  .value { font-size: 1.25rem; white-space: nowrap; }
  th, td { padding-right: .7rem; }
  .data th, .data td { white-space: nowrap; }
  .explained thead, .cards thead { display: none; }
  .explained, .explained tbody, .cards, .cards tbody { display: block; }
  .explained tr {
    display: grid; grid-template-columns: minmax(0, 1fr) auto;
    column-gap: 1rem; padding: .4rem 0; border-bottom: 1px solid var(--line);
  }
  .explained th[scope=row], .explained td {
    border: 0; padding: 0; width: auto;
  }
  .explained td:last-child { grid-column: 1 / -1; font-size: .9rem; }
  .cards tr {
    display: block; padding: .5rem 0; border-bottom: 1px solid var(--line);
  }
  .cards th[scope=row], .cards td { border: 0; padding: 0; }
  .cards th[scope=row] { display: block; font-weight: 600; }
  .cards td {
    display: grid; grid-template-columns: 8rem minmax(0, 1fr); gap: .5rem;
  }
  .cards td::before {
    content: attr(data-of); color: var(--muted); white-space: normal;
  }
}
@page { margin: 13mm; }
@media print {
  :root { color-scheme: light; --page: #ffffff; }
  html { font-size: 13px; }
  body { font-size: 1rem; }
  main { max-width: none; padding: 0; }
  header { padding: 0; }
  section { border: 0; padding: 0; margin: 0 0 14pt; }
  .tiles { grid-template-columns: repeat(4, 1fr); }
  .pictures { grid-template-columns: 1fr 1fr; gap: 12pt; }
  .scroll { overflow: visible; }
  img { max-width: 100%; }
  h2, h3, h2 + p, tr:nth-child(-n + 2) { break-after: avoid; }
  p, figure, tr, li, .tiles, .verdicts { break-inside: avoid; }
  thead { display: table-header-group; }
  figcaption a, details:not([open]) { display: none; }
}
"""
