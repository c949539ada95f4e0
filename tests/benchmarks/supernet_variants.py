"""Other ways to train a supernet, at the same number of passes a step.

None of these is in the library: `judge` ranks networks inside each of them, and
what does not pay stays here. A step of `search.method='worth'` sends its batch
through one random network. These send four quarters of it through four:

* `groups`: random networks.
* `sandwich`: the largest, the smallest and two random ones (Yu et al. 2020).
* `distilled`: the same, all four with the same quarter of the batch; all but
  the largest learn its probabilities instead of the labels.

* `sizes`: one network, but the probability that a gate is open is itself drawn
  for each step, from 0.2 to 0.8: networks of all sizes, not middling ones only.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from spnas_jax.search import search_setup
from spnas_jax.search.search_step import Search
from spnas_jax.training.objective import cross_entropy, objective
from spnas_jax.training.optimizer import decayed
from spnas_jax.training.steps import accuracy

QUARTERS = 4


@dataclasses.dataclass(frozen=True)
class Variant(Search):
  """A search whose warm-up draws its networks in another way.

  Attributes:
    name: which, see above.
  """

  name: str = ''

  def loss(self, params, batch_stats, batch, step, controller_state):
    """As `Search.loss`; all steps are warm-up and there is no dropout."""
    key, _ = self.keys(step)
    decision = self.decide(params, step, key)
    gates = self._draw(key)
    images, labels = batch['image'], batch['label']
    teacher = jnp.zeros(())
    if self.name == 'distilled':
      first = len(images) // QUARTERS
      images = jnp.broadcast_to(
        images[:first], (QUARTERS, first, *images.shape[1:])
      )
      labels = jnp.broadcast_to(labels[:first], (QUARTERS, first))
    else:
      images = images.reshape(len(gates), -1, *images.shape[1:])
      labels = labels.reshape(len(gates), -1)

    def one(carry, part):
      stats, teacher = carry
      own, image, label, index = part
      logits, updated = self.supernet.apply(
        {'params': params, 'batch_stats': stats},
        image,
        own,
        train=True,
        mutable=['batch_stats'],
      )
      ce = cross_entropy(logits, label, self.recipe.label_smoothing, None)
      if self.name == 'distilled':
        soft = -(teacher * jax.nn.log_softmax(logits)).sum(-1).mean()
        ce = jnp.where(index == 0, ce, soft)
        learned = lax.stop_gradient(jax.nn.softmax(logits))
        teacher = jnp.where(index == 0, learned, teacher)
      carry = updated['batch_stats'], teacher
      return carry, (ce, accuracy(logits, label))

    if self.name == 'distilled':
      classes = self.supernet.space.num_classes
      teacher = jnp.zeros((images.shape[1], classes))
    (stats, _), (ces, correct) = lax.scan(
      one,
      (batch_stats, teacher),
      (gates, images, labels, jnp.arange(len(gates))),
    )
    runtime_ms = self.runtime_ms(decision.runtime_gates)
    lambda_, controller_state = self._lambda(runtime_ms, step, controller_state)
    terms = objective(
      ces.mean(),
      runtime_ms,
      lambda_,
      decayed(params, False),
      self.recipe.weight_decay,
    )
    aux = terms, decision, lambda_, controller_state, correct.mean(), stats
    return terms.total, aux

  def _draw(self, key):
    """Gates of the step's networks, [networks, num_gates]."""
    count, keep = len(self.supernet.space.gates), self.recipe.keep_probability
    sizes, draws = jax.random.split(jax.random.fold_in(key, 1))
    if self.name == 'sizes':
      keep = jax.random.uniform(sizes, (), minval=0.2, maxval=0.8)
      return (jax.random.uniform(draws, (1, count)) < keep).astype(jnp.float32)
    uniform = jax.random.uniform(draws, (QUARTERS, count))
    gates = (uniform < keep).astype(jnp.float32)
    if self.name != 'groups':
      gates = gates.at[0].set(1.0).at[1].set(0.0)
    return gates


def install(name: str) -> None:
  """Makes this process's searches train their supernets in this way."""
  from spnas_jax.search import search_record
  from spnas_jax.stages import search

  make = search_setup.make_search

  def made(config, problem):
    own = make(config, problem)
    fields = {f.name: getattr(own, f.name) for f in dataclasses.fields(own)}
    return Variant(**fields, name=name)

  for module in (search, search_record):
    module.make_search = made
