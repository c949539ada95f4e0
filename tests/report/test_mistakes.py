"""Classes and mistakes: the words, the tables, the pictures."""

import matplotlib
import numpy as np
import pytest
from fake_workdir import evaluation
from matplotlib.colors import to_hex

from spnas_jax.report import mistake_figures, mistakes
from spnas_jax.report.findings import Findings
from spnas_jax.report.mistake_figures import Mistake
from spnas_jax.report.page import Picture, Section, render
from spnas_jax.report.plot_style import DARK, LIGHT, WIDTH, png, shortened
from spnas_jax.report.tables import accuracy_table
from spnas_jax.report.verdicts import tiles


def found(**changes):
  return Findings(32, {'evaluate': {**evaluation(), **changes}})


def many(classes, matrix=True):
  """Class i has 100 images, of which i are taken for the next one."""
  counts = np.zeros((classes, classes), int)
  for i in range(classes):
    counts[i, i] = 100 - i
    counts[i, (i + 1) % classes] = i
  rows = [
    {'class': f'c{i}', 'images': 100, 'recall': 1 - i / 100}
    for i in range(classes)
  ]
  extra = {'confusion_matrix': counts.tolist()} if matrix else {}
  result = {'per_class': rows, 'worst_mistakes': [], **extra}
  return Findings(32, {'evaluate': result})


# --- words and tables ---------------------------------------------------------


def test_weakest_class_and_most_frequent_mistake():
  assert mistakes.sentences(found()) == (
    'Least often recognised: dog, 95.00% of 60 images. Most frequent mistake: '
    'cat taken for dog, 8 of 300 images.'
  )
  assert mistakes.sentences(Findings(32, {})) == ''
  perfect = [{'class': 'a', 'images': 2, 'recall': 1.0}]
  assert mistakes.sentences(found(per_class=perfect)) == (
    'It recognises every image.'
  )
  assert 'was not counted' in mistakes.sentences(many(40, matrix=False))


def test_classes_are_sorted_by_recall():
  (table,) = mistakes.tables(found())
  assert list(table.rows) == [
    ('dog', '60', '95.00%'),
    ('cat', '300', '97.33%'),
    ('eel', '0', '–'),
  ]
  assert mistakes.tables(Findings(32, {})) == []


def test_many_classes_are_listed_in_part():
  pairs, classes = mistakes.tables(many(40))
  assert len(pairs.rows) == 20 and len(classes.rows) == 30
  assert pairs.rows[0] == ('c39', 'c0', '39', '39.00%')
  assert pairs.rows[1] == ('c38', 'c39', '38', '38.00%')
  assert classes.rows[0] == ('c39', '100', '61.00%')
  assert classes.caption == (
    'The 30 of 40 classes that are least often recognised'
  )
  assert len(mistakes.tables(many(40, matrix=False))) == 1


@pytest.mark.parametrize(('dogs', 'shown'), [(200, False), (199, True)])
def test_macro_accuracy_where_classes_are_unbalanced(dogs, shown):
  """From 1.5 times as many images of one class as of another."""
  rows = evaluation()['per_class']
  rows[1]['images'] = dogs
  report = found(per_class=rows)
  values = [t.value for t in tiles(report) if t.label == 'Macro accuracy']
  assert values == (['96.17%'] if shown else [])
  labels = [row[0] for table in accuracy_table(report) for row in table.rows]
  assert ('macro accuracy (mean over the classes)' in labels) == shown


# --- pictures -----------------------------------------------------------------


def numbers_in(figure):
  return [
    t.get_text()
    for t in figure.findobj(matplotlib.text.Text)
    if t.get_gid() == 'count'
  ]


def texts(figure):
  return [t.get_text() for t in figure.findobj(matplotlib.text.Text)]


def test_the_matrix_has_every_number_and_name():
  counts = np.array(evaluation()['confusion_matrix'])
  figure = mistake_figures.confusion(counts, ['cat', 'dog', 'eel'])
  assert numbers_in(figure) == ['292', '8', '3', '57']
  assert texts(figure).count('dog') == 2  # As a row and as a column.
  assert figure.get_figwidth() == WIDTH
  (image,) = figure.axes[0].images
  colour = image.get_array()
  # Right is bluer than red, wrong redder than blue; nothing is the surface.
  assert colour[0, 0, 2] > colour[0, 0, 0] and colour[1, 0, 0] > colour[1, 0, 2]
  assert to_hex(colour[0, 2]) == to_hex(colour[2, 2])


