"""Splits by content: stable, stratified, equal files together."""

from __future__ import annotations

import collections
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spnas_jax.data import folder_splits

BOTH = {'validation': 0.1, 'test': 0.2}


def pictures(count, label='a', first=0):
  """(class, hash) of different contents."""
  return [
    (label, hashlib.sha256(f'{label}{i}'.encode()).hexdigest())
    for i in range(first, first + count)
  ]


def counts(splits):
  return collections.Counter(splits)


def test_fractions_are_met_by_many():
  found = counts(folder_splits.assign(pictures(20_000), BOTH, seed=0))
  # Three standard deviations of a binomial.
  assert found['test'] == pytest.approx(4000, abs=170)
  assert found['validation'] == pytest.approx(2000, abs=127)


@pytest.mark.parametrize(
  ('fractions', 'names'),
  [
    ({}, {'train'}),
    ({'validation': 0.0, 'test': 0.5}, {'train', 'test'}),
    ({'validation': 0.5}, {'train', 'validation'}),
  ],
)
def test_a_split_that_is_not_wanted_is_not_made(fractions, names):
  assert set(folder_splits.assign(pictures(50), fractions, 0)) == names


def test_another_seed_splits_another_way():
  one, other = (folder_splits.assign(pictures(99), BOTH, s) for s in (0, 1))
  assert one != other


@given(st.integers(1, 12), st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_every_class_has_as_many_splits_as_it_can(count, seed):
  """First one to train on, then one to score, then one to validate."""
  small, many = pictures(count, 'small'), pictures(30, 'many')
  found = folder_splits.assign(small + many, BOTH, seed)
  wanted = folder_splits.PRIORITY[: min(count, 3)]
  assert set(found[:count]) == set(wanted)


@given(
  st.lists(st.integers(0, 40), min_size=1, max_size=80),
  st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_equal_files_are_in_one_split_even_in_other_classes(numbers, seed):
  found = [
    ('ab'[i % 2], hashlib.sha256(bytes([n])).hexdigest())
    for i, n in enumerate(numbers)
  ]
  splits = folder_splits.assign(found, BOTH, seed)
  where = collections.defaultdict(set)
  for (_, digest), split in zip(found, splits, strict=True):
    where[digest].add(split)
  assert all(len(s) == 1 for s in where.values())


@given(st.integers(0, 60), st.integers(1, 60), st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_added_files_leave_the_others_where_they_are(before, added, seed):
  """All but the two at most that fill in where chance left a split empty."""
  old = pictures(before)
  new = pictures(added, first=before)
  first = folder_splits.assign(old, BOTH, seed)
  then = folder_splits.assign(new + old, BOTH, seed)[added:]
  by_number = [
    next(
      split
      for limit, split in ((0.2, 'test'), (0.3, 'validation'), (1, 'train'))
      if folder_splits.place(digest, seed) < limit + 1e-12
    )
    for _, digest in old
  ]
  filled_in = [i for i in range(before) if first[i] != by_number[i]]
  later = [i for i in range(before) if then[i] != by_number[i]]
  assert len(filled_in) <= 2
  assert len(later) <= 2
  if not filled_in and before >= 3:
    assert then == first


def test_order_and_names_do_not_matter():
  found = pictures(40)
  splits = folder_splits.assign(found, BOTH, 3)
  assert folder_splits.assign(found[::-1], BOTH, 3) == splits[::-1]
  renamed = [('z', digest) for _, digest in found]
  assert folder_splits.assign(renamed, BOTH, 3) == splits
