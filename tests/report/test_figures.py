"""Every picture is drawn, whatever the run left out; what numbers look like."""

import io

import matplotlib
import numpy as np
import pytest
import tiny_run
from PIL import Image

from spnas_jax.config.workdir import Workdir
from spnas_jax.report import accuracy_figures, figures, network_figures
from spnas_jax.report.accuracy_figures import Point
from spnas_jax.report.figures import Curve
from spnas_jax.report.network_figures import (
  GateRow,
  NetworkRow,
  PartTime,
  Superkernel,
)
from spnas_jax.report.plot_style import DARK, LIGHT, decimals, number, png
from spnas_jax.stages import report

STEPS = np.arange(10, 110, 10)
ROWS = [
  NetworkRow('stem 3×3', '16×16×8', ms=0.25),
  NetworkRow('MBConv 3×3-3', '8×8×16', 3, 3, 0.5, layer=0),
  NetworkRow('skipped', '', skipped=True, layer=1),
  NetworkRow('classifier', '24 → 10', ms=0.5),
]
FALLING = Curve(STEPS, np.array([9.0, 9, 9, 9, 9, 8, 7, 6, 5, 5]))


def kernel(size=5, layer=0, chosen=3):
  weights = np.random.default_rng(layer).normal(size=(size, size, 1, 8))
  return Superkernel(weights, layer, 0, chosen, f'{chosen}×{chosen}-6')


# A name, a function of the palette. What a run may lack is among them.
DRAWN = {
  'learning': lambda c: figures.learning(
    {'cross_entropy': FALLING, 'accuracy': FALLING}, 50, c
  ),
  'learning without accuracy': lambda c: figures.learning(
    {'cross_entropy': FALLING}, colours=c
  ),
  'runtime': lambda c: figures.runtime(
    dict.fromkeys(
      ('runtime_ms', 'undropped_ms', 'target_ms', 'lambda'), FALLING
    ),
    5.0,
    50,
    c,
  ),
  'runtime under a fixed lambda': lambda c: figures.runtime(
    dict.fromkeys(('runtime_ms', 'lambda'), FALLING), colours=c
  ),
  'runtime alone': lambda c: figures.runtime({'runtime_ms': FALLING}),
  'predicted, measured': lambda c: figures.predicted_measured(
    [1, 2], [1, 2.1], c
  ),
  'one pair': lambda c: figures.predicted_measured([1.0], [1.0], c),
  'accuracy, latency': lambda c: accuracy_figures.accuracy_latency(
    found=[Point(10, 0.9)],
    random=[Point(9, 0.8), Point(11, 0.85)],
    front=[Point(12, 0.95), Point(8, 0.7)],
    families={'mnasnet': [Point(13, 0.75), Point(12, 0.7)]},
    target_ms=10.5,
    colours=c,
  ),
  'one network': lambda c: accuracy_figures.accuracy_latency(
    [Point(1, 0.5)], colours=c
  ),
  'network': lambda c: network_figures.network(ROWS, c),
  'network without times': lambda c: network_figures.network(
    [row._replace(ms=None) for row in ROWS], c
  ),
  'times of layers': lambda c: network_figures.layer_times(
    [
      PartTime('stem', 0.5, measured_ms=0.6),
      PartTime('0  3×3-3', 0.25, 1.0, 3),
      PartTime('1  skipped', 0.0, 0.75),
    ],
    c,
  ),
  'superkernels': lambda c: network_figures.superkernels(
    [kernel(), kernel(5, 1, 0), kernel(3, 2)], c
  ),
  'superkernels without any spread': lambda c: network_figures.superkernels(
    [Superkernel(np.zeros((3, 3, 1, 4)), 0, 0, 3, '3×3-3')], c
  ),
  'history of gates': lambda c: network_figures.gate_history(
    STEPS,
    np.arange(30.0).reshape(10, 3) - 15,
    [GateRow(0, 'a?'), GateRow(0, 'b?'), GateRow(1, 'a?')],
    40,
    c,
  ),
}


def pixels(picture: bytes) -> np.ndarray:
  return np.asarray(Image.open(io.BytesIO(picture)).convert('L'), float)


@pytest.mark.parametrize('name', DRAWN)
def test_every_figure_is_drawn(name):
  """In both themes, and more than an empty surface comes out of it."""
  for colours in (LIGHT, DARK):
    assert pixels(png(DRAWN[name](colours), dpi=30)).std() > 1


def test_pictures_of_a_real_run(workdir):
  """Search and training that have really run: all their pictures are there."""
  result = report.run(tiny_run.config(), Workdir(workdir))
  names = [
    f'report/{name}.png'
    for name in (
      'network',
      'layer_times',
      'search_learning',
      'search_runtime',
      'gates',
      'worths',
      'superkernels',
      'train_learning',
      'confusion',
      'mistakes',
    )
  ]
  assert result['figures'] == names
  for name in names:
    assert pixels((workdir / name).read_bytes()).std() > 1
  page = (workdir / 'report' / 'index.html').read_text()
  assert 'is left out' not in page


def test_same_data_same_bytes_and_no_global_state():
  before = dict(matplotlib.rcParams)
  first, again = (png(network_figures.network(ROWS), dpi=40) for _ in range(2))
  assert first == again
  assert dict(matplotlib.rcParams) == before


def test_smoothing_keeps_lines_and_gaps():
  smooth = figures._smooth(np.full(40, 3.0))
  np.testing.assert_allclose(smooth, 3.0)
  values = np.arange(40.0)
  values[7] = np.nan
  smooth = figures._smooth(values)
  assert np.isnan(smooth[7]) and np.isfinite(np.delete(smooth, 7)).all()
  np.testing.assert_allclose(smooth[15:25], values[15:25])
  assert figures._smooth(np.array([2.0])) == [2.0]


def test_numbers():
  assert number(27) == '27.00'
  assert number(0.48314) == '0.4831'
  assert number(1234.4) == '1234'
  assert number(123456) == '123,456'
  assert decimals(80.44) == 2
  assert decimals(0.1369) == 4
  assert decimals(12345) == 0
  assert decimals(0) == 0


@pytest.mark.parametrize(('slowest', 'scale'), [(4.9, 'linear'), (5.1, 'log')])
def test_latencies_far_apart_are_drawn_by_factors(slowest, scale):
  """Otherwise all networks of a space share one spot beside a known one."""
  figure = accuracy_figures.accuracy_latency(
    curve=[Point(1.0, 0.7), Point(2.0, 0.8)],
    families={'known': [Point(slowest, 0.9)]},
    target_ms=1.5,
  )
  (ax,) = figure.axes
  assert ax.get_xscale() == scale
  labels = [text.get_text() for text in figure.legends[0].get_texts()]
  assert labels == ['known', 'curve']
  low, high = ax.get_xlim()
  assert 0 < low < 1.0 and slowest < high


def test_names_have_their_own_colours():
  """Three known networks beside a found one, as long as no target is drawn."""
  point = [Point(1.0, 0.5)]
  names = {'a': point, 'b': point, 'c': point}
  figure = accuracy_figures.accuracy_latency(point, families=names)
  lines = figure.axes[0].get_lines()
  assert len({line.get_color() for line in lines}) == len(lines) == 4
