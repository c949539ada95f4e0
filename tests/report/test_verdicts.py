"""A cross only where something is off by more than noise explains."""

import pytest

from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks import zoo
from spnas_jax.report.findings import Findings
from spnas_jax.report.verdicts import verdicts


def said(results, **kwargs):
  """kind, text of every verdict."""
  return [(v.kind, v.text) for v in verdicts(Findings(32, results, **kwargs))]


def the(lines, words):
  (found,) = [line for line in lines if words in line[1]]
  return found


def measured(bare, predicted=1.0, target=1.0, **more):
  """A search that met its target and was then measured."""
  profile = {'bare_ms': bare, 'median_ms': 9.0, 'predicted_ms': predicted}
  search = {'target_ms': target, 'predicted_ms': predicted}
  return {'search': search, 'profile': {**profile, **more}}


# --- the target ---------------------------------------------------------------


@pytest.mark.parametrize(
  ('predicted', 'kind'), [(1.0, 'good'), (1.0004, 'good'), (1.001, 'bad')]
)
def test_what_prints_as_equal_is_no_miss(predicted, kind):
  search = {'target_ms': 1.0, 'predicted_ms': predicted}
  assert said({'search': search})[0][0] == kind


@pytest.mark.parametrize(
  ('bare', 'kind', 'words'),
  [
    (1.008, 'note', 'within the noise'),
    (1.03, 'note', "which the table's mean error of 1.0% explains"),
    (1.05, 'bad', '5.0% above the target of 1.000 ms.'),
  ],
)
def test_a_table_is_as_good_as_it_says(bare, kind, words):
  """Standard error 5 us: noise to 10 us; three mean errors add 30 us."""
  results = measured(bare, bare_error_ms=0.005)
  results['validate_table'] = {'mean_abs_pct': 1.0}
  line = the(said(results), 'The measured time is')
  assert line[0] == kind and words in line[1]


def test_a_bad_table_does_not_excuse_everything():
  """Three errors of 4% are 12%; 5% is where a table is called bad."""
  results = measured(1.07)
  results['validate_table'] = {'mean_abs_pct': 4.0}
  assert the(said(results), 'The measured time is')[0] == 'bad'


def test_a_calibration_tells_the_error_where_nobody_checked():
  table = LatencyTable(
    *('t', {}, {}, 1, {}, '2025-01-01', 32, {}),
    calibration={'factor': 1.0, 'mean_abs_pct': 1.0},
  )
  line = the(said(measured(1.02), table=table), 'The measured time is')
  assert line[0] == 'note' and 'mean error of 1.0%' in line[1]
  assert the(said(measured(1.02)), 'The measured time is')[0] == 'bad'


# --- the prediction -----------------------------------------------------------


@pytest.mark.parametrize(
  ('bare', 'kind'),
  [(1.049, 'good'), (0.951, 'good'), (1.06, 'note'), (1.08, 'bad')],
)
def test_a_prediction_is_judged_beside_the_noise(bare, kind):
  """5% are close; noise of +- 2% is added to them."""
  results = measured(bare, target=9.0, bare_error_ms=0.01)
  line = the(said(results), 'The network measured')
  assert line[0] == kind
  assert ('the noise is ± 20.00 µs' in line[1]) == (kind == 'note')


def test_repeated_measurements_tell_more_of_noise_than_one():
  """Two of one network differ by 3%: two standard deviations are 5.3%."""
  results = measured(1.09, target=9.0, bare_error_ms=0.001)
  assert the(said(results), 'The network measured')[0] == 'bad'
  results['validate_table'] = {'mean_abs_pct': 1.0, 'repeat_pct': 3.0}
  assert the(said(results), 'The network measured')[0] == 'note'


@pytest.mark.parametrize(('load', 'hint'), [(5.3, True), (1.9, False)])
def test_a_busy_machine_is_named(load, hint):
  results = measured(1.2, conditions={'load_1_min': load}, device={'cores': 2})
  line = the(said(results), 'The network measured')
  assert line[0] == 'bad' and ('Others used the machine' in line[1]) == hint


