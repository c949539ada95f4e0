"""Every way to a network, under the same configuration keys.

A network comes from the workdir's search, from a JSON file, from the zoo (with
TensorFlow's conventions, or with ':torch' PyTorch's) or from a block string. In
all of these cases

* batch-norm momentum is `space.batch_norm_momentum`;
* batch-norm epsilon is `space.batch_norm_epsilon`; only PyTorch's conventions
  keep the network's own, with which its weights were trained;
* activation is the network's own, and `space.activation` where it names none
  (search, block string);
* dropout is `train.dropout`;
* classes and image channels are those of the data set;
* image size is `dataset.image_size`. The zoo's strides, made for 224 px, are
  reduced for small images (`zoo.adapt`); all others stay as they are.
"""

from __future__ import annotations

from etils import epath
from ml_collections import ConfigDict

from spnas_jax.config.spaces import dataset_facts
from spnas_jax.config.workdir import Workdir, curve_file
from spnas_jax.core import foreign
from spnas_jax.core.errors import UserError
from spnas_jax.core.remote import as_path, reaching
from spnas_jax.networks import zoo
from spnas_jax.networks.architecture import Architecture


def space_network(config: ConfigDict, text: str) -> Architecture:
  """The network of a block string, in the style of the configured space: its
  activation and its batch norm, which block strings do not tell."""
  c = config.space
  return Architecture.from_string(
    text,
    activation=c.activation,
    batch_norm_momentum=c.batch_norm_momentum,
    batch_norm_epsilon=c.batch_norm_epsilon,
  )


def resolve_architecture(config: ConfigDict, workdir: Workdir) -> Architecture:
  """`config.architecture`: zoo name, path, block string, 'curve:NAME' for a
  point of the workdir's curve, or '' = the network that its search found.

  Raises:
    UserError: it is none of these, or the file cannot be used.
  """
  value = config.architecture
  name, _, zoo_style = value.partition(':')
  if name in zoo.names():
    return zoo_network(config, zoo.get(name, zoo_style or 'tf'))
  if value.startswith('stem_'):
    return under_config(config, space_network(config, value))
  path = workdir / 'architecture.json'
  if name == 'curve':
    path = workdir / curve_file(zoo_style)
    if not path.exists():
      raise UserError(
        f'architecture is {value!r}, allowed: curve: and the name of a point '
        f"of this workdir's curve ({_points(workdir)})"
      )
  elif value:
    path = as_path('architecture', value)
  with reaching('architecture', path):
    there = path.exists()
  if not there:
    raise UserError(
      f'architecture is {value!r}, allowed: a zoo name '
      f'({", ".join(zoo.names())}), one followed by :torch, the path of an '
      'architecture.json, a block string, curve:NAME for a point of a '
      "curve, or '' after --stage=search "
      f'({path} does not exist)'
    )
  return under_config(config, read_architecture(path))


def _points(workdir: Workdir) -> str:
  """Names of the curve's points, or that there are none."""
  curve = workdir.results().get('search', {}).get('curve', ())
  return ', '.join(p['name'] for p in curve) or 'it has none'


def read_architecture(path: epath.Path) -> Architecture:
  """The network of a JSON file, as it was written.

  Raises:
    UserError: the file cannot be read or holds no network.
  """
  try:
    with reaching('architecture', path):
      text = foreign.read_text(path, 'the file')
    return Architecture.from_json(text)
  except (OSError, ValueError, UserError) as e:
    raise UserError(f'architecture {str(path)!r} cannot be used: {e}') from e


def found_network(config: ConfigDict, workdir: Workdir) -> Architecture | None:
  """What the workdir's search found; None if there was none."""
  path = workdir / 'architecture.json'
  if not path.exists():
    return None
  return under_config(config, read_architecture(path))


def zoo_network(
  config: ConfigDict, arch: Architecture, width: float = 1.0
) -> Architecture:
  """A network of the zoo for the data set, `width` times as wide."""
  facts = dataset_facts(config)
  return under_config(
    config,
    zoo.adapt(
      zoo.scale_width(arch, width),
      num_classes=facts.num_classes,
      input_channels=facts.channels,
      image_size=config.dataset.image_size,
    ),
  )


def under_config(config: ConfigDict, arch: Architecture) -> Architecture:
  """The network under the keys above, wherever it comes from.

  What had to change is noted in its provenance as 'adapted': {field: [before,
  now]}, except the momentum, which changes no result.
  """
  facts = dataset_facts(config)
  wanted = {
    'num_classes': facts.num_classes,
    'input_channels': facts.channels,
  }
  if arch.padding == 'same':  # Not PyTorch's conventions.
    wanted['batch_norm_epsilon'] = config.space.batch_norm_epsilon
  changed = {
    field: [getattr(arch, field), value]
    for field, value in wanted.items()
    if getattr(arch, field) != value
  }
  provenance = {**arch.provenance}
  provenance.pop('adapted', None)
  if changed:
    provenance['adapted'] = changed
  momentum = config.space.batch_norm_momentum
  return arch.replace(
    **wanted, batch_norm_momentum=momentum, provenance=provenance
  )


def adaptation(arch: Architecture) -> str:
  """What `under_config` changed, in words; empty if nothing."""
  return ', '.join(
    f'{field} {before:g} -> {now:g}'
    for field, (before, now) in arch.provenance.get('adapted', {}).items()
  )
