"""Starting from what another workdir has learned."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from spnas_jax.config import rules
from spnas_jax.config.routes import read_architecture
from spnas_jax.config.spaces import dataset_facts
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.console import say
from spnas_jax.core.errors import UserError
from spnas_jax.core.remote import as_path, is_remote, reaching
from spnas_jax.data import folder_names
from spnas_jax.models.convnet import ConvNet
from spnas_jax.networks.architecture import Architecture
from spnas_jax.training.run_setup import init_variables
from spnas_jax.training.trained import restore_trained

# The momentum changes running averages only, which are not used.
_MAY_DIFFER = ('num_classes', 'batch_norm_momentum', 'provenance')


class Source(NamedTuple):
  """A finished training that `train.init` names.

  Attributes:
    workdir: where it is.
    result: of its stage `train`.
    arch: its network, for its classes.
  """

  workdir: Workdir
  result: dict[str, Any]
  arch: Architecture

  @classmethod
  def of(cls, config: ConfigDict) -> Source:
    """The training in the workdir `train.init`; no weights are read.

    Raises:
      UserError: it is not a workdir, nothing was trained there, or from images
        of other channels than the data set's.
    """
    path = config.train.init
    workdir, result = open_source('train.init', path, 'train', rules.TRAIN_INIT)
    arch = read_architecture(workdir / 'train' / 'architecture.json')
    check_channels('train.init', path, arch.input_channels, config)
    return cls(workdir, result, arch)

  def weights(self, config: ConfigDict) -> dict[str, Any]:
    """{'params', 'batch_stats'}: the averaged weights, NumPy float32.

    Raises:
      UserError: there is no checkpoint.
    """
    state = restore_trained(config, self.workdir, self.result, self.arch)
    return jax.device_get(state.averaged)


def fit_classes(
  config: ConfigDict,
  source: Source,
  arch: Architecture,
  weights: dict[str, Any],
) -> dict[str, Any]:
  """Weights for the data set: a new classifier where the classes differ.

  Args:
    config: section `dataset`, and `seed` of a new classifier.
    source: where the weights come from.
    arch: the network to train.
    weights: those of `source`; not changed.

  Returns:
    {'params', 'batch_stats'} for `ConvNet(arch)`.
  """
  kept = same_classes(config, source.result, source.arch.num_classes)
  say(f'train: {spell_start(config.train.init, kept)}')
  if kept:
    return weights
  fresh = init_variables(
    ConvNet(arch), config.dataset.image_size, arch.input_channels, config.seed
  )
  params = renew_classifier(weights['params'], fresh['params'])
  return {**weights, 'params': params}


def spell_start(path: str, classifier_kept: bool) -> str:
  """Which weights a stage starts from, in words."""
  return f'starts from the weights in {path}' + (
    ', classifier included'
    if classifier_kept
    else '; the classifier is new, since the classes are others'
  )


def open_source(
  key: str, path: str, stage: str, allowed: str
) -> tuple[Workdir, dict[str, Any]]:
  """A workdir in which a stage is finished, and the stage's result.

  Args:
    key: the configuration key that names the workdir.
    path: the workdir; nothing is made there.
    stage: 'search' or 'train'.
    allowed: values of the key, in words.

  Raises:
    UserError: there is no such folder, or the stage is not finished in it.
  """
  local = path if is_remote(path) else os.path.expanduser(path)
  with reaching(key, path):
    there = as_path(key, local).is_dir()
  if not there:
    raise UserError(
      f'{key} is {path!r}, which is no folder; allowed: {allowed}'
    )
  workdir = Workdir(path, key)
  result = workdir.results().get(stage)
  if result is None:
    raise UserError(
      f'{key} is {path!r}, which holds no finished {stage}; run '
      f'--stage={stage} there first; allowed: {allowed}'
    )
  return workdir, result


def check_channels(
  key: str, path: str, channels: int, config: ConfigDict
) -> None:
  """Refuses weights for images of other channels than the data set's.

  Raises:
    UserError: naming both.
  """
  facts = dataset_facts(config)
  if channels != facts.channels:
    kinds = {1: 'grey', 3: 'colour'}
    raise UserError(
      f'{key} is {path!r}, which has learned from '
      f'{kinds.get(channels, channels)} images; those of dataset '
      f'{facts.name!r} are {kinds.get(facts.channels, facts.channels)}, must '
      'be of the same kind'
    )


def check_same_network(
  key: str, path: str, theirs: Architecture, ours: Architecture
) -> None:
  """Refuses weights of a network that differs in more than its classes.

  Raises:
    UserError: naming what differs.
  """
  if difference := _difference(theirs, ours):
    raise UserError(
      f'{key} is {path!r}, whose network is another one ({difference}), '
      "allowed: the same but for its classes; architecture '' in a workdir "
      'without a network of its own takes it over'
    )


def _difference(theirs: Architecture, ours: Architecture) -> str:
  """'blocks[2].kernel: 5 there, 3 here' for the first few that differ."""
  pairs: list[tuple[str, Any, Any]] = [('', theirs, ours)]
  if len(theirs.blocks) == len(ours.blocks):
    pairs += [
      (f'blocks[{i}].', a, b)
      for i, (a, b) in enumerate(zip(theirs.blocks, ours.blocks, strict=True))
    ]
  found = [
    f'{at}{field.name}: {getattr(a, field.name)} there, '
    f'{getattr(b, field.name)} here'
    for at, a, b in pairs
    for field in dataclasses.fields(a)
    if field.name not in (*_MAY_DIFFER, 'blocks')
    and getattr(a, field.name) != getattr(b, field.name)
  ]
  if len(pairs) == 1:
    found.insert(
      0, f'{len(theirs.blocks)} blocks there, {len(ours.blocks)} here'
    )
  more = f' and {len(found) - 3} more' if len(found) > 3 else ''
  return '; '.join(found[:3]) + more


def same_classes(
  config: ConfigDict, result: dict[str, Any], num_classes: int
) -> bool:
  """Whether the classes of the data set are those that a stage has learned.

  Args:
    config: section `dataset` is read.
    result: of the stage; its 'label_names' decide. One without them counts as
      the same only if the data set has the same name (and folder).
    num_classes: of its network.
  """
  facts = dataset_facts(config)
  if num_classes != facts.num_classes:
    return False
  names = result.get('label_names')
  if names and facts.label_names:
    return tuple(names) == facts.label_names
  inputs, own = result['inputs'], config.dataset
  theirs = inputs['dataset.name'], inputs.get('dataset.fingerprint', '')
  return theirs == (own.name, folder_names.fingerprint(own))


def renew_classifier(
  params: dict[str, Any], fresh: dict[str, Any]
) -> dict[str, Any]:
  """Parameters of a network, with the classifier of others."""
  classifier = fresh['frame']['classifier']
  return {**params, 'frame': {**params['frame'], 'classifier': classifier}}
