"""Search spaces: gates, choices and architectures mean the same networks."""

import itertools

import numpy as np
import pytest
import tiny
from authors import imagenet_space
from hypothesis import given
from hypothesis import strategies as st

from spnas_jax.core.errors import UserError
from spnas_jax.networks import zoo
from spnas_jax.networks.architecture import Architecture, Block
from spnas_jax.networks.space import (
  Choice,
  Gate,
  SearchSpace,
  Stage,
)


def nonempty_subset(values):
  return st.lists(
    st.sampled_from(values), min_size=1, max_size=3, unique=True
  ).map(lambda chosen: tuple(sorted(chosen)))


stages = st.builds(
  Stage,
  channels=st.sampled_from((8, 12)),  # Often equal: stages can look alike.
  layers=st.integers(1, 3),
  stride=st.sampled_from((1, 2)),
  kernels=nonempty_subset((3, 5, 7)),
  expansions=nonempty_subset((1, 2, 3, 6)),
  squeeze_ratios=st.sampled_from(((0.0,), (0.25,), (0.0, 0.25))),
  skippable=st.booleans(),
)
spaces = st.builds(
  SearchSpace,
  stages=st.lists(stages, min_size=1, max_size=3).map(tuple),
  stem_channels=st.just(8),
  first=st.sampled_from(((), (Block('ds', 3, 1, 8, 8),))),
  last=st.just(()),
  head_channels=st.just(16),
  num_classes=st.just(5),
)


def test_imagenet_space_is_the_authors():
  """Layers, gates and size of the space of the authors' code."""
  space = imagenet_space()
  assert len(space.layers) == 20
  assert len(space.gates) == 20 + 20 + 15
  assert space.num_networks == 4**5 * 5**15
  skippable = [i for i, layer in enumerate(space.layers) if layer.skippable]
  assert skippable == [i for i in range(20) if i % 4]
  # Stage 4 begins with stride 1 and is not skippable all the same.
  assert (space.layers[12].stride, space.layers[12].residual) == (1, False)
  assert space.gates[:4] == (
    Gate(0, 'kernel', 1),
    Gate(0, 'expansion', 1),
    Gate(1, 'kernel', 1),
    Gate(1, 'expansion', 1),
  )
  assert space.gates[4] == Gate(1, 'keep', 0)
  assert space.largest.to_string() == (
    'stem_k3_s2_i3_c32 ds_r1_k3_s1_c16 ir_r4_k5_s2_e6_c24 ir_r4_k5_s2_e6_c40 '
    'ir_r4_k5_s2_e6_c80 ir_r4_k5_s1_e6_c96 ir_r4_k5_s2_e6_c192 '
    'ir_r1_k3_s1_e6_c320 head_c1280 fc_c1000'
  )


@pytest.mark.parametrize('name', ['single_path_nas', 'mnasnet_b1'])
def test_zoo_networks_of_the_imagenet_space(name):
  """The paper's network and MnasNet-B1 are points of the space, exactly."""
  arch = zoo.get(name)
  space = imagenet_space()
  gates = space.encode(arch)
  assert gates.dtype == np.float32 and set(np.unique(gates)) == {0.0, 1.0}
  assert space.decode(gates) == arch


def test_paper_network_decisions():
  """Fig. 5, layer by layer; the layer it skips shows as its stage's last."""
  space = imagenet_space()
  choices = space.choices_of(space.encode(zoo.get('single_path_nas')))
  short = [c and (c.kernel, c.expansion) for c in choices]
  assert short == [
    *[(3, 3)] * 3,
    None,
    *[(5, 6), (3, 3), (3, 3), (3, 3)] * 2,
    *[(5, 6), (5, 3), (5, 3), (5, 3)],
    *[(5, 6)] * 4,
  ]


@tiny.steady
@given(spaces, st.randoms(use_true_random=False))
def test_gates_choices_and_architectures_agree(space, random):
  """decode and encode are inverse for every space, equal stages included.

  What `encode` cannot know is which layer was skipped; the architecture it
  stands for must still be the same one.
  """
  gates = np.array([random.randrange(2) for _ in space.gates], np.float32)
  choices = space.choices_of(gates)
  canonical = space.gates_of(choices)
  assert space.choices_of(canonical) == choices
  arch = space.decode(gates)
  assert arch == space.architecture_of(choices)
  assert arch == space.decode(space.encode(arch))
  assert Architecture.from_json(arch.to_json()) == arch
  # A canonical vector only closes gates that decide nothing.
  assert np.all(canonical <= gates)


@tiny.steady
@given(spaces, st.integers(0, 2**16))
def test_samples_lie_in_the_space(space, seed):
  """Whatever is drawn, the space itself accepts, between its two extremes."""
  arch = space.sample(np.random.default_rng(seed))
  space.encode(arch)
  assert len(space.smallest.blocks) <= len(arch.blocks)
  assert len(arch.blocks) <= len(space.largest.blocks)


