"""The pages in a real browser: on a desk, on a phone, in the dark, on paper.

Skipped where there is no Chromium (`apt-get install chromium`).
"""

from __future__ import annotations

import subprocess
import sys

import fake_workdir
import pytest
import tiny_run
from browser import PROGRAM, Browser
from sklearn.datasets import load_digits

from spnas_jax.config.workdir import Workdir
from spnas_jax.stages import report

pytestmark = pytest.mark.skipif(PROGRAM is None, reason='there is no Chromium')

# What is not as it should be on a page, in words; [] where all is well.
PROBE = """(() => {
  const said = [], root = document.documentElement;
  const name = e => e.tagName + ' ' + (e.className || '') + ' ' +
    (e.textContent || e.alt || '').trim().slice(0, 50);
  const edge = root.clientWidth + 1;
  if (root.scrollWidth > edge) said.push('the page is ' + root.scrollWidth);
  for (const e of document.body.querySelectorAll('*')) {
    const box = e.getBoundingClientRect();
    if (e.closest('.scroll') || e.closest('.spoken') || !box.width) continue;
    if (box.right > edge || box.left < -1)
      said.push('sticks out: ' + name(e));
  }
  for (const e of document.images)
    if (!e.complete || !e.naturalWidth || e.clientWidth < 100 ||
        e.clientHeight < 40)
      said.push('no picture: ' + name(e));
  for (const e of document.querySelectorAll('p,li,dd,dt,td,th,figcaption'))
    if (e.checkVisibility() && parseFloat(getComputedStyle(e).fontSize) < 11)
      said.push('too small: ' + name(e));
  // Letters that would lie over the next cell.
  for (const e of document.querySelectorAll('td, th'))
    if (e.scrollWidth > e.clientWidth + 1 && e.checkVisibility())
      said.push('cell too narrow: ' + name(e));
  for (const e of document.querySelectorAll('.cards td')) {
    const label = getComputedStyle(e, '::before');
    if (label.content != 'none' && label.whiteSpace != 'normal')
      said.push('label over its value: ' + name(e));
  }
  return said;
})()"""
# Brightness of the page and of its first picture, 0 to 255.
BRIGHTNESS = """(() => {
  const rgb = getComputedStyle(document.body).backgroundColor.match(/\\d+/g);
  const picture = document.images[0], canvas = document.createElement('canvas');
  canvas.width = canvas.height = 8;
  const context = canvas.getContext('2d');
  context.drawImage(picture, 0, 0, 8, 8, 0, 0, 8, 8);
  return [+rgb[0], context.getImageData(1, 1, 1, 1).data[0]];
})()"""


@pytest.fixture(scope='module')
def browser():
  with Browser() as page:
    yield page


def check(browser, path):
  """Opens a page in every way, and fails on what is wrong with it."""
  for width, theme in ((1200, 'light'), (1200, 'dark'), (390, 'light')):
    browser.open(path, width, theme)
    assert browser.evaluate(PROBE) == [], (width, theme)
    assert browser.complaints() == [], (width, theme)
    bright = browser.evaluate(BRIGHTNESS)
    assert [b > 128 for b in bright] == [theme == 'light'] * 2, (theme, bright)
  # Folded parts are pages, too.
  browser.evaluate(
    'document.querySelectorAll("details").forEach(d => d.open = true)'
  )
  assert browser.evaluate(PROBE) == []
  # On paper it is light for who reads it in the dark. 700 px are an A4 sheet
  # without its margins; nothing scrolls there, so nothing may be wider.
  browser.open(path, 700, 'dark', 'print')
  assert browser.evaluate(PROBE.replace("e.closest('.scroll') || ", '')) == []
  assert min(browser.evaluate(BRIGHTNESS)) == 255
  pdf = browser.pdf()
  assert pdf.startswith(b'%PDF') and b'/Type /Page' in pdf


def test_probe_finds_what_is_wrong(browser, tmp_path):
  """A wide box, a broken picture, small letters, a fault in a script."""
  path = tmp_path / 'bad.html'
  path.write_text(
    '<!DOCTYPE html><p style="width: 2000px">wide</p>'
    '<img src="data:image/png;base64,AAAA" width="200" height="200">'
    '<p style="font-size: 6px">small</p><script>nobody()</script>'
  )
  browser.open(path)
  said = ' '.join(browser.evaluate(PROBE))
  for words in ('the page is 20', 'sticks out: P', 'no picture', 'too small'):
    assert words in said, words
  assert 'nobody is not defined' in ' '.join(browser.complaints())


@pytest.fixture(scope='module')
def fakes(tmp_path_factory):
  """Two workdirs in which every stage has run, the second with long names."""
  config = fake_workdir.small_config()
  folder = tmp_path_factory.mktemp('fakes')
  one = fake_workdir.fill(config, folder / 'one')
  other = fake_workdir.fill(
    config, folder / ('another_run_with_a_name_' + 'that_does_not_end_' * 4)
  )
  return config, one, other


def test_page_of_every_stage(browser, fakes):
  config, one, _ = fakes
  report.run(config, one)
  check(browser, one / 'report/index.html')


def test_page_of_two_runs(browser, fakes, tmp_path):
  config, one, other = fakes
  config = config.copy_and_resolve_references()
  config.report.workdirs = (str(one.path), str(other.path))
  own = Workdir(tmp_path)
  report.run(config, own)
  check(browser, own / 'report/comparison.html')


def test_page_of_an_empty_workdir(browser, tmp_path):
  workdir = Workdir(tmp_path)
  report.run(fake_workdir.small_config(), workdir)
  browser.open(workdir / 'report/index.html', 390)
  assert browser.evaluate(PROBE) == [] and browser.complaints() == []


# --- real runs ----------------------------------------------------------------


def finished(config_file, folder, *options):
  """All stages of a small run; returns its workdir."""
  workdir = folder / 'run'
  command = [sys.executable, 'main.py', '--stage=all']
  command += [f'--config={config_file}', f'--workdir={workdir}', *options]
  done = subprocess.run(
    command,
    cwd=tiny_run.ROOT,
    env=tiny_run.environment(devices=1),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return workdir


QUICK = (
  '--config.latency_table=measure',
  '--config.search.epochs=2',
  '--config.search.warmup_epochs=1',
  '--config.train.epochs=1',
  '--config.build_table.rounds=2',
  '--config.build_table.calibration_networks=3',
  '--config.profile.rounds=2',
  '--config.export.calibration_images=16',
)


@pytest.mark.slow
def test_page_of_a_finished_run(browser, tmp_path):
  """Digits, every stage, little of each."""
  workdir = finished('configs/digits.py', tmp_path, *QUICK)
  check(browser, workdir / 'report/index.html')


@pytest.mark.slow
def test_page_of_a_folder_of_pictures(browser, tmp_path):
  """Digits as PNG files in folders whose names are long."""
  from PIL import Image

  digits = load_digits()
  for i in range(240):
    label = f'the digit {digits.target[i]} written by hand'
    path = tmp_path / 'photos' / label / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (digits.images[i] * 15).astype('uint8')
    Image.fromarray(pixels).resize((24, 24)).save(path)
  workdir = finished(
    'configs/image_folder.py',
    tmp_path,
    *QUICK,
    f'--config.dataset.folder={tmp_path / "photos"}',
    f'--config.dataset.data_dir={tmp_path / "data"}',
    '--config.dataset.image_size=16',
    '--config.space.channels=(8,16)',
    '--config.space.layers=(1,2)',
    '--config.space.strides=(1,2)',
  )
  check(browser, workdir / 'report/index.html')
