"""The frame of a stage: what happens around its work, and in which order."""

import pytest

from spnas_jax.config.defaults import default_config
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.stages.frame import Task, stage


def recorder(calls, inputs, claim=None, fails=False):
  """run(config, workdir) of a stage that notes what is done with it."""

  def work():
    calls.append('work')
    if fails:
      raise RuntimeError
    return {'answer': 42}

  def prepare(config, workdir):
    calls.append('prepare')
    return Task(
      inputs,
      work,
      lambda result: [f'the answer is {result["answer"]}'],
      claim,
      lambda: calls.append('after'),
    )

  return stage('sums', prepare, lambda config, workdir: calls.append('check'))


def test_a_stage_is_checked_prepared_worked_and_recorded(tmp_path, capsys):
  calls, workdir = [], Workdir(tmp_path)
  result = recorder(calls, {'seed': 0})(default_config(), workdir)
  assert calls == ['check', 'prepare', 'work', 'after']
  assert workdir.results()['sums'] == result
  assert result['answer'] == 42 and result['inputs'] == {'seed': 0}
  assert result['wall_seconds'] >= 0
  assert (workdir / 'sums/inputs.json').exists()
  assert capsys.readouterr().out == 'sums: the answer is 42\n'


def test_a_finished_stage_is_not_repeated(tmp_path, capsys):
  calls, workdir = [], Workdir(tmp_path)
  run = recorder(calls, {'seed': 0})
  first = run(default_config(), workdir)
  calls.clear()
  assert run(default_config(), workdir) == first
  assert calls == ['check', 'prepare']
  assert 'sums: already complete' in capsys.readouterr().out
  with pytest.raises(UserError, match='seed: 0 there, 1 here'):
    recorder(calls, {'seed': 1})(default_config(), workdir)


def test_unfinished_files_are_for_one_configuration(tmp_path):
  workdir = Workdir(tmp_path)
  with pytest.raises(RuntimeError):
    recorder([], {'seed': 0}, fails=True)(default_config(), workdir)
  with pytest.raises(UserError, match='holds an unfinished sums'):
    recorder([], {'seed': 1})(default_config(), workdir)
  assert recorder([], {'seed': 0})(default_config(), workdir)['answer'] == 42


@pytest.mark.parametrize(('claim', 'seed'), [({}, 1), ({'rows': 'alike'}, 2)])
def test_a_claim_may_be_less_than_the_inputs(tmp_path, claim, seed):
  """Nothing is left that could be mixed, or only rows that fit both."""
  workdir = Workdir(tmp_path)
  with pytest.raises(RuntimeError):
    recorder([], {'seed': 0}, claim, fails=True)(default_config(), workdir)
  assert (workdir / 'sums').exists() == bool(claim)
  run = recorder([], {'seed': seed}, claim)
  assert run(default_config(), workdir)['inputs'] == {'seed': seed}
