import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex

from spnas_jax.report import figures, network_figures
from spnas_jax.report.figures import Curve, Point
from spnas_jax.report.network_figures import (
  GateRow,
  NetworkRow,
  PartTime,
  Superkernel,
)
from spnas_jax.report.plot_style import DARK, LIGHT, decimals, number, png

STEPS = np.arange(10, 110, 10)


def curve(values):
  return Curve(STEPS, np.asarray(values, np.float64))


def texts(figure):
  """Everything written in a figure."""
  return [t.get_text() for t in figure.findobj(matplotlib.text.Text)]


def drawn(ax, line=0):
  x, y = ax.lines[line].get_data()
  return np.asarray(x, float), np.asarray(y, float)


# --- curves -------------------------------------------------------------------


def test_learning_draws_every_logged_value():
  ce, correct = np.linspace(2, 0.5, 10), np.linspace(0.1, 0.9, 10)
  figure = figures.learning(
    {'cross_entropy': curve(ce), 'accuracy': curve(correct)}, warmup_steps=40
  )
  above, below = figure.axes
  np.testing.assert_array_equal(drawn(above)[0], STEPS)
  np.testing.assert_array_equal(drawn(above)[1], ce)
  np.testing.assert_allclose(drawn(below)[1], 100 * correct)
  assert 'warm-up' in texts(figure)


def test_learning_without_accuracy_or_warm_up():
  figure = figures.learning({'cross_entropy': curve(np.ones(10))})
  assert len(figure.axes) == 1
  assert 'warm-up' not in texts(figure)


def test_smoothing_keeps_lines_and_gaps():
  smooth = figures._smooth(np.full(40, 3.0))
  np.testing.assert_allclose(smooth, 3.0)
  values = np.arange(40.0)
  values[7] = np.nan
  smooth = figures._smooth(values)
  assert np.isnan(smooth[7]) and np.isfinite(np.delete(smooth, 7)).all()
  np.testing.assert_allclose(smooth[15:25], values[15:25])
  assert figures._smooth(np.array([2.0])) == [2.0]


def runtime_curves():
  falling = [9, 9, 9, 9, 9, 8, 7, 6, 5, 5]
  return {
    'runtime_ms': curve([4, 12, 6, 11, 9, 8, 7, 6, 5, 5]),
    'undropped_ms': curve(falling),
    'target_ms': curve([9, 9, 9, 9, 9, 8, 7, 6, 5, 5]),
    'lambda': curve([0, 0, 0, 0, 0, 1, 2, 3, 3, 3]),
  }


def test_runtime_has_target_ramp_and_lambda():
  figure = figures.runtime(runtime_curves(), target_ms=5.0, warmup_steps=50)
  above, below = figure.axes
  np.testing.assert_array_equal(drawn(above, 0)[1][:2], [4, 12])
  np.testing.assert_array_equal(drawn(above, 1)[1], [9] * 5 + [8, 7, 6, 5, 5])
  ramp_steps, _ = drawn(above, 2)
  assert ramp_steps.min() == 50  # No ramp during warm-up.
  assert set(drawn(above, 3)[1]) == {5.0}
  assert drawn(below, 1)[1].max() == 3
  assert {'target\n5.000', 'ramp of the target', 'warm-up'} <= set(
    texts(figure)
  )
  assert above.get_ylim()[1] > 12.5  # Room for the word.


def test_runtime_with_a_fixed_lambda():
  curves = runtime_curves()
  del curves['target_ms'], curves['undropped_ms']
  figure = figures.runtime(curves)
  assert not any('target' in text for text in texts(figure))
  del curves['lambda']
  assert len(figures.runtime(curves).axes) == 1


# --- scatter plots ------------------------------------------------------------


def test_predicted_measured_shows_points_identity_and_error():
  figure = figures.predicted_measured([1.0, 2.0], [1.1, 2.0])
  ax = figure.axes[0]
  x, y = drawn(ax, 0)
  np.testing.assert_array_equal(x, y)
  assert x[0] < 1.0 and x[1] > 2.0
  np.testing.assert_array_equal(drawn(ax, 1), ([1.0, 2.0], [1.1, 2.0]))
  (summary,) = [t for t in texts(figure) if 'RMSE' in t]
  # |1.0 / 1.1 - 1| / 2 = 4.5%; sqrt(0.01 / 2) = 0.071.
  assert summary == '2 networks\nmean error 4.5%\nRMSE 0.071 ms'


