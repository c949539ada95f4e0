import base64
import html.parser
import json
import re
import struct
import subprocess
import sys

import pytest
import tiny_run
from fake_workdir import fill, small_config

from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks import zoo
from spnas_jax.networks.architecture import Architecture
from spnas_jax.report import findings as report_data
from spnas_jax.report import page as report_page
from spnas_jax.report.findings import Findings
from spnas_jax.report.page import Section, Table, render
from spnas_jax.report.points import compared_points, trained_points
from spnas_jax.stages import report


@pytest.fixture
def config():
  return small_config()


@pytest.fixture
def full(config, tmp_path):
  return fill(config, tmp_path / 'run')


@pytest.fixture
def quick(monkeypatch):
  """Pictures are made but not rendered."""
  monkeypatch.setattr(
    report_page, 'png', lambda figure: bytes(16) + struct.pack('>II', 10, 10)
  )
  monkeypatch.setattr(report_page, 'svg', lambda figure: b'<svg/>')


def page_of(workdir):
  return (workdir / 'report/index.html').read_text()


def forget(workdir, stage):
  results = workdir.results()
  del results[stage]
  workdir.write('results.json', json.dumps(results))


class Checker(html.parser.HTMLParser):
  """Fails on tags that do not close; collects what refers to something."""

  VOID = ('meta', 'link', 'img', 'source')

  def __init__(self):
    super().__init__()
    self.open, self.links, self.images, self.headings = [], [], [], []

  def handle_starttag(self, tag, attrs):
    if tag not in self.VOID:
      self.open.append(tag)
    for name, value in attrs:
      if name in ('src', 'href', 'srcset', 'action', 'data', 'poster'):
        self.links.append(value)
    if tag == 'img':
      self.images.append(dict(attrs))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] == 'h2':
      self.headings.append(data)


def check(page):
  checker = Checker()
  checker.feed(page)
  checker.close()
  assert not checker.open
  return checker


# --- the page -----------------------------------------------------------------

PICTURES = [
  'network',
  'layer_times',
  'search_learning',
  'search_runtime',
  'gates',
  'worths',
  'superkernels',
  'predicted_measured',
  'train_learning',
  'random_search',
  'evolution',
  'curve',
  'compare_zoo',
  'confusion',
  'mistakes',
]


def test_full_report(config, full):
  result = report.run(config, full)
  assert result['page'] == 'report/index.html'
  assert result['figures'] == [f'report/{name}.png' for name in PICTURES]
  assert full.results()['report']['figures'] == result['figures']
  page = page_of(full)
  checker = check(page)
  assert checker.headings == [
    'The network',
    'How the search went',
    'What it decided',
    'Can the latency table be trusted?',
    'How good it is',
    'Where it errs',
    'All numbers',
    'Comparisons',
    'Known networks',
    'Where the numbers come from',
    'Settings',
  ]
  for name, image in zip(result['figures'], checker.images, strict=True):
    content = (full / name).read_bytes()
    assert content.startswith(b'\x89PNG')
    embedded = image['src'].removeprefix('data:image/png;base64,')
    assert base64.b64decode(embedded) == content
    assert image['alt'] and int(image['width']) > 0
  # Light and dark.
  assert page.count('data:image/png') == 2 * len(PICTURES)


def test_page_refers_to_nothing_outside(config, full, quick):
  report.run(config, full)
  page = page_of(full)
  assert all(link.startswith('data:') for link in check(page).links)
  text = re.sub(r'base64,[^"]*', '', page)
  for sign in ('http', '<script', 'url(', '@import', '//'):
    assert sign not in text


def test_empty_workdir(config, tmp_path):
  workdir = Workdir(tmp_path)
  result = report.run(config, workdir)
  assert result['figures'] == []
  page = page_of(workdir)
  assert check(page).headings == ['Not on this page']
  for stage in ('search', 'train', 'profile', 'validate_table', 'zoo'):
    assert f'--stage={stage} --config=CONFIG --workdir=' in page


