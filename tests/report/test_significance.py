"""Sentences about chance hold their level when there is nothing but chance."""

import itertools

import numpy as np
import pytest
import scipy.stats

from spnas_jax.report.numbers import interval
from spnas_jax.report.significance import LEVEL, difference, network_means

RUNS = 4000
# Three standard deviations of a share of 5% counted in so many runs.
SLIP = 3 * (LEVEL * (1 - LEVEL) / RUNS) ** 0.5


def rows(rng, networks: int, trainings: int, kind: str) -> list[dict]:
  """Networks that differ by 0.2 points, trainings of one by 0.2 as well."""
  skills = rng.normal(0.9, 0.002, networks)
  return [
    {'kind': kind, 'architecture': f'{kind}{i}', 'top1': rng.normal(s, 0.002)}
    for (i, s), _ in itertools.product(enumerate(skills), range(trainings))
  ]


@pytest.mark.parametrize('random', [2, 3, 10])
@pytest.mark.parametrize('found', [1, 3])
@pytest.mark.parametrize('trainings', [1, 2])
def test_found_beats_random_is_said_at_its_level(random, found, trainings):
  """A search that draws at random: 5% of its verdicts say more than chance.

  With the standard error of the random mean alone, and two of them as the
  limit, it was 55% for one found network.
  """
  rng = np.random.default_rng([random, found, trainings])
  clear = 0
  for _ in range(RUNS // 4):
    drawn = rows(rng, random, trainings, 'random')
    drawn += rows(rng, found, trainings, 'found')
    off = difference(
      network_means(drawn, 'random'), network_means(drawn, 'found')
    )
    clear += off.clear
  assert clear / (RUNS // 4) == pytest.approx(LEVEL, abs=2 * SLIP)


def test_a_difference_that_is_there_is_found():
  """Five standard deviations among ten networks: nearly always."""
  rng = np.random.default_rng(0)
  clear = [
    difference(rng.normal(0, 1, 10), rng.normal(5, 1, 1)).clear
    for _ in range(200)
  ]
  assert np.mean(clear) > 0.95


def test_networks_that_are_all_alike_say_nothing_of_chance():
  """Three random networks with the same 356 of 360 images right: an error of
  zero would make any difference a clear one."""
  assert difference([356 / 360] * 3, [355 / 360]) is None


def test_difference_by_hand():
  """Means 2 and 5; s = 1 of (1, 2, 3): 1 sqrt(1/3 + 1), two degrees."""
  off = difference([1, 2, 3], [5])
  assert off.value == 3
  assert off.standard_error == pytest.approx((4 / 3) ** 0.5)
  assert off.degrees_of_freedom == 2
  # t(2) at 97.5% is 4.303 in every table.
  assert off.margin == pytest.approx(4.303 * (4 / 3) ** 0.5, rel=1e-3)
  # Two groups: Student's test.
  a, b = [0.1, 0.4, 0.2, 0.3], [0.7, 0.5]
  off = difference(a, b)
  t = scipy.stats.ttest_ind(b, a)
  assert off.value / off.standard_error == pytest.approx(t.statistic)
  assert off.clear == (t.pvalue < LEVEL)


def test_no_spread_no_verdict():
  assert difference([1.0], [2.0]) is None
  assert difference([1.0, 2.0], []) is None


@pytest.mark.parametrize('share', [0.5, 0.9, 0.99])
@pytest.mark.parametrize('total', [50, 360, 10_000])
def test_the_interval_of_an_accuracy_covers_it(share, total):
  """Wilson's 95%; counts are whole numbers, so it is 91% at 0.99 of 50."""
  rng = np.random.default_rng(total)
  counted = rng.binomial(total, share, RUNS) / total
  values, times = np.unique(counted, return_counts=True)
  bounds = [interval(x, total) for x in values]
  inside = [low <= share <= high for low, high in bounds]
  covered = np.average(inside, weights=times)
  assert 0.90 <= covered <= 0.99