def test_samples_are_uniform():
  """Each candidate of a layer, skip among them, is drawn equally often."""
  space = tiny.space()
  rng = np.random.default_rng(0)
  draws = [space.sample_choices(rng) for _ in range(2000)]
  for i, layer in enumerate(space.layers):
    wanted = [*layer.choices, *([None] if layer.skippable else [])]
    counts = [sum(d[i] == c for d in draws) for c in wanted]
    assert sum(counts) == 2000
    mean = 2000 / len(wanted)
    sigma = (mean * (1 - 1 / len(wanted))) ** 0.5
    # 5 sigma of a binomial; the seed is fixed.
    np.testing.assert_allclose(counts, mean, atol=5 * sigma)


def test_number_of_networks_counts_the_gate_vectors_meanings():
  """num_networks is the number of different choices over all gate vectors."""
  space = tiny.space(kernels=(3, 5, 7), expansions=(4,))
  meanings = {space.choices_of(g) for g in tiny.all_gates(space)}
  assert len(meanings) == space.num_networks == 3 * 4 * 3 * 4


def test_gate_above_a_closed_one_is_closed():
  """The 7x7 shell without the 5x5 shell is 3x3, never a hole in the middle."""
  space = tiny.space(kernels=(3, 5, 7))
  gates = np.ones(len(space.gates), np.float32)
  first, second = space.gate_index[0, 'kernel']
  gates[first] = 0
  assert space.choices_of(gates)[0].kernel == 3
  gates[[first, second]] = 1, 0
  assert space.choices_of(gates)[0].kernel == 5
  gates[second] = 1
  assert space.choices_of(gates)[0].kernel == 7


def test_gates_that_decide_nothing_do_not_exist():
  """One candidate, or a layer that may not be skipped: no gate."""
  space = tiny.space(kernels=(5,), expansions=(4,))
  assert [g.kind for g in space.gates] == ['keep', 'keep']
  kept = SearchSpace(
    stages=(Stage(8, 3, 1, (3,), (2,), skippable=False),),
    stem_channels=8,
    first=(),
    last=(),
    head_channels=0,
    num_classes=2,
  )
  assert kept.gates == () and kept.num_networks == 1
  assert kept.largest == kept.smallest


def test_encode_looks_ahead_between_equal_stages():
  """A block both stages could take goes where the network stays possible.

  Two stages of one width: the only block of the second must not be taken for a
  skippable layer of the first.
  """
  space = SearchSpace(
    stages=(Stage(8, 2, 1), Stage(8, 2, 1)),
    stem_channels=8,
    first=(),
    last=(),
    head_channels=16,
    num_classes=3,
  )
  small = Choice(3, 3, 0.0)
  arch = space.architecture_of((small, None, small, None))
  assert space.decode(space.encode(arch)) == arch


def test_encode_refuses_what_is_not_in_the_space():
  """One line that names the first block that does not fit."""
  space = imagenet_space()
  with pytest.raises(UserError, match='not in the space') as e:
    space.encode(zoo.get('mobilenet_v2'))
  assert '\n' not in str(e.value)
  largest = space.largest
  # A fifth layer in the first stage, and in the last.
  for message, twice in (('layer 4 .24->40', 4), ('no layer is left', 20)):
    blocks = (*largest.blocks[: twice + 1], *largest.blocks[twice:])
    with pytest.raises(UserError, match=message):
      space.encode(largest.replace(blocks=blocks))
  with pytest.raises(UserError, match='style differ'):
    space.encode(largest.replace(activation='relu6'))
  with pytest.raises(UserError, match='style differ'):
    space.encode(largest.replace(num_classes=10))


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('kernels', (5, 3), 'kernels'),
    ('kernels', (), 'kernels'),
    ('kernels', (2, 4), 'kernel'),
    ('expansions', (3, 3), 'expansions'),
    ('squeeze_ratios', (0.0, 0.25, 0.5), 'squeeze_ratios'),
    ('squeeze_ratios', (0.25, 0.5), 'squeeze_ratios'),
  ],
)
def test_impossible_candidates_are_refused(field, value, message):
  """Sets that the supernet cannot nest are an error, not another network."""
  with pytest.raises(UserError, match=message):
    tiny.space(**{field: value})


def test_wrong_number_of_gates_is_refused():
  """A gate vector of another space is not silently cut."""
  with pytest.raises(ValueError, match='gates have shape'):
    tiny.space().decode(np.ones(3))


def test_choices_are_all_combinations_smallest_first():
  """`choices[-1]` is what the supernet builds, so the order matters."""
  layer = tiny.space((3, 5, 7), (2, 4, 6), (0.0, 0.25)).layers[1]
  assert layer.choices == tuple(
    Choice(*c) for c in itertools.product((3, 5, 7), (2, 4, 6), (0.0, 0.25))
  )
  assert layer.num_gates == 2 + 2 + 1 + 1