def test_operations_that_a_delegate_left_are_counted():
  left = {'count': 3, 'operations': []}
  line = the(said(measured(1.0, fell_back=left)), 'delegate')
  assert line == ('note', 'The delegate left 3 of its operations to the CPU.')
  none = {'count': 0, 'operations': []}
  assert 'delegate' not in str(said(measured(1.0, fell_back=none)))


# --- the table ----------------------------------------------------------------


@pytest.mark.parametrize(
  ('repeat', 'today', 'kind'),
  [(None, None, 'bad'), (5.0, 8.0, 'note'), (4.0, 8.0, 'bad'), (5, 10, 'bad')],
)
def test_a_table_is_not_blamed_for_noise(repeat, today, kind):
  """8% off; two standard deviations are 1.77 times what two runs differ by."""
  check = {'mean_abs_pct': 8.0, 'num_networks': 9, 'repeat_pct': repeat}
  if today is not None:
    check['mean_abs_pct_at_todays_speed'] = today
  ((found, text),) = said({'validate_table': check})
  assert found == kind and '9 networks that the latency table' in text


# --- the gates, the files -----------------------------------------------------


def test_gates_that_met_the_target_by_themselves_are_praised():
  search = {
    'target_ms': 1.0,
    'predicted_ms': 1.0,
    'raw_decode_ms': 1.0,
    'projected_layers': 0,
    'undecided_gates': 0,
    'num_gates': 8,
  }
  assert [kind for kind, _ in said({'search': search})] == ['good'] * 3


def test_a_file_of_another_search_is_named():
  arch = zoo.get('mnasnet_a1').replace(provenance={'config_hash': 'a'})
  search = {'target_ms': 1.0, 'predicted_ms': 1.0, 'config_hash': 'b'}
  assert said({'search': search}, arch=arch)[-1] == (
    'bad',
    'architecture.json is not the network that this search found.',
  )
  search['config_hash'] = 'a'
  assert len(said({'search': search}, arch=arch)) == 1


@pytest.mark.parametrize(
  ('images', 'words'),
  [(100, 'with so few the 95% interval'), (10**5, '(95% interval 89.81%')],
)
def test_accuracy_comes_with_its_interval(images, words):
  ((kind, text),) = said({'evaluate': {'top1': 0.9, 'num_examples': images}})
  assert kind == 'note' and words in text


def test_rounding_of_large_logits_is_no_fault():
  """The share of their range counts as well: logits may be in thousands."""
  export = {'max_abs_diff': 0.01, 'max_rel_diff': 1e-6}
  assert said({'export': export})[0][0] == 'good'
  export['max_rel_diff'] = 1e-3
  assert said({'export': export})[0][0] == 'bad'


def test_a_missing_int8_model_is_a_fault_and_guessed_ranges_are_told():
  lines = said(
    {
      'export': {
        'int8_error': 'no kernel',
        'int8_guessed_ranges': ['conv', 'x'],
      }
    }
  )
  assert lines[0] == ('bad', 'There is no int8 model: no kernel.')
  assert lines[1][0] == 'note' and 'conv' in lines[1][1]


@pytest.mark.parametrize(
  ('small', 'agreement', 'kind', 'words'),
  [
    (0.95, 1.0, 'good', 'on 100.00% of 400 images.'),
    (0.96, 0.97, 'good', 'on 97.00% of 400 images.'),
    (0.94, 0.97, 'note', '1.00 points fewer, which chance can explain.'),
    (0.92, 0.97, 'bad', '3.00 points fewer.'),
  ],
)
def test_what_8_bits_cost(small, agreement, kind, words):
  """They differ on 3% of 400 images, 12: chance moves 2 sqrt(12) = 7 of them,
  1.7 points."""
  export = {'top1': 0.95, 'top1_int8': small, 'num_images': 400}
  ((found, text),) = said({'export': {**export, 'agreement_int8': agreement}})
  assert found == kind and text.endswith(words)