def test_numbers_that_do_not_fit_are_percentages():
  counts = np.full((10, 10), 7)
  np.fill_diagonal(counts, 12345)
  figure = mistake_figures.confusion(counts, ['Ankle boot'] * 10)
  assert set(numbers_in(figure)) == {'99', '<1'}
  assert 'True class (row), answer (column), % of the row' in texts(figure)


def test_a_hundred_classes_are_a_map():
  """Of the same colours: right bluer, wrong redder, never is the surface."""
  counts = mistakes.matrix(many(100))
  figure = mistake_figures.confusion_map(counts)
  assert figure.get_figwidth() == WIDTH and not numbers_in(figure)
  colour = figure.axes[0].images[0].get_array()
  assert colour.shape == (100, 100, 4)
  assert (
    colour[9, 9, 2] > colour[9, 9, 0] and colour[9, 10, 0] > colour[9, 9, 0]
  )
  assert to_hex(colour[9, 50]) == to_hex(LIGHT.diverging(0.5))


def test_names_are_shortened_in_the_middle():
  assert shortened('cat', 1.0) == 'cat'
  one, other = (shortened(f'golden_retriever_{i}', 1.0) for i in (1, 2))
  assert one != other and one.startswith('go') and one.endswith('_1')
  assert shortened('a' * 500, 0.5).count('…') == 1


def worst(n, side=8, channels=1):
  rng = np.random.default_rng(0)
  return [
    Mistake(
      rng.integers(256, size=(side, side, channels)).astype(np.uint8),
      'a very long name of a class',
      'cost $5 or $6',
      1 - i / 50,
    )
    for i in range(n)
  ]


def test_mistakes_show_their_pixels_and_words():
  rows = worst(5)
  figure = mistake_figures.mistakes(rows)
  for ax, row in zip(figure.axes, rows, strict=True):
    np.testing.assert_array_equal(ax.images[0].get_array(), row.image[..., 0])
    assert ax.images[0].get_clim() == (0, 255)
  assert '98.0%' in texts(figure) and '→ cost $5 or $6' not in texts(figure)


def pictures(colours):
  rng = np.random.default_rng(0)
  for n, name in (
    (2, 'a rather long name {}'),
    (10, '{}'),
    (30, 'quite long {}'),
  ):
    counts = rng.integers(200, size=(n, n))
    names = [name.format(i) for i in range(n)]
    yield mistake_figures.confusion(counts, names, colours)
  yield mistake_figures.confusion_map(np.eye(100, dtype=int), colours)
  yield mistake_figures.mistakes(worst(12), colours)
  yield mistake_figures.mistakes(worst(1, 64, 3), colours)


@pytest.mark.parametrize('colours', [LIGHT, DARK])
def test_text_is_inside_apart_and_readable(colours):
  for figure in pictures(colours):
    png(figure, dpi=50)
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    assert box.x0 > -0.02 and box.y0 > -0.02
    assert box.x1 < width + 0.02 and box.y1 < height + 0.02
    boxes = []
    for text in figure.findobj(matplotlib.text.Text):
      if text.get_text():
        assert text.get_fontsize() * 330 / (96 * WIDTH) >= 8
        boxes.append(text.get_window_extent())
    lows = np.array([b.min for b in boxes])
    highs = np.array([b.max for b in boxes])
    # How far each two of them overlap, in pixels of 50 an inch.
    both = np.minimum(highs[:, None], highs) - np.maximum(lows[:, None], lows)
    over = both.min(-1)
    np.fill_diagonal(over, 0)
    assert over.max() < 2


@pytest.mark.parametrize(('classes', 'wide'), [(10, False), (30, True)])
def test_wide_pictures_keep_their_size(classes, wide):
  """On a phone they are scrolled: shrunk, nobody could read them."""
  counts = np.full((classes, classes), 20)
  content = png(mistake_figures.confusion(counts, ['Ankle boot'] * classes))
  picture = Picture('confusion', content, content, 'words')
  page = render('', '', [], [], [Section('', '', [picture])], [], [])
  assert ('<figure class="wide">' in page) == wide
  assert ('style="width: ' in page) == wide
