"""Multi-path supernets: one path per candidate (paper §3.3, Eqs 5 and 7).

What Single-Path NAS is compared with, over the same `SearchSpace`, data,
latency table and recipe. All three methods weigh the same parallel paths; they
differ in where the path weights come from:

* darts: the softmax of the path logits; all paths run.
* fbnet: the softmax of (path logits + Gumbel noise) / tau, where tau falls; all
  paths run.
* proxyless: 0 or 1, sampled from the softmax. One path runs in a step of the
  weights, two in a step of the path logits, one of which is open.

ProxylessNAS also rescales a pair's logits, which keeps the probabilities
of the other paths as they were. It is left out: Adam moves those anyway.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from spnas_jax.config.rules import MULTI_PATH
from spnas_jax.latency.table import LatencyTable
from spnas_jax.models.layers import Frame, MBConv, Style
from spnas_jax.models.supernet import layer_name
from spnas_jax.networks.space import Choice, Choices, Layer, SearchSpace
from spnas_jax.search.projection import choice_costs


def layer_paths(space: SearchSpace) -> list[Choices]:
  """Candidates of every layer in the order of its paths; None = skip, last."""
  return [layer.candidates for layer in space.layers]


def num_paths(space: SearchSpace) -> np.ndarray:
  """How many paths every layer has, int [layers]."""
  return np.array([len(paths) for paths in layer_paths(space)])


def padded(space: SearchSpace, values: Array, filler: float) -> Array:
  """[paths], all layers' in a row -> [layers, most paths of a layer]."""
  counts = num_paths(space)
  column = np.arange(counts.max())
  start = np.cumsum(counts) - counts
  index = np.where(
    column < counts[:, None], start[:, None] + column, counts.sum()
  )
  extended = jnp.concatenate([values, jnp.array([filler], values.dtype)])
  return extended[index]


class Paths(flax.struct.PyTreeNode):
  """What a pass runs.

  weights: alpha of Eq. 5, float32 [layers, most paths].
  chosen: which paths run, int32 [layers, count]; None = all.
  """

  weights: Array
  chosen: Array | None = None

  def layer(self, i: int) -> tuple[Array, Array | None]:
    """(weights [most paths], chosen [count]) of one layer."""
    return self.weights[i], None if self.chosen is None else self.chosen[i]


class MultiPathLayer(nn.Module):
  """A weighted sum of all candidates of a layer (Eq. 5); the skip is x."""

  layer: Layer
  style: Style

  def setup(self):
    self.candidates = [
      MBConv(self.layer.block(choice), self.style)
      for choice in self.layer.choices
    ]

  def __call__(
    self, x: Array, train: bool, weights: Array, chosen: Array | None
  ) -> Array:
    def path(j):
      if j == len(self.layer.choices):
        return lambda module, y: y
      return lambda module, y: module.candidates[j](y, train)

    count = len(self.layer.choices) + self.layer.skippable
    paths = [path(j) for j in range(count)]
    if chosen is None or self.is_initializing():
      outputs = [run(self, x) for run in paths]
      alphas = list(weights[:count])
    else:
      # Recomputed going backward, so that a path which did not run leaves
      # nothing behind: memory is that of the paths that ran.
      switch = nn.remat(lambda module, j, y: nn.switch(j, paths, module, y))
      outputs = [switch(self, j, x) for j in chosen]
      alphas = [weights[j] for j in chosen]
    return sum(
      alpha.astype(x.dtype) * output
      for alpha, output in zip(alphas, outputs, strict=True)
    )


class MultiPathNet(nn.Module):
  """The over-parameterised network, one `MultiPathLayer` a searchable layer.

  Attributes:
    space: the search space.
    dtype, axis_name: see `layers.Style`.
  """

  space: SearchSpace
  dtype: str = 'float32'
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self,
    x: Array,
    paths: Paths,
    *,
    train: bool = False,
    dropout_mask: Array | None = None,
  ) -> Array:
    """Normalised images [B, H, W, C] -> logits float32 [B, num_classes]."""
    largest = self.space.largest
    style = Style.of(largest, dtype=self.dtype, axis_name=self.axis_name)
    frame = Frame(largest, style, name='frame')
    x = frame.stem(x, train)
    for i, block in enumerate(self.space.first):
      x = MBConv(block, style, name=f'first{i}')(x, train)
    for i, layer in enumerate(self.space.layers):
      x = MultiPathLayer(layer, style, name=layer_name(i))(
        x, train, *paths.layer(i)
      )
    for i, block in enumerate(self.space.last):
      x = MBConv(block, style, name=f'last{i}')(x, train)
    return frame.head(x, train, dropout_mask)


