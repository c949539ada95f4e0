"""Differentiable runtime model over gates (paper Eqs 10-12).

The milliseconds come from a `LatencyTable`; this module only does the algebra.
Two forms:

* `exact`: multilinear in the gates. At every corner of the decisions it is the
  sum of the table's entries, and for independent Bernoulli gates it maps
  probabilities to the exact expected runtime. The default.
* `factorised`: the paper's Eqs 11-12. The kernel-size ratio is taken at the
  largest expansion and applied at all of them, so the (3x3, e=3) entry is never
  read: 3x3-3 is off by -4.0 to +4.8 % a layer on the Pixel 1 table.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array

from spnas_jax.config.rules import RUNTIME_FORMS
from spnas_jax.latency.table import LatencyTable
from spnas_jax.networks.space import SearchSpace


@dataclasses.dataclass(frozen=True, eq=False)
class RuntimeModel:
  """Static arrays of one (table, space) pair.

  Attributes:
    constant: ms of everything that is not searched.
    table: [layers, kernels, expansions, squeeze ratios] ms, zero-padded.
    positions: kind -> int [layers, gates of that kind], positions in the gate
      vector extended by a 0 and a 1; a gate that does not exist points to the
      0, the keep gate of a layer that may not be skipped to the 1.
    top: [layers, 3], index of each layer's largest candidates.
  """

  constant: float
  table: np.ndarray
  positions: dict[str, np.ndarray]
  top: np.ndarray

  @classmethod
  def of(cls, table: LatencyTable, space: SearchSpace) -> RuntimeModel:
    """Raises UserError where a candidate is not in the table."""
    constant, costs = table.costs(space)
    closed, always = len(space.gates), len(space.gates) + 1
    positions = {}
    for axis, kind in enumerate(('kernel', 'expansion', 'squeeze', 'keep')):
      width = 1 if kind == 'keep' else costs.shape[1 + axis] - 1
      filler = always if kind == 'keep' else closed
      index = np.full((len(space.layers), width), filler)
      for i in range(len(space.layers)):
        own = space.gate_index[i, kind]
        index[i, : len(own)] = own
      positions[kind] = index
    top = np.array(
      [
        (len(x.kernels) - 1, len(x.expansions) - 1, len(x.squeeze_ratios) - 1)
        for x in space.layers
      ]
    )
    return cls(constant, costs, positions, top)

  def __call__(self, gates: Array, form: str = 'exact') -> Array:
    """Runtime in ms.

    Args:
      gates: [num_gates], hard decisions or probabilities.
      form: 'exact' or 'factorised'.

    Returns:
      float32 [].
    """
    return self.constant + jnp.sum(self.layers(gates, form))

  def layers(self, gates: Array, form: str = 'exact') -> Array:
    """Runtime of every searchable layer, float32 [layers] ms."""
    if form not in RUNTIME_FORMS:
      raise ValueError(f'form is {form!r}, allowed: {", ".join(RUNTIME_FORMS)}')
    gates = gates.astype(jnp.float32)
    extended = jnp.concatenate([gates, jnp.array([0.0, 1.0], jnp.float32)])
    used = {k: extended[index] for k, index in self.positions.items()}
    keep = used['keep'][:, 0]
    steps = [
      jnp.concatenate([jnp.ones_like(keep[:, None]), jnp.cumprod(g, 1)], 1)
      for g in (used['kernel'], used['expansion'], used['squeeze'])
    ]
    if form == 'exact':
      # P(candidate j) = product of its gates, minus what goes further up.
      kernel, expansion, squeeze = (
        s - jnp.concatenate([s[:, 1:], jnp.zeros_like(s[:, :1])], 1)
        for s in steps
      )
      cost = jnp.asarray(self.table, jnp.float32)
      # In float32 on TPUs as well: the default there rounds to bfloat16.
      return keep * jnp.einsum(
        'lk,le,ls,lkes->l',
        kernel,
        expansion,
        squeeze,
        cost,
        precision='highest',
      )
    rows = np.arange(len(self.top))
    k, e, s = self.top.T
    largest = self.table[rows, k, e, s][:, None]
    ratio_kernel = self.table[rows, :, e, s] / largest
    ratio_squeeze = self.table[rows, k, e, :] / largest
    by_expansion = self.table[rows, k, :, s]

    def climb(step, values):
      """values[0] + sum of step_j (values[j] - values[j-1]) (Eq. 11)."""
      rise = np.diff(values, axis=1, prepend=0.0).astype(np.float32)
      return jnp.sum(step * rise, 1)

    runtime_e = keep * climb(steps[1], by_expansion)
    return (
      runtime_e * climb(steps[0], ratio_kernel) * climb(steps[2], ratio_squeeze)
    )
