"""Devices: what all share, and the host."""

import dataclasses
import json
import os

import numpy as np
import pytest
from fake_device import CALL_MS, FakeDevice

from spnas_jax.config.defaults import default_config
from spnas_jax.core.errors import UserError
from spnas_jax.export import tflite
from spnas_jax.latency import devices, host
from spnas_jax.latency.devices import Timing, summarise
from spnas_jax.latency.host import HostDevice
from spnas_jax.latency.open_device import open_device


@pytest.fixture(scope='module')
def model() -> bytes:
  return tflite.convert(lambda x: x + 1, (1, 4, 4, 2))


# --- what all devices share ---------------------------------------------------


def test_rounds_are_interleaved(model):
  device = FakeDevice()
  calls = []
  timings = device.measure(
    {'a': model, 'b': model},
    warmup_runs=1,
    rounds=3,
    runs_per_round=1,
    on_sample=lambda: calls.append(1),
  )
  assert device.taken == ['a', 'b'] * 3
  assert len(calls) == 6
  assert timings['a'] == Timing(CALL_MS, CALL_MS, 0.0, 3)


def test_samples_that_are_there_are_not_taken_again(model):
  device = FakeDevice()
  samples = {'a': [1.0, 1.0], 'b': [2.0], 'gone': [9.0]}
  timings = device.measure(
    {'a': model, 'b': model},
    warmup_runs=0,
    rounds=2,
    runs_per_round=1,
    samples=samples,
  )
  assert device.taken == ['b']
  assert samples['b'] == [2.0, CALL_MS]
  assert set(timings) == {'a', 'b'}
  # More samples than were asked for: the first ones count.
  fewer = device.measure(
    {'a': model},
    warmup_runs=0,
    rounds=1,
    runs_per_round=1,
    samples={'a': [1.0, 5.0]},
  )
  assert fewer['a'] == Timing(1.0, 1.0, 0.0, 1)


def test_statistics():
  timing = summarise([[4.0, 1.0], [2.0, 3.0, 5.0]], 0.0)
  wanted = Timing(ms=1.0, median_ms=3.0, spread_ms=2.0, count=2)
  assert dataclasses.replace(timing, error_ms=0.0) == wanted


def test_unknown_device():
  config = default_config()
  config.device = 'toaster'
  with pytest.raises(UserError, match="'host', 'adb'"):
    open_device(config)


# --- host ---------------------------------------------------------------------


def test_times_are_put_at_one_pace():
  """A machine that is half the time 1.6 times slower, for all alike: the times
  of models keep their ratio, and no spread is left but their own."""
  rng = np.random.default_rng(0)
  pace = np.where(rng.random(40) < 0.5, 1.0, 1.6).reshape(8, 5)
  own = {'a': 2.0, 'b': 7.0}
  samples = {
    name: [
      [[ms * p * rng.uniform(0.999, 1.001), 0.1 * p] for p in runs]
      for runs in pace
    ]
    for name, ms in own.items()
  }
  steady = host.at_one_pace(samples)
  # The pace is the lower quartile: that of the quiet half.
  for name, ms in own.items():
    assert np.shape(steady[name]) == (8, 5)
    np.testing.assert_allclose(steady[name], ms, rtol=3e-3)


def test_a_pace_that_says_nothing_changes_nothing():
  """Unrelated jitter of the loop must not become jitter of the times."""
  rng = np.random.default_rng(0)
  times = rng.uniform(0.99, 1.01, 400)
  samples = {
    'a': [
      [[t, 0.1 * p]]
      for t, p in zip(times, rng.uniform(1, 1.2, 400), strict=True)
    ]
  }
  steady = np.concatenate(host.at_one_pace(samples)['a'])
  assert np.abs(steady / times - 1).max() < 0.01
  assert steady.std() < 1.02 * times.std()


def test_samples_of_older_versions_stay():
  """The oldest did not look at the pace, later ones had one pair a round."""
  assert host.at_one_pace({'a': [1.0, 2.0]}) == {'a': [[1.0], [2.0]]}
  mixed = host.at_one_pace({'a': [1.0, [2.0, 0.1], [[2.0, 0.1], [2.0, 0.1]]]})
  assert [len(ms) for ms in mixed['a']] == [1, 1, 2]
  assert mixed['a'][0] == [1.0]


def test_two_threads_count_by_their_fast_runs():
  """They wait for the slower of two cores, whose pace nobody knows."""
  one, two = HostDevice(), HostDevice(threads=2)
  assert two.quantile < one.quantile
  for device in (one, two):
    assert f'{100 * device.quantile:g}%' in device.statistic


def test_host_times_models(monkeypatch, model):
  monkeypatch.setattr(HostDevice, 'round_seconds', 0.0)
  device = open_device(default_config())
  assert isinstance(device, HostDevice)
  allowed = os.sched_getaffinity(0)
  large = tflite.convert(lambda x: x @ np.ones((512, 512)), (1, 512))
  seen = []
  timings = device.measure(
    {'small': model, 'large': large},
    warmup_runs=1,
    rounds=3,
    runs_per_round=2,
    on_sample=lambda: seen.append(len(os.sched_getaffinity(0))),
  )
  assert 0 < timings['small'].ms < timings['large'].ms < 10
  assert timings['small'].ms <= timings['small'].median_ms
  assert timings['small'].count == 3
  assert set(seen) == {1}
  assert os.sched_getaffinity(0) == allowed


def test_host_gives_its_cores_back_after_an_interruption(model):
  allowed = os.sched_getaffinity(0)
  device = HostDevice(threads=1)
  with pytest.raises(KeyboardInterrupt), device.session({}, 0, 1):
    raise KeyboardInterrupt
  assert os.sched_getaffinity(0) == allowed


def test_host_rounds_take_their_time(monkeypatch, model):
  monkeypatch.setattr(HostDevice, 'round_seconds', 2.0)
  slept = []
  monkeypatch.setattr(devices.time, 'sleep', slept.append)
  HostDevice().measure({'a': model}, warmup_runs=0, rounds=3, runs_per_round=1)
  assert len(slept) == 2  # Not after the last.
  assert all(1.0 < seconds <= 2.0 for seconds in slept)


def test_host_describes_itself_the_same_way_every_time():
  facts = HostDevice(threads=2).describe()
  assert json.loads(json.dumps(facts)) == facts
  assert facts == HostDevice(threads=1).describe()
  assert facts['device']['name']
  assert facts['device']['cores'] == os.cpu_count()


def test_the_error_of_a_timing_is_how_far_it_repeats():
  """Rounds of two kinds, as memory places them: 15 near 1 ms and 5 near 2. The
  lower quartile repeats within a few thousandths, whatever their spread; by
  2,000 draws of 20 rounds from the same mixture."""
  rng = np.random.default_rng(0)

  def rounds():
    slow = rng.random(20) < 0.25
    return np.where(slow, 2.0, 1.0) + rng.normal(0, 0.01, 20)

  repeated = np.std([np.quantile(rounds(), 0.25) for _ in range(2000)])
  errors = [summarise(rounds()[:, None], 0.25).error_ms for _ in range(50)]
  assert np.mean(errors) == pytest.approx(repeated, rel=0.5)
  assert summarise([[1.0], [1.0], [1.0]], 0.25).error_ms == 0.0