# --- where the path weights come from -----------------------------------------


def decide_paths(
  method: str,
  space: SearchSpace,
  path_logits: Array,
  key: Array,
  *,
  temperature: Array | float = 1.0,
  two_paths: bool = False,
) -> Paths:
  """The paths of one step.

  Args:
    method: one of `rules.MULTI_PATH`.
    space: the search space.
    path_logits: float32 [paths], see `layer_paths`.
    key: random key; the same on all devices.
    temperature: tau of 'fbnet'.
    two_paths: 'proxyless': sample the two paths that a step of the path logits
      compares; one of them is open.
  """
  logits = padded(space, path_logits, -jnp.inf)
  if method == 'darts':
    return Paths(jax.nn.softmax(logits))
  if method == 'fbnet':
    noise = jax.random.gumbel(key, logits.shape)
    return Paths(jax.nn.softmax((logits + noise) / temperature))
  if method != 'proxyless':
    raise ValueError(f'method is {method!r}, allowed: {", ".join(MULTI_PATH)}')
  draw, open_ = jax.random.split(key)
  # The largest of logits + Gumbel noise are draws without replacement.
  noisy = lax.stop_gradient(logits) + jax.random.gumbel(draw, logits.shape)
  _, chosen = lax.top_k(noisy, 2 if two_paths else 1)
  if not two_paths:
    return Paths(jax.nn.one_hot(chosen[:, 0], logits.shape[1]), chosen)
  # Binary gates over the pair: their values are 0 and 1, their gradients go to
  # the pair's renormalised probabilities, so that
  # dL/dlogit_i = sum_j dL/dgate_j p_j (delta_ij - p_i).
  pair = jax.nn.softmax(jnp.take_along_axis(logits, chosen, 1))
  first = jax.random.uniform(open_, pair.shape[:1]) < pair[:, 0]
  binary = jnp.stack([first, ~first], 1).astype(jnp.float32)
  gates = pair + lax.stop_gradient(binary - pair)
  rows = jnp.arange(len(logits))[:, None]
  return Paths(jnp.zeros_like(logits).at[rows, chosen].set(gates), chosen)


@dataclasses.dataclass(frozen=True, eq=False)
class PathCosts:
  """Milliseconds of every path.

  Attributes:
    constant: ms of what is not searched.
    costs: float32 [paths] ms, 0 for a skip.
  """

  constant: float
  costs: np.ndarray

  @classmethod
  def of(cls, table: LatencyTable, space: SearchSpace) -> PathCosts:
    """Raises UserError where a candidate is not in the table."""
    constant, own = choice_costs(table, space)
    costs = [
      own[i][choice]
      for i, choices in enumerate(layer_paths(space))
      for choice in choices
    ]
    return cls(constant, np.array(costs, np.float32))

  def expected_ms(self, space: SearchSpace, path_logits: Array) -> Array:
    """Expected runtime under the softmax of the logits, [] ms."""
    probabilities = jax.nn.softmax(padded(space, path_logits, -jnp.inf))
    costs = padded(space, jnp.asarray(self.costs), 0.0)
    return self.constant + jnp.sum(probabilities * costs)


def path_log_likelihoods(
  space: SearchSpace, path_logits: np.ndarray
) -> list[dict[Choice | None, float]]:
  """Log-probability of each candidate, for `project_likelihoods`."""
  logits = padded(space, jnp.asarray(path_logits), -jnp.inf)
  values = np.asarray(jax.nn.log_softmax(logits), np.float64)
  return [
    dict(zip(choices, row[: len(choices)].tolist(), strict=True))
    for choices, row in zip(layer_paths(space), values, strict=True)
  ]