def test_one_pair_can_be_drawn():
  png(figures.predicted_measured([1.0], [1.0]), dpi=40)


def test_accuracy_latency_labels_every_group_once():
  figure = figures.accuracy_latency(
    found=[Point(10, 0.9)],
    random=[Point(9, 0.8), Point(11, 0.85)],
    front=[Point(12, 0.95), Point(8, 0.7)],
    families={'mnasnet': [Point(13, 0.75), Point(12, 0.7)]},
    target_ms=10.5,
  )
  said = texts(figure)
  for label in ('found', 'random', 'Pareto front', 'mnasnet', 'target 10.50'):
    assert said.count(label) == 1
  lines = {line.get_label(): line.get_data() for line in figure.axes[0].lines}
  np.testing.assert_array_equal(lines['random'][1], [80, 85])
  np.testing.assert_array_equal(lines['Pareto front'][0], [8, 12])
  np.testing.assert_array_equal(lines['mnasnet'][1], [70, 75])


# --- what was decided ---------------------------------------------------------

ROWS = [
  NetworkRow('stem 3×3', '16×16×8', ms=0.25),
  NetworkRow('MBConv 3×3-3', '8×8×16', 3, 3, 0.5, layer=0),
  NetworkRow('skipped', '', skipped=True, layer=1),
  NetworkRow('MBConv 5×5-6', '4×4×24', 5, 6, 1.25, layer=2),
  NetworkRow('classifier', '24 → 10', ms=0.5),
]


def blocks(figure):
  return [p for p in figure.axes[0].patches if p.get_gid()]


def test_network_scales_and_colours_blocks():
  patches = blocks(network_figures.network(ROWS))
  assert [p.get_gid() for p in patches] == [
    'skipped' if row.skipped else 'block' for row in ROWS
  ]
  _, small, skipped, large, _ = patches
  assert small.get_width() / large.get_width() == pytest.approx(3 / 6)
  assert small.get_height() / large.get_height() == pytest.approx(3 / 5)
  assert to_hex(small.get_facecolor()) == LIGHT.blue
  assert to_hex(large.get_facecolor()) == LIGHT.orange
  assert to_hex(skipped.get_facecolor()) == LIGHT.surface


def test_network_writes_names_shapes_and_aligned_times():
  said = texts(network_figures.network(ROWS))
  for text in ('MBConv 5×5-6', '4×4×24', '0.250', '1.250', 'ms', 'skipped'):
    assert text in said
  untimed = [row._replace(ms=None) for row in ROWS]
  assert 'ms' not in texts(network_figures.network(untimed))


def test_layer_times_shows_slowest_and_measured():
  parts = [
    PartTime('stem', 0.5, measured_ms=0.6),
    PartTime('0  3×3-3', 0.25, 1.0, 3),
    PartTime('1  skipped', 0.0, 0.75),
  ]
  figure = network_figures.layer_times(parts)
  ax = figure.axes[0]
  widths = [p.get_width() for p in ax.patches]
  assert widths == [0.5, 1.0, 0.25, 0.75, 0.0]
  (mark,) = [line for line in ax.lines if line.get_gid() == 'measured']
  assert list(mark.get_xdata()) == [0.6, 0.6]
  assert [t.get_text() for t in ax.get_yticklabels()] == [p.name for p in parts]
  assert ax.get_xlabel() == 'total 0.7500 ms'
  assert '0.5000' in texts(figure)


def test_superkernels_show_log_deviation_and_choice():
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(5, 5, 1, 64))
  kernels = [
    Superkernel(weights, 0, 0, 3, '3×3-6'),
    Superkernel(weights, 1, 0, 0, 'skipped'),
    Superkernel(weights[1:4, 1:4], 2, 1, 3, '3×3-3'),
  ]
  figure = network_figures.superkernels(kernels)
  panels = [ax for ax in figure.axes if ax.images]
  assert len(panels) == 3
  np.testing.assert_allclose(
    panels[0].images[0].get_array(), weights.std(axis=(2, 3))
  )
  chosen = [ax.patches for ax in panels]
  assert [len(p) for p in chosen] == [1, 0, 1]
  assert chosen[0][0].get_bbox().bounds == (0.5, 0.5, 3, 3)
  assert chosen[2][0].get_bbox().bounds == (-0.5, -0.5, 3, 3)
  assert 'layer 1\nskipped' in texts(figure)


