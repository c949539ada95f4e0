"""What decisions of a found network were worth: differences of two networks."""

import numpy as np
import pytest
import tiny
import tiny_run

from spnas_jax.config.workdir import Workdir
from spnas_jax.networks.space import Choice
from spnas_jax.search import decisions
from spnas_jax.search.search_record import finished_search
from spnas_jax.search.subnets import Subnets
from spnas_jax.stages import search

SPACE = tiny.space(kernels=(3, 5, 7), expansions=(2, 4))
TABLE = tiny.table(SPACE)
FOUND = (Choice(5, 4, 0.0), None, Choice(7, 2, 0.0), Choice(3, 4, 0.0))


def true_worths():
  return np.random.default_rng(1).normal(0.01, 0.01, len(SPACE.gates))


def test_what_is_known_is_found_again():
  """Losses that add up, each image its own way: the mean of a gate's effect
  comes out, taken or not, and the error is that of a mean over images."""
  rng = np.random.default_rng(0)
  effects = true_worths() + rng.normal(0, 0.02, (400, len(SPACE.gates)))
  images = rng.normal(1, 0.5, 400)  # Some are harder, for every network.
  asked = []

  def score(networks):
    asked.extend(networks)
    return [images - effects @ gates for gates in networks]

  worths, errors = decisions.weigh(SPACE, score, FOUND)
  np.testing.assert_allclose(worths, effects.mean(0), atol=1e-12)
  np.testing.assert_allclose(errors, effects.std(0, ddof=1) / 20, rtol=1e-9)
  assert len({gates.tobytes() for gates in asked}) == len(asked), 'once each'
  for gates in asked:
    np.testing.assert_array_equal(
      gates, SPACE.gates_of(SPACE.choices_of(gates))
    )


def test_two_networks_differ_by_one_decision_of_the_found_one():
  """By hand: layer 0 has 5x5 and expansion 4, layer 1 is skipped."""
  names = [(gate.layer, gate.kind, gate.rank) for gate in SPACE.gates]
  compared = {}

  def score(networks):
    for gates in networks:
      compared[gates.tobytes()] = SPACE.choices_of(gates)
    return [np.arange(3.0) for _ in networks]

  decisions.weigh(SPACE, score, FOUND)
  pairs = [
    decisions._pair(SPACE, SPACE.gates_of(FOUND), i) for i in range(len(names))
  ]
  of = {
    name: tuple(compared[gates.tobytes()] for gates in pair)
    for name, pair in zip(names, pairs, strict=True)
  }
  rest = FOUND[1:]
  five, three = Choice(5, 4, 0.0), Choice(3, 4, 0.0)
  assert of[0, 'kernel', 1] == (FOUND, (three, *rest))
  assert of[0, 'kernel', 2] == ((Choice(7, 4, 0.0), *rest), FOUND)
  assert of[0, 'expansion', 1] == (FOUND, (Choice(5, 2, 0.0), *rest))
  least = Choice(3, 2, 0.0)
  assert of[1, 'keep', 0] == ((five, least, *FOUND[2:]), FOUND)
  wider = Choice(3, 4, 0.0)
  assert of[1, 'expansion', 1] == (
    (five, wider, *FOUND[2:]),
    (five, least, *FOUND[2:]),
  )


def test_an_explanation_adds_up():
  """Costs of the gates that were taken make the network's latency: nothing is
  counted twice.

  Costs are each against the rest of the found network, and the table's
  candidates are not sums: a tenth of the latency is allowed.
  """
  true = true_worths()
  errors = np.full_like(true, 0.002)
  rows = decisions.explain(SPACE, TABLE, FOUND, true, errors)
  assert len(rows) == len(SPACE.gates)
  taken = [row for row in rows if row['taken']]
  assert [(row['layer'], row['decision']) for row in taken] == [
    (0, '5x5 kernel'),
    (0, 'expansion 4'),
    (2, '5x5 kernel'),
    (2, '7x7 kernel'),
    (3, 'expansion 4'),
    (3, 'kept'),
  ]
  smallest = TABLE.predict(SPACE.smallest)
  ms = TABLE.predict(SPACE.architecture_of(FOUND))
  assert smallest + sum(r['ms'] for r in taken) == pytest.approx(ms, rel=0.1)
  # Of a layer that is skipped: what its smallest candidate would add.
  layer = next(r for r in rows if (r['layer'], r['decision']) == (1, 'kept'))
  kept = (FOUND[0], Choice(3, 2, 0.0), *FOUND[2:])
  more = TABLE.predict(SPACE.architecture_of(kept)) - ms
  assert layer['ms'] == pytest.approx(more) and not layer['taken']


def test_every_decision_of_a_search_is_weighed():
  """As the search reports it, and again from its weights: not the test images,
  and by the scores that choosers see."""
  workdir = Workdir(tiny_run.finished())
  config = tiny_run.config()
  result = search.run(config, workdir)
  rows = result['decisions']
  assert len(rows) == result['num_gates']
  assert all(0 < row['error'] < 1 for row in rows)
  searched, state = finished_search(config, workdir)
  subnets = Subnets(config, searched.supernet, state.params, 1000)
  assert subnets.split == 'train'
  space = searched.supernet.space
  found = space.gates_of(
    space.choices_of(np.array([row['taken'] for row in rows], np.float32))
  )
  per_image = subnets.per_image(found)
  assert len(per_image['top1']) == subnets.num_images
  assert set(np.unique(per_image['top1'])) <= {0.0, 1.0}
  assert subnets.score(found) == pytest.approx(
    {key: values.mean() for key, values in per_image.items()}
  )
  for position, row in enumerate(rows):
    losses = [
      subnets.score(gates)['cross_entropy']
      for gates in decisions._pair(space, found, position)
    ]
    # Sums of the same float32 numbers in another order.
    assert row['worth'] == pytest.approx(losses[1] - losses[0], abs=1e-9)
