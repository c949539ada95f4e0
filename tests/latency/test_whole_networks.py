"""Tables from times of whole networks: found again where they are known."""

import numpy as np
import pytest
import tiny

from spnas_jax.config.spaces import make_space
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.latency import fitting
from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.sampling import random_networks
from spnas_jax.stages import build_table

SPACE = make_space(tiny.config())
TRUE = tiny.table(SPACE)


def sums(rng, operations, networks):
  """(counts, ms of networks, facts, ms of operations) of a made-up device."""
  macs = rng.uniform(0.1, 5, operations)
  facts = np.stack([np.ones(operations), macs], axis=1)
  ms = (0.2 + 0.3 * macs) * rng.uniform(0.7, 1.3, operations)
  counts = (rng.random((networks, operations)) < 0.4).astype(float)
  counts[:, 0] = 1
  return counts, counts @ ms, facts, ms


def test_exact_times_are_found_again():
  """More networks than operations and no noise: the entries, to the prior's
  smallest strength (1e-7 of their size)."""
  counts, measured, facts, ms = sums(np.random.default_rng(0), 30, 60)
  found = fitting.fit(counts, measured, facts)
  np.testing.assert_allclose(found.ms, ms, rtol=1e-4)
  assert found.held_out_pct < 0.1
  assert found.errors.max() < 1e-3 * ms.mean()


def test_few_networks_lean_on_the_prior():
  """30 networks for 60 operations: 60 numbers cannot be known, but what is
  common to them can. Far better than a fit without, and what it says of its
  error is near the truth (within a factor of two)."""
  counts, measured, facts, _ = sums(np.random.default_rng(1), 60, 400)
  rows, unseen = slice(0, 30), slice(30, None)
  found = fitting.fit(counts[rows], measured[rows], facts)
  off = 100 * np.abs(counts[unseen] @ found.ms / measured[unseen] - 1).mean()
  alone = np.linalg.lstsq(counts[rows], measured[rows], rcond=None)[0]
  off_alone = 100 * np.abs(counts[unseen] @ alone / measured[unseen] - 1).mean()
  assert off < 2 and off < off_alone / 2
  assert off / 2 < found.held_out_pct < 2 * off
  assert (found.ms >= 0).all()


def test_standard_errors_hold():
  """Measurements off by 2%: over operations and 20 repetitions, the error of an
  entry is about its standard error. The mean of squares is near 1; shrinking
  to a prior that is nearly right makes it smaller, never much larger."""
  ratios = []
  for seed in range(20):
    rng = np.random.default_rng(seed)
    counts, measured, facts, ms = sums(rng, 20, 120)
    noisy = measured * (1 + 0.02 * rng.standard_normal(len(measured)))
    found = fitting.fit(counts, noisy, facts)
    ratios.append(((found.ms - ms) / found.errors) ** 2)
  assert 0.5 < np.mean(ratios) < 1.6


def test_too_few_networks_are_refused():
  with pytest.raises(UserError, match='times of 19 networks, allowed: 20 or'):
    fitting.fit(np.ones((19, 2)), np.ones(19), np.ones((2, 1)))


# --- the stage ----------------------------------------------------------------


def config(path, **changes):
  c = tiny.config()
  c.dataset.image_size = TRUE.image_size
  c.device = 'files'
  c.profile.device_name = 'a farm'
  c.build_table.networks = str(path)
  c.update(changes)
  return c


def rows_of(count, seed=0):
  drawn = random_networks(SPACE, count, np.random.default_rng(seed))
  return [f'{name},{TRUE.predict(arch):.9g}' for name, arch in drawn.items()]


def write(tmp_path, lines, header='network,ms'):
  path = tmp_path / 'rows.csv'
  path.write_text('\n'.join([header, *lines]) + '\n')
  return path


def test_a_table_from_a_file(tmp_path):
  """Times that a table has made: the fitted table predicts other networks as
  that one does (noise-free; 0.5% is the prior's part in it)."""
  lines = rows_of(100)
  path = write(tmp_path, [*lines, lines[0]])
  workdir = Workdir(tmp_path / 'run')
  result = build_table.run(config(path), workdir)
  table = LatencyTable.load(workdir / 'latency_table.json')
  assert table.device == {'kind': 'files', 'name': 'a farm'}
  assert result['calibration_networks'] == 100
  # For the report's picture: each as predicted by a fit without it.
  left_out = [
    100 * abs(row['predicted_ms'] / row['measured_ms'] - 1)
    for row in result['networks']
  ]
  assert len(left_out) == 100
  assert np.mean(left_out) == pytest.approx(
    result['calibration_mean_abs_pct'], rel=1e-6
  )
  other = random_networks(SPACE, 50, np.random.default_rng(9))
  for arch in other.values():
    assert table.predict(arch) == pytest.approx(TRUE.predict(arch), rel=5e-3)


@pytest.mark.parametrize(
  ('lines', 'header', 'said'),
  [
    ([], 'model,ms', "begins with 'model,ms', must begin"),
    (['x,1'], 'network,ms', 'line 2: '),
    (['{first},fast'], 'network,ms', "line 2: ms is 'fast', allowed"),
    (['{first},0'], 'network,ms', "line 2: ms is '0'"),
    (['{first},1,2'], 'network,ms', 'line 2: 3 cells'),
    (['{first},1'], 'network,ms', 'has 1 networks, allowed: 20 or more'),
    (['{other},1'], 'network,ms', 'line 2: '),
  ],
)
def test_lines_that_cannot_be_used(lines, header, said, tmp_path):
  first = rows_of(1)[0].partition(',')[0]
  other = tiny.space(kernels=(3, 5, 7), expansions=(2, 8)).largest.to_string()
  lines = [line.format(first=first, other=other) for line in lines]
  path = write(tmp_path, lines, header)
  with pytest.raises(UserError, match=said) as refused:
    build_table.run(config(path), Workdir(tmp_path / 'run'))
  assert 'build_table.networks' in str(refused.value)


def test_who_timed_it_must_be_said(tmp_path):
  """On this machine operations are timed; a file of others' is refused."""
  path = write(tmp_path, rows_of(25))
  with pytest.raises(UserError, match="device is 'host', must be 'files'"):
    build_table.run(config(path, device='host'), Workdir(tmp_path / 'run'))
  with pytest.raises(UserError, match='does not exist'):
    build_table.run(config(tmp_path / 'no.csv'), Workdir(tmp_path / 'run'))