def test_superkernels_without_any_spread():
  kernel = Superkernel(np.zeros((3, 3, 1, 4)), 0, 0, 3, '3×3-3')
  png(network_figures.superkernels([kernel]), dpi=40)


def test_gate_history_has_one_panel_for_each_kind():
  rows = [GateRow(0, 'a?'), GateRow(0, 'b?'), GateRow(1, 'a?')]
  logits = np.arange(30.0).reshape(10, 3) - 15
  figure = network_figures.gate_history(STEPS, logits, rows, 40)
  first, second, _ = figure.axes
  np.testing.assert_array_equal(
    np.asarray(first.collections[0].get_array()).reshape(2, 10),
    logits[:, [0, 2]].T,
  )
  assert first.collections[0].get_clim() == (-15, 15)
  assert [t.get_text() for t in first.get_yticklabels()] == [
    'layer 0',
    'layer 1',
  ]
  assert [t.get_text() for t in second.get_yticklabels()] == ['layer 0']
  assert list(first.lines[0].get_xdata()) == [40, 40]


# --- all of them --------------------------------------------------------------


def all_figures(colours):
  rng = np.random.default_rng(0)
  curves = runtime_curves()
  curves['cross_entropy'] = curves['accuracy'] = curve(np.linspace(1, 0.1, 10))
  kernel = Superkernel(rng.normal(size=(5, 5, 1, 8)), 0, 0, 5, '5×5-6')
  yield figures.learning(curves, 50, colours)
  yield figures.runtime(curves, 5.0, 50, colours)
  yield figures.predicted_measured([1, 2], [1, 2.1], colours)
  yield figures.accuracy_latency([Point(1, 0.5)], colours=colours)
  yield network_figures.network(ROWS, colours)
  yield network_figures.layer_times([PartTime('stem', 1.0)], colours)
  yield network_figures.superkernels([kernel], colours)
  yield network_figures.gate_history(
    STEPS, rng.normal(size=(10, 1)), [GateRow(0, 'a?')], 50, colours
  )


@pytest.mark.parametrize('colours', [LIGHT, DARK])
def test_text_is_readable_everywhere_and_inside(colours, monkeypatch):
  written = []
  draw = matplotlib.text.Text.draw

  def note_and_draw(text, renderer):
    if text.get_visible() and text.get_text():
      written.append(text)
    draw(text, renderer)

  monkeypatch.setattr(matplotlib.text.Text, 'draw', note_and_draw)
  for figure in all_figures(colours):
    written.clear()
    assert png(figure, dpi=50).startswith(b'\x89PNG')
    assert to_hex(figure.get_facecolor()) == colours.surface
    width, height = figure.get_size_inches()
    assert written
    for text in written:
      assert '$' not in text.get_text()  # Exponents are smaller.
      # Points on the narrowest phone.
      assert text.get_fontsize() * min(1, 330 / (96 * width)) >= 8
    box = figure.get_tightbbox()
    assert box.x0 > -0.02 and box.y0 > -0.02
    assert box.x1 < width + 0.02 and box.y1 < height + 0.02


def test_same_data_same_bytes_and_no_global_state():
  before = dict(matplotlib.rcParams)
  first, again = (png(network_figures.network(ROWS), dpi=40) for _ in range(2))
  assert first == again
  assert dict(matplotlib.rcParams) == before


def luminance(colour):
  rgb = np.array(matplotlib.colors.to_rgb(colour))
  linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
  return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize('colours', [LIGHT, DARK])
@pytest.mark.parametrize('name', ['ink', 'muted', 'blue', 'orange', 'green'])
def test_text_contrasts_with_the_surface(colours, name):
  pair = luminance(getattr(colours, name)), luminance(colours.surface)
  assert (max(pair) + 0.05) / (min(pair) + 0.05) >= 4.5  # WCAG AA


def test_numbers():
  assert number(27) == '27.00'
  assert number(0.48314) == '0.4831'
  assert number(1234.4) == '1234'
  assert number(123456) == '123,456'
  assert decimals(80.44) == 2
  assert decimals(0.1369) == 4
  assert decimals(12345) == 0
  assert decimals(0) == 0
