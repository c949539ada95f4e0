"""A workdir of an older version: what goes on, and what is still refused."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import tiny_run
from refusals import one_line, refused

from spnas_jax.config.defaults import default_config
from spnas_jax.config.workdir import (
  Workdir,
  differences,
  fingerprint,
  stage_inputs,
)
from spnas_jax.core.errors import UserError
from spnas_jax.stages import evaluate, search, train

# A user without rights.
NOBODY = 65534
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
  # A key that no version has any more, where it did nothing and where it did.
  key = 'dataset.randaugment_operations'
  assert not differences({**now, key: 0}, now)
  assert f'{key}: 2 there' in differences({**now, key: 2}, now)


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


# --- whose results these are --------------------------------------------------


@pytest.mark.parametrize(
  ('stage', 'changes', 'words'),
  [
    (search, {'search__epochs': 5.0}, ['finished search', '4.0 there, 5.0']),
    (train, {'seed': 7}, ['finished train', 'seed: 0 there, 7 here']),
    (
      evaluate,
      {'dataset__test_examples': 40},
      ['finished evaluate', 'test_examples: 50 there, 40 here'],
    ),
  ],
)
def test_finished_results_are_never_overwritten(
  stage, changes, words, workdir, capsys
):
  """Another configuration in a finished workdir is refused, and named."""
  before = tiny_run.snapshot(workdir)
  config = tiny_run.config()
  for name, value in changes.items():
    *sections, key = name.split('__')
    target = config[sections[0]] if sections else config
    target[key] = value('arch.json') if callable(value) else value
  line = refused(lambda: stage.run(config, Workdir(workdir)), capsys)
  for word in words:
    assert word in line
  assert tiny_run.snapshot(workdir) == before


@pytest.mark.parametrize('stage', ['search', 'train'])
def test_an_unfinished_stage_is_not_continued_with_another_config(
  stage, workdir, capsys
):
  """Its checkpoints belong to the configuration it was started with."""
  results = tiny_run.results(workdir)
  del results[stage]
  (workdir / 'results.json').write_text(json.dumps(results))
  before = tiny_run.snapshot(workdir)
  config = tiny_run.config(seed=7)
  run = {'search': search.run, 'train': train.run}[stage]
  line = refused(lambda: run(config, Workdir(workdir)), capsys)
  assert f'unfinished {stage}' in line and 'seed: 0 there, 7 here' in line
  assert tiny_run.snapshot(workdir) == before


# --- folders that cannot be used ----------------------------------------------


def test_a_workdir_in_use_is_refused(tmp_path):
  """Two runs would write over each other's files. The lock goes with its
  process and leaves nothing behind."""
  before = tiny_run.snapshot(tmp_path)
  command = tiny_run.command('report', tmp_path)
  # Held by a child, so that the lock ends for certain.
  with subprocess.Popen(
    [
      *(sys.executable, '-c'),
      'import sys; from spnas_jax.config.workdir import Workdir\n'
      'w = Workdir(sys.argv[1]); w.lock(); print("locked", flush=True)\n'
      'sys.stdin.read()',
      str(tmp_path),
    ],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    cwd=tiny_run.ROOT,
    text=True,
  ) as holder:
    assert holder.stdout.readline() == 'locked\n'
    done = tiny_run.run(command)
    assert done.returncode == 2
    assert 'is in use by another run' in one_line(done.stderr)
    holder.kill()
  Workdir(tmp_path).lock()
  assert tiny_run.snapshot(tmp_path) == before


@pytest.mark.parametrize('content', ['{"half a', '[1, 2]', '7', ''])
@pytest.mark.parametrize('name', ['results.json', 'search/inputs.json'])
def test_a_damaged_file_in_the_workdir_is_named(
  name, content, light_workdir, capsys
):
  """And kept: it may be all that somebody has of a long run."""
  (light_workdir / 'results.json').write_text('{}')
  (light_workdir / name).write_text(content)
  before = tiny_run.snapshot(light_workdir)
  line = refused(
    lambda: search.run(tiny_run.config(), Workdir(light_workdir)), capsys
  )
  assert str(light_workdir / name) in line and 'cannot be read' in line
  assert tiny_run.snapshot(light_workdir) == before


@pytest.mark.parametrize('kind', ['file', 'below a file', 'broken link'])
def test_a_workdir_that_cannot_be_a_folder_is_refused(kind, tmp_path, capsys):
  path = tmp_path / 'run'
  if kind == 'broken link':
    path.symlink_to(tmp_path / 'gone')
  else:
    path.write_text('precious')
    if kind == 'below a file':
      path = path / 'deeper'
  before = tiny_run.snapshot(tmp_path)
  line = refused(lambda: Workdir(path), capsys)
  assert '--workdir is' in line and str(path) in line
  assert tiny_run.snapshot(tmp_path) == before


@pytest.mark.parametrize('mode', [0o000, 0o400, 0o500, 0o600])
def test_a_workdir_without_permission_is_refused(mode, tmp_path, capsys):
  """Permissions do not bind root, so a test run by root gives its rights up
  for the call."""
  folder = tmp_path / 'run'
  folder.mkdir()
  (folder / 'results.json').write_text('{"precious": 1}')
  root = os.geteuid() == 0
  if root:
    for parent in (tmp_path, *tmp_path.parents):
      if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
        parent.chmod(parent.stat().st_mode | 0o011)
    os.chown(folder, NOBODY, NOBODY)
  folder.chmod(mode)
  try:
    if root:
      os.seteuid(NOBODY)
    line = refused(lambda: Workdir(folder), capsys)
  finally:
    if root:
      os.seteuid(0)
    folder.chmod(0o700)
  assert '--workdir is' in line and 'read and written' in line
  assert (folder / 'results.json').read_text() == '{"precious": 1}'


def test_results_take_a_line_for_each_row_of_numbers(tmp_path):
  """A matrix is as long as it has rows; text that looks like one stays."""
  values = {
    'matrix': [[1, 2, 30], [-4.5, 1e-07, 0]],
    'text': ['[ 1,  2 ]', 'a\n[\n 1\n]'],
    'mixed': [1, None, 'two'],
    'empty': [],
  }
  workdir = Workdir(tmp_path)
  workdir.record('stage', values)
  assert workdir.results() == {'stage': values}
  lines = (tmp_path / 'results.json').read_text().splitlines()
  assert '[ 1, 2, 30 ],' in [line.strip() for line in lines]
