"""The frame of every stage: what is done around its work, written once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from spnas_jax.config.workdir import Workdir
from spnas_jax.core.console import say

Result = dict[str, Any]
Check = Callable[[ConfigDict, Workdir], None]


@dataclasses.dataclass(frozen=True)
class Task:
  """What a stage is about to do.

  Attributes:
    inputs: everything the result depends on, see `workdir.stage_inputs`.
    work: () -> the stage's object for results.json.
    lines: result -> what a user reads of it.
    claim: inputs for which unfinished files in the stage's folder are kept; {}
      = it leaves none. None = `inputs`.
    after: called when the result is written.
  """

  inputs: dict[str, Any]
  work: Callable[[], Result]
  lines: Callable[[Result], list[str]] = lambda result: []
  claim: dict[str, Any] | None = None
  after: Callable[[], None] = lambda: None


Prepare = Callable[[ConfigDict, Workdir], Task]


def stage(
  name: str, prepare: Prepare, check: Check | None = None
) -> Callable[[ConfigDict, Workdir], Result]:
  """A stage's `run`.

  Args:
    name: of the stage; its key in results.json and its folder.
    prepare: reads what earlier stages left, and refuses what is wrong with it,
      before anything is compiled or written.
    check: what can be refused without that; `stage_runs` calls it for all
      chosen stages before the first one runs.

  Returns:
    run(config, workdir) -> the stage's object in results.json. It raises
    UserError where `check` or `prepare` does, where the stage is finished for
    another configuration, and where unfinished files are another's.
  """

  def run(config: ConfigDict, workdir: Workdir) -> Result:
    if check is not None:
      check(config, workdir)
    task = prepare(config, workdir)
    done = workdir.finished(name, task.inputs)
    if done is not None:
      return done
    claim = task.inputs if task.claim is None else task.claim
    if claim:
      workdir.claim(name, claim)
    start = time.monotonic() - workdir.spent(name)
    result = task.work()
    if lines := task.lines(result):
      say('\n'.join(f'{name}: {line}' for line in lines))
    entry = workdir.finish(name, task.inputs, result, time.monotonic() - start)
    task.after()
    return entry

  run.__doc__ = f'Runs stage `{name}`, see `frame.stage`.'
  return run
