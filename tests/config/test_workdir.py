"""A workdir of an older version: what goes on, and what is still refused."""

import json
import shutil

import pytest
import tiny_run

from spnas_jax.config.defaults import default_config
from spnas_jax.config.workdir import (
  Workdir,
  differences,
  fingerprint,
  stage_inputs,
)
from spnas_jax.core.errors import UserError
from spnas_jax.stages import evaluate, search, train

# Keys that an older version did not have, a section and one nested deeper.
NEW = ('remat', 'controller.limit')


def older(inputs):
  """Inputs as a version without the keys recorded them."""
  return {k: v for k, v in inputs.items() if not k.endswith(NEW)}


def inputs_of(**search):
  config = default_config()
  config.search.update(search)
  return stage_inputs(config, 'seed', 'search', table='abc', target=None)


def begin(kind, folder, inputs):
  """A workdir with a finished or an unfinished stage."""
  workdir = Workdir(folder)
  if kind == 'finished':
    workdir.finish('search', inputs, {'top1': 0.5}, 1.0)
    return lambda now: workdir.finished('search', now)['top1']
  workdir.claim('search', inputs)
  return lambda now: workdir.claim('search', now)


@pytest.mark.parametrize('kind', ['finished', 'unfinished'])
def test_a_new_key_at_its_default_does_not_lock_older_workdirs(kind, tmp_path):
  """Its default means what versions without the key did. The record stays as
  it was written: later stages know it by its hash."""
  go_on = begin(kind, tmp_path, older(inputs_of()))
  before = tiny_run.snapshot(tmp_path)
  go_on(inputs_of())
  assert tiny_run.snapshot(tmp_path) == before


@pytest.mark.parametrize('kind', ['finished', 'unfinished'])
@pytest.mark.parametrize(
  ('now', 'words'),
  [
    ({'remat': True}, 'search.remat: null there, true here'),
    ({'controller': {'limit': 5.0}}, r'controller\.limit: null there, 5'),
    ({'epochs': 3.0}, r'search\.epochs: 30\.0 there, 3\.0 here'),
  ],
)
def test_another_value_is_refused(kind, now, words, tmp_path):
  """A new key's other values never were what ran; a recorded key must be
  equal, default or not."""
  go_on = begin(kind, tmp_path, older(inputs_of()))
  with pytest.raises(UserError, match=words):
    go_on(inputs_of(**now))


def test_what_the_record_has_is_compared():
  """A fact beside the configuration that an older version did not note is not;
  nor does a recorded value give way because the new one is a default."""
  now = json.loads(json.dumps(inputs_of()))  # As a file has it.
  assert not differences(older(now), now)
  assert not differences({k: now[k] for k in now if k != 'table'}, now)
  assert 'table: "xyz" there' in differences({**now, 'table': 'xyz'}, now)
  assert 'target: 3 there' in differences({**now, 'target': 3}, now)
  assert 'search.remat: true' in differences({**now, 'search.remat': True}, now)
  gone = {**now, 'search.gone': 1}
  assert 'search.gone: 1 there, null here' in differences(gone, now)


def test_a_finished_stage_without_inputs_is_not_taken_for_any(tmp_path):
  """Nobody knows what it was of."""
  workdir = Workdir(tmp_path)
  workdir.record('search', {'config_hash': 'abc', 'top1': 0.5})
  with pytest.raises(UserError, match='finished search'):
    workdir.finished('search', inputs_of())


def test_the_stages_of_an_older_workdir_are_complete(tmp_path):
  """Search, training and evaluation recorded without some of today's keys:
  nothing runs again, and the hash by which the evaluation knows its training
  is still the one that it noted."""
  folder = tmp_path / 'run'
  shutil.copytree(tiny_run.finished(), folder)
  results = tiny_run.results(folder)
  gone = ('remat', 'style', 'train.batch_norm_batches', 'shuffle_buffer')
  for stage in ('search', 'train', 'evaluate'):
    recorded = results[stage]['inputs']
    recorded = {k: v for k, v in recorded.items() if not k.endswith(gone)}
    assert recorded != results[stage]['inputs']
    if stage == 'evaluate':
      recorded['trained'] = fingerprint(results['train']['inputs'])
    results[stage]['inputs'] = recorded
    results[stage]['config_hash'] = fingerprint(recorded)
  (folder / 'results.json').write_text(json.dumps(results))
  before = tiny_run.snapshot(folder)
  for stage in (search, train, evaluate):
    stage.run(tiny_run.config(), Workdir(folder))
  assert tiny_run.snapshot(folder) == before