@pytest.mark.parametrize(
  ('stage', 'pictures'),
  [
    ('validate_table', ['predicted_measured']),
    ('random_search', ['random_search']),
    ('compare', []),
    ('zoo', []),
    ('profile', []),
  ],
)
def test_a_missing_stage_leaves_its_command(
  config, full, quick, stage, pictures
):
  forget(full, stage)
  names = report.run(config, full)['figures']
  wanted = [n for n in PICTURES if n not in pictures]
  assert names == [f'report/{n}.png' for n in wanted]
  commands = re.findall(r'--stage=(\w+) --config', page_of(full))
  assert commands == [stage]


@pytest.mark.parametrize(
  ('files', 'pictures'),
  [
    ('search/supernet.npz', ['gates', 'superkernels']),
    ('search/history.npz', ['search_learning', 'search_runtime']),
    ('train/history.npz', ['train_learning']),
    ('latency_table.json', ['layer_times']),
    ('architecture.json', ['network', 'layer_times', 'superkernels']),
    ('evaluate/worst_mistakes.npz', ['mistakes']),
  ],
)
def test_missing_files_leave_their_pictures_out(
  config, full, quick, files, pictures
):
  path = full / files
  if path.is_dir():
    path.rmtree()
  else:
    path.unlink()
  names = report.run(config, full)['figures']
  wanted = [n for n in PICTURES if n not in pictures]
  assert names == [f'report/{n}.png' for n in wanted]
  check(page_of(full))


@pytest.mark.parametrize(
  'name',
  [
    'search/supernet.npz',
    'search/found.npy',
    'architecture.json',
    'latency_table.json',
    'evaluate/worst_mistakes.npz',
  ],
)
def test_damaged_files_leave_a_line(config, full, quick, name):
  full.write(name, 'nonsense')
  report.run(config, full)
  page = page_of(full)
  assert 'left out' in page
  check(page)


def test_damaged_results_are_the_users_business(config, full):
  full.write('results.json', '{')
  with pytest.raises(UserError, match=r'results\.json'):
    report.run(config, full)


@pytest.mark.parametrize(
  'key', ['per_class', 'confusion_matrix', 'worst_mistakes']
)
def test_evaluations_of_older_versions_are_reported(config, full, quick, key):
  """With what they have; and how the rest is made."""
  results = full.results()
  keys = ('macro_accuracy', 'per_class', 'confusion_matrix', 'worst_mistakes')
  for name in keys if key == 'per_class' else (key,):
    del results['evaluate'][name]
  full.write('results.json', json.dumps(results))
  names = report.run(config, full)['figures']
  page = page_of(full)
  without = {
    'per_class': ['confusion', 'mistakes'],
    'confusion_matrix': ['confusion'],
    'worst_mistakes': ['mistakes'],
  }[key]
  assert names == [f'report/{n}.png' for n in PICTURES if n not in without]
  assert ('Where it errs' in check(page).headings) == (key != 'per_class')
  assert ('--stage=evaluate' in page) == (key == 'per_class')
  assert '96.94%' in page


def test_images_of_another_evaluation_are_not_shown(config, full, quick):
  results = full.results()
  results['evaluate']['worst_mistakes'][0]['index'] = 8
  full.write('results.json', json.dumps(results))
  assert 'report/mistakes.png' not in report.run(config, full)['figures']
  assert 'worst_mistakes.npz is of another evaluation' in page_of(full)


def test_another_configuration_or_table_is_said(config, full, quick):
  config.space.layers = (3, 2)
  table = LatencyTable.load(full / 'latency_table.json')
  other = json.loads(table.to_json()) | {'date': 'later'}
  full.write('latency_table.json', json.dumps(other))
  names = report.run(config, full)['figures']
  page = page_of(full)
  assert 'ran with another configuration (space.layers' in page
  assert 'is not the table that the search used' in page
  assert 'report/network.png' in names
  assert not {'report/gates.png', 'report/layer_times.png'} & {*names}


def test_texts_are_escaped():
  nasty = '<b>&"'
  page = render(
    nasty,
    nasty,
    [],
    [],
    [Section(nasty, nasty, (), [Table([nasty], [[nasty]], caption=nasty)])],
    [],
    [nasty],
  )
  check(page)
  assert nasty not in page
  assert '&lt;b&gt;&amp;' in page


