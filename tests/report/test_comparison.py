"""Several runs on one page: what is laid side by side, and what is refused."""

import json
import re

import fake_workdir
import pytest

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.report import comparison as page_of_runs
from spnas_jax.report.comparison import comparison, latency_of, point_of
from spnas_jax.stages import report


@pytest.fixture
def runs(tmp_path):
  """Two finished workdirs; the second aimed lower and is more accurate."""
  config = fake_workdir.small_config()
  for name, target in (('first', 0.7), ('second', 0.5)):
    fake_workdir.fill(config, tmp_path / name)
    path = tmp_path / name / 'results.json'
    results = json.loads(path.read_text())
    results['search']['inputs'] = {'seed': 1, 'search.target_ms': target}
    results['search']['target_ms'] = target
    results['evaluate']['top1'] = 0.9 + target / 10
    path.write_text(json.dumps(results))
  return config, tmp_path


def test_a_page_of_two_runs(runs):
  """Both in one table and one picture, their curves, and the setting that
  differs with both values; what is alike is not there."""
  config, folder = runs
  config.report.workdirs = (str(folder / 'first'), str(folder / 'second'))
  own = Workdir(folder / 'own')
  result = report.run(config, own)
  page = (own / result['comparison']).read_text()
  assert '<title>2 runs</title>' in page
  for text in ('97.00%', '95.00%', '0.7000 ms', '0.5000 ms'):
    assert text in page, text
  differs = page.partition('What differs')[2]
  row = re.search('<th scope="row">search.target_ms</th>.*?</tr>', differs)
  assert re.findall('<td[^>]*>(.*?)</td>', row[0]) == ['0.7', '0.5']
  assert '>seed<' not in differs
  assert page.count('<h3>') == 2  # A curve each.
  assert 'different data sets' not in page
  assert (own / 'report/compared.png').read_bytes().startswith(b'\x89PNG')
  assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_a_picture_that_fails_leaves_the_page(monkeypatch):
  def refuse(**_):
    raise ValueError('odd data')

  monkeypatch.setattr(page_of_runs, 'accuracy_latency', refuse)
  run = {'evaluate': {'top1': 0.5}, 'search': {'predicted_ms': 1.0}}
  page, pictures = comparison({'a': run})
  assert pictures == []
  assert 'The picture compared is left out: odd data' in page
  assert '50.00%' in page


def test_what_cannot_be_compared_is_said():
  """Other data, other devices, and predictions beside measurements."""
  page, pictures = comparison(
    {
      'a': {
        'evaluate': {'top1': 0.5, 'inputs': {'dataset.name': 'digits'}},
        'search': {'predicted_ms': 1.0},
      },
      'b': {
        'evaluate': {'top1': 0.6, 'inputs': {'dataset.name': 'cifar10'}},
        'profile': {'median_ms': 2.0, 'device': {'name': 'x'}},
      },
    }
  )
  assert 'different data sets' in page and 'different devices' not in page
  assert 'Some latencies are measured, others only predicted.' in page
  assert 'a has not finished: train, export, profile.' in page
  assert len(pictures) == 1


def test_a_run_without_numbers_has_no_point():
  assert point_of({}) is None and latency_of({}) == (None, 'predicted')
  page, pictures = comparison({'empty': {}})
  assert not pictures and '–' in page


def test_refusals(runs):
  config, folder = runs
  config.report.workdirs = (str(folder / 'nobody'),)
  with pytest.raises(UserError, match=r"report.workdirs has '.*nobody', which"):
    report.run(config, Workdir(folder / 'own'))
  assert not (folder / 'nobody').exists()
