import numpy as np
import pytest
from fake_workdir import fill, small_config

from spnas_jax.report.findings import Findings, gather
from spnas_jax.report.numbers import interval, ms, numbers, relative
from spnas_jax.report.tables import provenance, tables_of
from spnas_jax.report.verdicts import verdicts


def said(results, **kwargs):
  """kind -> verdicts."""
  lines = verdicts(Findings(32, results, **kwargs))
  return [(v.kind, v.text) for v in lines]


def test_verdict_on_the_target():
  ((kind, text),) = said({'search': {'target_ms': 100.0, 'predicted_ms': 97.9}})
  assert kind == 'good'
  assert '97.90 ms, 2.1% below the target of 100.0 ms' in text
  ((kind, text),) = said({'search': {'target_ms': 100.0, 'predicted_ms': 103}})
  assert kind == 'bad' and '3.0% above the target' in text
  ((kind, text),) = said({'search': {'target_ms': None, 'predicted_ms': 9}})
  assert kind == 'note' and 'no target' in text


def test_verdict_on_the_measurement():
  search = {'target_ms': 100.0, 'predicted_ms': 98.0}
  profile = {
    'median_ms': 110.0,
    'bare_median_ms': 105.0,
    'bare_ms': 101.332,
    'protocol': {'statistic': 'fastest run'},
    'predicted_ms': 98.0,
  }
  lines = said({'search': search, 'profile': profile})[1:]
  assert [kind for kind, _ in lines] == ['good', 'bad']
  assert '(fastest run)' in lines[0][1]
  assert '3.4% above the predicted 98.00 ms' in lines[0][1]
  assert '1.3% above the target' in lines[1][1]
  profile |= {'predicted_ms': None, 'prediction': 'none: another device'}
  ((kind, text),) = said({'search': search, 'profile': profile})[1:]
  assert kind == 'note' and 'none: another device' in text


@pytest.mark.parametrize(
  ('measured', 'kind', 'words'),
  [
    (0.9, 'good', '10.0% below'),
    (1.001, 'note', '0.1% above the target of 1.000 ms, within the noise of'),
    (1.02, 'bad', '2.0% above'),
  ],
)
def test_a_miss_that_noise_explains_is_no_failure(measured, kind, words):
  """A standard error of 5 us: 1 us too much says nothing, 20 us do."""
  profile = {'bare_ms': measured, 'bare_error_ms': 0.005, 'median_ms': 2.0}
  lines = said(
    {
      'search': {'target_ms': 1.0, 'predicted_ms': 1.0},
      'profile': {**profile, 'predicted_ms': measured},
    }
  )
  (found,) = [line for line in lines if 'The measured time is' in line[1]]
  assert found[0] == kind and words in found[1]


def test_verdict_on_a_network_that_was_not_searched():
  lines = said(
    {
      'search': {
        'target_ms': 1.0,
        'predicted_ms': 1.0,
        'architecture': 'a',
      },
      'train': {'architecture': 'b'},
      'profile': {'median_ms': 3.0, 'predicted_ms': 3.0},
    }
  )
  assert 'not the one the search found' in lines[1][1]
  assert not any('The measured time is' in text for _, text in lines)


def test_verdicts_on_projection_and_chance():
  search = {
    'target_ms': 10.0,
    'predicted_ms': 10.0,
    'raw_decode_ms': 10.7,
    'projected_layers': 2,
    'undecided_gates': 3,
    'num_gates': 24,
    'warnings': ['Stuck.'],
  }
  lines = said({'search': search})
  assert 'equal to the target' in lines[0][1]
  assert '7.0% above the target' in lines[1][1] and 'changed 2' in lines[1][1]
  assert lines[2] == ('note', '3 of 24 gates were still undecided at the end.')
  assert lines[3] == ('bad', 'Stuck.')


def luck(found, *random):
  rows = [{'kind': 'found', 'architecture': 'f', 'top1': found}]
  return rows + [
    {'kind': 'random', 'architecture': str(i), 'top1': top1}
    for i, top1 in enumerate(random)
  ]