def test_needs_no_tensorflow():
  code = (
    'import sys, spnas_jax.stages.report; '
    'assert "tensorflow" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True, cwd=tiny_run.ROOT)


# --- what is drawn ------------------------------------------------------------


def test_rows_say_what_was_chosen_and_add_up(config, full):
  found = report_data.gather(config, full)
  assert found.problems == []
  rows = report_data.network_rows(found)
  assert [row.name for row in rows] == [
    'stem 3×3',
    'MBConv 5×5-6',
    'skipped',
    'MBConv 3×3-6',
    'MBConv 5×5-6',
    'head, classifier',
  ]
  assert rows[1].shape == '8×8×8' and rows[4].shape == '8×8×16'
  assert [row.layer for row in rows] == [None, 0, 1, 2, 3, None]
  predicted = found.table.predict(found.arch)
  assert sum(row.ms or 0 for row in rows) == pytest.approx(predicted)
  parts = report_data.part_times(found)
  assert sum(part.ms for part in parts) == pytest.approx(predicted)
  assert [part.name for part in parts][:3] == ['stem', '0  5×5-6', '1  skipped']
  assert all(p.slowest_ms >= p.ms for p in parts if p.slowest_ms is not None)
  measured = [part.measured_ms for part in parts]
  assert measured == [0.02, 0.02, None, 0.02, 0.02, 0.02]
  kernels = report_data.superkernels(found)
  assert [k.kernel for k in kernels] == [5, 0, 3, 5]
  assert [k.stage for k in kernels] == [0, 0, 1, 1]


def test_times_of_a_positional_table():
  table = LatencyTable.load(tiny_run.ROOT / 'latency' / 'pixel1.json')
  found = Findings(224, arch=zoo.get('single_path_nas'), table=table)
  parts = report_data.part_times(found)
  assert parts[0].name == 'fixed parts'
  assert parts[0].ms == pytest.approx(19.5999)
  assert sum(part.ms for part in parts) == pytest.approx(80.4411, abs=1e-4)
  rows = report_data.network_rows(found)
  assert rows[0].ms is None and rows[1].ms is None
  assert rows[2].ms == pytest.approx(4.4905)


def test_gates_are_named_by_what_they_admit(config):
  config.space.kernels = (3, 5, 7)
  rows = report_data.gate_rows(make_space(config))
  assert [row.group for row in rows if row.layer == 1] == [
    'Use the 5×5 kernel?',
    'Use the 7×7 kernel?',
    'Use expansion 6?',
    'Keep the layer?',
  ]


def test_seeds_are_averaged(config, full):
  own, random, curve = trained_points(report_data.gather(config, full))
  assert [p.top1 for p in own] == [0.9]
  # Those beside a point of the curve are random networks as well.
  assert [p.top1 for p in random] == pytest.approx([0.8, 0.6, 0.8])
  assert curve == [(3, 0.95)]


def test_measured_and_predicted_latencies_are_not_mixed(config, full):
  found = report_data.gather(config, full)
  families, own, random, kind = compared_points(found)
  assert random == [(2.6, 0.6)]
  assert kind == 'measured'
  assert families == {'a': [(2.0, 0.5), (3.0, 0.6)]}
  assert own == [(2.5, 0.7)]


@pytest.mark.parametrize('classes', [5, 6])
def test_top_5_of_five_classes_is_left_out(classes, tmp_path, quick):
  """It is always 100%: no number, no row, no column says it."""
  config = small_config()
  workdir = fill(config, tmp_path)
  arch = Architecture.from_json((tmp_path / 'architecture.json').read_text())
  workdir.write(
    'architecture.json', arch.replace(num_classes=classes).to_json()
  )
  report.run(config, workdir)
  page = (tmp_path / 'report' / 'index.html').read_text()
  assert ('top-5' in page.lower()) == (classes == 6)


def test_gates_that_did_not_decide_are_not_spoken_of(config, full):
  """After a search by scores: no picture of them, no verdict on them."""
  results = full.results()
  results['search']['inputs'] = {'search.method': 'worth'}
  full.write('results.json', json.dumps(results))
  figures = report.run(config, full)['figures']
  assert 'report/gates.png' not in figures and 'report/worths.png' in figures
  assert 'gates' not in re.sub(
    r'<table.*?</table>', '', page_of(full), flags=re.S
  )
