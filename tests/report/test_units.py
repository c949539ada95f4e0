"""One unit for a picture, everywhere in it; SVG files that can be kept."""

import base64
import io
import re

import matplotlib
import numpy as np
import pytest
from fake_workdir import fill, small_config
from PIL import Image

from spnas_jax.report import decision_figures, figures, network_figures
from spnas_jax.report.accuracy_figures import Point, accuracy_latency
from spnas_jax.report.figures import Curve
from spnas_jax.report.network_figures import GateRow, NetworkRow, PartTime
from spnas_jax.report.plot_style import DENSE, LIGHT, svg
from spnas_jax.report.tables import tables_of
from spnas_jax.report.units import unit_of
from spnas_jax.stages import report

STEPS = np.arange(10, 60, 10)


@pytest.mark.parametrize(
  ('times', 'unit'),
  [
    ([0.02, 0.0999], 'µs'),
    ([0.02, 0.1], 'ms'),
    ([None, 0.05, float('nan')], 'µs'),
    ([0.0], 'ms'),
    ([], 'ms'),
  ],
)
def test_the_largest_time_decides(times, unit):
  assert unit_of(times).name == unit


def texts(figure):
  figure.canvas.draw()  # Ticks get their labels.
  return [t.get_text() for t in figure.findobj(matplotlib.text.Text)]


def curve(*values):
  return Curve(STEPS, np.array(values, float))


# A picture of times around `ms`, by its name.
PICTURES = {
  'network': lambda ms: network_figures.network(
    [NetworkRow('stem', '8×8×8', ms=ms)]
  ),
  'layer_times': lambda ms: network_figures.layer_times(
    [PartTime('stem', ms, 1.2 * ms, 3, 1.1 * ms)]
  ),
  'runtime': lambda ms: figures.runtime(
    {'runtime_ms': curve(ms, ms, ms, ms, ms / 2), 'lambda': curve(*range(5))},
    ms / 2,
  ),
  'predicted_measured': lambda ms: figures.predicted_measured(
    [ms, ms / 2], [ms, ms / 2.1], LIGHT, [(ms, ms)], (ms, ms)
  ),
  'accuracy_latency': lambda ms: accuracy_latency(
    [Point(ms, 0.9)], target_ms=ms
  ),
  'worths': lambda ms: decision_figures.worths(
    [
      {
        'layer': 0,
        'decision': 'k',
        'worth': 1,
        'error': 0,
        'ms': ms,
        'taken': 1,
      }
    ]
  ),
}


@pytest.mark.parametrize('name', PICTURES)
@pytest.mark.parametrize(('ms', 'own'), [(0.05, 'µs'), (0.5, 'ms')])
def test_pictures_have_one_unit(name, ms, own):
  """Axes, headings and annotations; the numbers fit it."""
  words = ' '.join(texts(PICTURES[name](ms)))
  other = {'µs', 'ms'} - {own}
  assert own in words and not other & {*re.findall(r'\b[mµ]s\b', words)}
  if name in ('network', 'layer_times'):
    assert f'{1000 * ms if own == "µs" else ms:.3f}'[:4] in words


def test_a_column_of_times_has_one_unit():
  (table,) = tables_of([{'name': 'a', 'ms': 0.02}, {'name': 'b', 'ms': 0.004}])
  assert list(table.header) == ['name', 'latency, µs']
  assert list(table.rows) == [['a', '20.00'], ['b', '4.000']]
  (table,) = tables_of([{'ms': 0.2}, {'ms': None}, {'ms': 0.004}])
  assert list(table.rows) == [['0.2000'], ['–'], ['0.004000']]
  (table,) = tables_of({'target_ms': 0.05, 'measured_ms': 2.0})
  assert list(table.rows) == [
    ('target, µs', '50.00'),
    ('measured, ms', '2.000'),
  ]


# --- SVG ----------------------------------------------------------------------


def gates(steps, count=20):
  return network_figures.gate_history(
    np.arange(1, steps + 1),
    np.random.default_rng(0).normal(size=(steps, count)),
    [GateRow(i, 'a?') for i in range(count)],
  )


def test_svg_files_need_no_font_and_have_no_date():
  first, again = svg(gates(5)), svg(gates(5))
  assert first == again
  text = first.decode()
  assert '<text' not in text and 'dc:date' not in text
  assert 'Matplotlib' not in text.split('-->')[-1]


def test_dense_parts_of_svg_files_are_pixels():
  """A file does not grow with the steps of a run."""
  sparse, dense = gates(DENSE // 20), gates(50 * DENSE // 20)
  assert len(svg(dense)) < 300_000
  for figure, pixels in ((sparse, False), (dense, True)):
    first = figure.axes[0].collections[0]
    assert bool(first.get_rasterized()) == pixels
  cloud = [Point(float(i), 0.5) for i in range(DENSE + 1)]
  assert b'<image' in svg(accuracy_latency(random=cloud))
  assert b'<image' not in svg(accuracy_latency(random=cloud[:-1]))


def test_every_picture_is_there_as_svg(tmp_path):
  """Beside the PNG, and inside the page, which stays below 2 MB more."""
  config = small_config()
  workdir = fill(config, tmp_path)
  names = report.run(config, workdir)['figures']
  page = (workdir / 'report/index.html').read_text()
  links = re.findall(
    r'<a download="(\w+)\.svg" href="data:image/svg\+xml;base64,([^"]*)">', page
  )
  assert [f'report/{name}.png' for name, _ in links] == names
  for name, content in links:
    beside = (workdir / f'report/{name}.svg').read_bytes()
    assert base64.b64decode(content) == beside
    assert beside.startswith(b'<?xml')
    width = float(re.search(rb'<svg[^>]* width="([\d.]+)pt"', beside)[1])
    png = Image.open(io.BytesIO((workdir / f'report/{name}.png').read_bytes()))
    assert width / 72 * 190 == pytest.approx(png.width, abs=2)
  assert sum(len(content) for _, content in links) < 2e6
