"""Input that is wrong, and the one line with which it is refused."""

import json

import pytest
import tiny_run

from spnas_jax import cli

# Smallest network of the tiny space.
ARCHITECTURE = (
  'stem_k3_s2_i1_c8 ir_r1_k3_s2_e2_c8 ir_r1_k3_s1_e2_c12 head_c16 fc_c10'
)


def refused(call, capsys) -> str:
  """The line with which a call is refused, exit code 2."""
  capsys.readouterr()
  with pytest.raises(SystemExit) as stop:
    cli.guarded(call)
  assert stop.value.code == 2
  return one_line(capsys.readouterr().err)


def one_line(err: str) -> str:
  lines = err.splitlines()
  assert len(lines) == 1 and lines[0].startswith('error: '), err
  return lines[0]


def corrupted_table(**fields) -> str:
  path = tiny_run.scratch() / 'corrupted.json'
  table = json.loads(tiny_run.table_path().read_text())
  path.write_text(json.dumps({**table, **fields}))
  return str(path)


def garbage(name: str) -> str:
  path = tiny_run.scratch() / name
  path.write_text('{"half a')
  return str(path)
