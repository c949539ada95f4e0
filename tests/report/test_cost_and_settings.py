"""What a search cost, and the settings it ran with."""

import pytest
from fake_workdir import fill, small_config

from spnas_jax.config.defaults import default_config
from spnas_jax.report import cost, settings
from spnas_jax.report.findings import Findings, gather
from spnas_jax.stages.report import run


def stage(seconds, count, device):
  platform = {'num_devices': count, 'device': device}
  return {'seconds': seconds, 'platform': platform}


@pytest.mark.parametrize(
  ('device', 'words'),
  [
    ('TPU v2', '30.0 TPU-hours'),
    ('TPU v5 lite', '30.0 TPU-hours'),
    ('NVIDIA H100 80GB HBM3', '30.0 GPU-hours'),
    ('cpu', '30.0 device-hours (30 h 00 min)'),
  ],
)
def test_hours_are_counted_as_in_the_paper(device, words):
  """3.75 hours on 8 cores are its 30 TPU-hours."""
  assert cost.hours(stage(3.75 * 3600, 8, device)) == words


def test_cost_of_a_search_stands_beside_the_papers():
  search = {
    **stage(3.75 * 3600, 8, 'TPU v2'),
    'cost_epochs': 8.0,
    'cost_images': 10008 * 1024,
    'steps': 10008,
  }
  (table,) = cost.search_cost(Findings(224, {'search': search}))
  # What the paper did costs what the paper says.
  for label, own, paper in table.rows:
    assert own == paper or label == 'devices', label
  old = {'cost_epochs': 1.0}
  (table,) = cost.search_cost(Findings(32, {'search': old}))
  assert [row[1] for row in table.rows].count('–') == 4
  assert cost.search_cost(Findings(32, {})) == []


def rows(found, config):
  changed, every = settings.tables(found, config)
  return {row[0]: row[1:] for row in changed.rows}, dict(every.rows)


def test_what_stages_recorded_counts(tmp_path):
  """Not what the command that draws the page happens to say."""
  config = small_config()
  found = gather(config, fill(config, tmp_path))
  config.search.epochs = 7.0
  found.results['search']['inputs'] |= {'search.epochs': 12.0}
  found.results['train']['inputs'] = {'train.epochs': 3.0, 'seed': 0}
  found.results['evaluate']['inputs'] = {'train.epochs': 4.0, 'device': 'x'}
  changed, every = rows(found, config)
  assert changed['search.epochs'] == ('12.0', '30.0')
  assert changed['train.epochs'][0] == '3.0; 4.0'
  assert changed['space.channels'] == ('(8, 16)', '(16, 24, 32)')
  assert 'seed' not in changed and 'device' not in changed
  assert len(every) == len(settings.flat(default_config()))
  assert every['device'] == 'host' and every['architecture'] == "''"


def test_settings_that_are_all_as_by_default_are_folded(tmp_path):
  (table,) = settings.tables(Findings(32, {}), default_config())
  assert table.folded == f'All {len(table.rows)} settings'
  config = small_config()
  workdir = fill(config, tmp_path)
  run(config, workdir)
  page = (workdir / 'report/index.html').read_text()
  folded = page.partition('<details>')[2].partition('</details>')[0]
  assert 'train.epochs' in folded and page.count('<details>') == 1
