"""The differentiable runtime (Eqs 10-12): tables, algebra, enumeration."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from authors import imagenet_space

from spnas_jax.latency.table import LatencyTable
from spnas_jax.models.superkernel import channel_scale, superkernel
from spnas_jax.networks import zoo
from spnas_jax.networks.space import Choice, SearchSpace, Stage
from spnas_jax.search.runtime import RuntimeModel

ROOT = pathlib.Path(__file__).resolve().parents[2]
PIXEL1 = LatencyTable.load(ROOT / 'latency' / 'pixel1.json')
IMAGENET = imagenet_space()
PIXEL1_MODEL = RuntimeModel.of(PIXEL1, IMAGENET)
SPACE = tiny.space()


def shuffled(table, seed=0):
  """The same keys with times in no order: nothing may rely on one."""
  rng = np.random.default_rng(seed)
  entries = {
    key: {'ms': float(rng.uniform(0.1, 3))} for key in sorted(table.entries)
  }
  return dataclasses.replace(table, entries=entries)


TABLE = shuffled(tiny.table(SPACE, factor=1.07))


def evaluate(model, gates, form='exact'):
  """Runtime of many gate vectors [n, gates] at once, float64."""
  run = jax.jit(jax.vmap(lambda g: model(g, form)))
  return np.asarray(run(jnp.asarray(gates, jnp.float32)), np.float64)


def mixed_space():
  """Stages with different candidates, a squeeze in one, no skip in another."""
  return SearchSpace(
    stages=(
      Stage(8, 2, 2, (3, 5, 7), (2,)),
      Stage(12, 1, 1, (3,), (2, 4, 6), (0.0, 0.25)),
      Stage(8, 2, 1, (5,), (2, 4), (0.25,), skippable=False),
    ),
    stem_channels=8,
    first=(),
    last=(),
    head_channels=16,
    num_classes=tiny.NUM_CLASSES,
    input_channels=1,
  )


def table_of(space):
  """Random times for every key that any network of a (small) space needs."""
  probe = tiny.table(tiny.space())
  keys = {
    key for g in tiny.all_gates(space) for key in probe.keys_of(space.decode(g))
  }
  entries = {key: {'ms': 1.0} for key in keys}
  return shuffled(dataclasses.replace(probe, entries=entries))


# --- exact --------------------------------------------------------------------


@pytest.mark.parametrize('space', [SPACE, mixed_space()], ids=['tiny', 'mixed'])
def test_exact_at_every_corner(space):
  """At each of the 2^gates decisions: the table's sum for the decoded network.

  Non-canonical corners (a gate above a closed one, gates of a skipped layer)
  included. float32 sums of about ten times: 1e-6 relative.
  """
  table = TABLE if space is SPACE else table_of(space)
  gates = tiny.all_gates(space)
  assert len(gates) == 2 ** len(space.gates) >= 1000
  got = evaluate(RuntimeModel.of(table, space), gates)
  wanted = [table.predict(space.decode(g)) for g in gates]
  np.testing.assert_allclose(got, wanted, rtol=2e-6)


def test_exact_is_the_expected_runtime():
  """Of probabilities: the mean over all outcomes of independent gates.

  Enumerated in float64, with each network's table sum; 2e-6 for float32.
  """
  gates = tiny.all_gates(SPACE).astype(np.float64)
  ms = np.array([TABLE.predict(SPACE.decode(g)) for g in gates])
  rng = np.random.default_rng(1)
  probabilities = rng.uniform(size=(20, len(SPACE.gates)))
  wanted = [
    np.prod(np.where(gates == 1, p, 1 - p), axis=1) @ ms for p in probabilities
  ]
  got = evaluate(RuntimeModel.of(TABLE, SPACE), probabilities)
  np.testing.assert_allclose(got, wanted, rtol=2e-6)


def test_exact_gradient_is_the_difference_of_two_means():
  """d E[R] / d p_i = E[R | gate i open] - E[R | gate i closed], any sign.

  Differences of float32 values near 20 ms: 1e-5 ms.
  """
  model = RuntimeModel.of(TABLE, SPACE)
  rng = np.random.default_rng(2)
  p = rng.uniform(size=len(SPACE.gates))
  got = jax.jit(jax.grad(model))(jnp.asarray(p, jnp.float32))
  variants = np.tile(p, (2 * len(p), 1))
  for i in range(len(p)):
    variants[2 * i, i], variants[2 * i + 1, i] = 1.0, 0.0
  values = evaluate(model, variants)
  np.testing.assert_allclose(got, values[::2] - values[1::2], atol=2e-5)
  assert np.all(np.asarray(got) != 0)


def test_layers_and_constant_sum_to_the_total():
  """Eq. 10; a skipped layer costs exactly 0."""
  model = RuntimeModel.of(TABLE, SPACE)
  gates = np.ones(len(SPACE.gates), np.float32)
  gates[SPACE.gate_index[1, 'keep'][0]] = 0
  for form in ('exact', 'factorised'):
    layers = model.layers(jnp.asarray(gates), form)
    assert layers.shape == (4,) and layers[1] == 0.0
    np.testing.assert_allclose(
      model(jnp.asarray(gates), form), model.constant + layers.sum(), rtol=1e-6
    )
  constant, _ = TABLE.costs(SPACE)
  assert model.constant == constant


# --- factorised ---------------------------------------------------------------


@pytest.mark.parametrize(
  ('kernel', 'expansion', 'factorised', 'exact'),
  [
    (5, 6, 131.4578, 131.4578),
    (3, 6, 110.6524, 110.6524),
    (5, 3, 76.3622, 76.3622),
    (3, 3, 65.6356, 65.6914),
  ],
)
def test_pixel1_uniform_networks(kernel, expansion, factorised, exact):
  """The four networks the authors profiled, in both forms, to 0.1 us."""
  choice = Choice(kernel, expansion, 0.0)
  gates = jnp.asarray(IMAGENET.gates_of((choice,) * 20))
  assert float(PIXEL1_MODEL(gates, 'factorised')) == pytest.approx(
    factorised, abs=6e-5
  )
  assert float(PIXEL1_MODEL(gates, 'exact')) == pytest.approx(exact, abs=6e-5)


def test_pixel1_paper_network():
  """Fig. 5: 80.5926 ms factorised, 80.4411 ms by table sum."""
  gates = jnp.asarray(IMAGENET.encode(zoo.get('single_path_nas')))
  assert float(PIXEL1_MODEL(gates, 'factorised')) == pytest.approx(
    80.5926, abs=6e-5
  )
  assert float(PIXEL1_MODEL(gates)) == pytest.approx(80.4411, abs=6e-5)
  smallest = jnp.zeros(len(IMAGENET.gates))
  assert float(PIXEL1_MODEL(smallest, 'factorised')) == pytest.approx(
    30.79, abs=6e-5
  )


def test_factorised_is_eqs_11_and_12():
  """By hand, layer by layer, for any values of the decisions.

  Values above 1 are what subset dropout makes of them (1 / 0.6).
  """
  rng = np.random.default_rng(3)
  gates = rng.uniform(0, 1 / 0.6, (10, len(IMAGENET.gates)))
  got = evaluate(PIXEL1_MODEL, gates, 'factorised')
  for vector, total in zip(gates, got, strict=True):
    wanted = 19.5999
    for i, layer in enumerate(IMAGENET.layers):
      r36, r53, r56 = (
        PIXEL1.entry_ms(f'layer{i + 1:02d}_k{k}_e{e}')
        for k, e in ((3, 6), (5, 3), (5, 6))
      )
      use_5x5 = vector[IMAGENET.gate_index[i, 'kernel'][0]]
      use_e6 = vector[IMAGENET.gate_index[i, 'expansion'][0]]
      keep = 1.0
      if layer.skippable:
        keep = vector[IMAGENET.gate_index[i, 'keep'][0]]
      runtime_e = keep * (r53 + use_e6 * (r56 - r53))  # Eq. 11
      ratio = r36 / r56
      wanted += ratio * runtime_e + runtime_e * (1 - ratio) * use_5x5  # Eq. 12
    # float32 sums of 20 layers.
    assert total == pytest.approx(wanted, rel=2e-6)


def test_factorised_error_on_pixel1():
  """Only 3x3-3 is approximate: -4.0% to +4.8% a layer."""
  table = PIXEL1_MODEL.table[..., 0]
  for k, e in np.ndindex(2, 2):
    choice = Choice((3, 5)[k], (3, 6)[e], 0.0)
    gates = jnp.asarray(IMAGENET.gates_of((choice,) * 20))
    layers = np.asarray(PIXEL1_MODEL.layers(gates, 'factorised'))
    error = 100 * (layers / table[:, k, e] - 1)
    if (k, e) == (0, 0):
      assert round(float(error.min()), 1) == -4.0
      assert round(float(error.max()), 1) == 4.8
      assert int(error.argmin()) == 14 and int(error.argmax()) == 0
    else:
      np.testing.assert_allclose(error, 0.0, atol=1e-4)


def test_factorised_is_exact_along_each_axis():
  """With larger candidate sets too: exact where all but one are the largest.

  The ratios are taken there, so that is what the form promises.
  """
  space = tiny.space((3, 5, 7), (2, 4, 6), (0.0, 0.25))
  table = shuffled(tiny.table(space))
  model = RuntimeModel.of(table, space)
  top = space.layers[0].choices[-1]
  choices = [
    c
    for c in space.layers[0].choices
    if sum(a != b for a, b in zip(c, top, strict=True)) <= 1
  ]
  assert len(choices) == 1 + 2 + 2 + 1
  gates = [space.gates_of((c,) * 4) for c in choices]
  wanted = [table.predict(space.architecture_of((c,) * 4)) for c in choices]
  got = evaluate(model, gates, 'factorised')
  np.testing.assert_allclose(got, wanted, rtol=2e-6)


def test_factorised_pads_mixed_candidate_sets():
  """Layers with fewer candidates than others do not read the padding."""
  space = mixed_space()
  table = table_of(space)
  model = RuntimeModel.of(table, space)
  gates = np.ones((1, len(space.gates)))
  got = evaluate(model, gates, 'factorised')
  np.testing.assert_allclose(got, table.predict(space.largest), rtol=2e-6)


def test_unknown_form_is_refused():
  """A misspelt form must not silently be the other one."""
  with pytest.raises(ValueError, match='exact, factorised'):
    PIXEL1_MODEL(jnp.ones(len(IMAGENET.gates)), 'exakt')


def test_the_runtime_is_float32_on_a_tpu_too():
  """A TPU rounds products to bfloat16 unless a precision is asked for."""
  space = tiny.space((3, 5, 7), (2, 4), (0.0, 0.25))
  model = RuntimeModel.of(tiny.table(space), space)

  def products(f, *args):
    """Precision of every product, inner functions included."""
    stack, found = [jax.make_jaxpr(f)(*args).jaxpr], []
    while stack:
      for equation in stack.pop().eqns:
        if equation.primitive.name == 'dot_general':
          found.append(equation.params['precision'])
        stack += [
          getattr(v, 'jaxpr', v)
          for v in equation.params.values()
          if hasattr(getattr(v, 'jaxpr', v), 'eqns')
        ]
    return found

  highest = (jax.lax.Precision.HIGHEST,) * 2
  gates = jnp.ones(len(space.gates))
  weights = jnp.ones((7, 7, 1, 32))
  for found in (
    products(model, gates),
    products(lambda g: superkernel(weights, g, (3, 5, 7)), jnp.ones(2)),
    products(lambda g: channel_scale(g, (2, 4), 8), jnp.ones(1)),
  ):
    assert found and set(found) == {highest}