def test_verdicts_on_luck():
  """The random networks' mean is 0.80, their standard deviation 0.01: for one
  found network among four random ones chance reaches t(3) s sqrt(1 + 1/4) =
  3.18 * 1.118 s = 0.0356."""
  four = (0.79, 0.81, 0.80 - 0.5**0.5 / 100, 0.80 + 0.5**0.5 / 100)
  assert np.std(four, ddof=1) == pytest.approx(0.01)

  def verdict(found, *random):
    # What an older version stored is not looked at.
    stored = {'difference': found, 'standard_error': 0.001}
    result = {'networks': luck(found, *random), **stored}
    return said({'random_search': result})[0]

  kind, text = verdict(0.83, *four)
  assert kind == 'note' and 'chance can explain' in text and '3.56' in text
  assert verdict(0.84, *four)[0] == 'good'
  assert verdict(0.76, *four)[0] == 'bad'
  assert 'does not tell' in verdict(0.9, 0.8)[1]


def test_verdicts_on_export_and_table():
  assert said({'export': {'max_abs_diff': 2e-6}})[0][0] == 'good'
  assert said({'export': {'max_abs_diff': 0.2}})[0][0] == 'bad'
  assert said({'validate_table': {'mean_abs_pct': 1.8}})[0][0] == 'good'
  ((kind, text),) = said(
    {'validate_table': {'mean_abs_pct': 12.0, 'verdict': 'Measure again.'}}
  )
  assert (kind, text) == ('bad', 'Latency table: Measure again.')


def test_intervals_and_differences():
  # Wilson score interval of 350 in 360, computed by hand.
  low, high = interval(350 / 360, 360)
  assert low == pytest.approx(0.9496, abs=1e-4)
  assert high == pytest.approx(0.9848, abs=1e-4)
  assert interval(1.0, 100)[1] == pytest.approx(1.0)
  assert relative(97.9, 100) == '2.1% below'
  assert relative(100.04, 100) == 'equal to'


def test_numbers_explain_themselves(tmp_path):
  config = small_config()
  table = numbers(gather(config, fill(config, tmp_path)))
  rows = {row[0]: row[1:] for row in table.rows}
  assert rows['Search time'][0] == '1 min 23 s'
  assert rows['Top-1 accuracy'][0] == '96.94%'
  assert rows['Size, int8'][0] == '1.5 kB'
  assert 'Interquartile range' in rows['Measured, float32 file'][1]
  assert all(len(row) == 3 and row[2] for row in table.rows)


def test_tables_of_what_stages_leave():
  (table,) = tables_of({'single_path': {'params': 1000, 'temp_bytes': 2.5e6}})
  assert list(table.rows) == [['single path', '1,000', '2.50 MB']]
  (table,) = tables_of([{'name': 'a', 'top1': 0.5}, {'name': 'b', 'macs': 7}])
  assert list(table.header) == ['name', 'top-1', 'multiply-adds']
  assert list(table.rows) == [['a', '50.00%', '–'], ['b', '–', '7']]
  (table,) = tables_of([{'status': 'done', 'architecture': 'x', 'ms': 1.5}])
  assert list(table.header) == ['latency, ms', 'status']
  assert list(table.rows) == [['1.500', 'done']]
  (table,) = tables_of({'fits': True, 'kendall_tau_top1': 0.4})
  assert [row[1] for row in table.rows] == ['yes', '0.40']
  assert tables_of(None) == tables_of([]) == tables_of({}) == []


def test_versions_that_differ_name_their_stages():
  found = Findings(
    32,
    {
      'search': {'config_hash': 'a', 'versions': {'jax': '1', 'flax': '2'}},
      'train': {'config_hash': 'b', 'versions': {'jax': '3', 'flax': '2'}},
    },
  )
  stages, versions = provenance(found)
  assert [row[0] for row in stages.rows] == ['search', 'train']
  assert dict(versions.rows) == {'jax': '1 (search); 3 (train)', 'flax': '2'}


@pytest.mark.parametrize(
  ('value', 'said'),
  [
    (0.01917, '19.17 µs'),
    (0.0999, '99.90 µs'),
    (0.1, '0.1000 ms'),
    (80, '80.00'),
  ],
)
def test_small_times_are_in_microseconds(value, said):
  assert ms(value).startswith(said)
