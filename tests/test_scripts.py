"""The scripts for long runs: what is started again, and what reaches a TPU.

`gcloud` is a stand-in that runs a host's commands in a folder of its own; what
runs there is the script itself, with a small program in Python's place.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
import tiny_run

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent / 'scripts'

# Ends with the codes of `codes`, one at every start; the last one stays.
PROGRAM = """#!/bin/bash
echo "$0" "$@" >> starts
code=$(head -n 1 codes)
[ "$(wc -l < codes)" -gt 1 ] && sed -i 1d codes
exit "$code"
"""
# Runs until SIGTERM, as a search that saves its step.
WAITING = """#!/bin/bash
trap 'exit 143' TERM
echo start >> starts
while true; do sleep 0.02; done
"""
GCLOUD = """#!/bin/bash
python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@" \\
  >> "$HOSTS/asked"
for argument; do
  case $argument in --command=*) command=${argument#--command=} ;; esac
done
if [ -n "$command" ]; then
  for host in "$HOSTS"/host*; do
    (cd "$host" && bash -c "$command") || exit 1
  done
fi
"""


def put(path: pathlib.Path, text: str) -> pathlib.Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)
  return path


def again(folder, codes) -> subprocess.CompletedProcess:
  """`again.sh` on a program that ends with these codes, one after another."""
  (folder / 'codes').write_text(''.join(f'{code}\n' for code in codes))
  return subprocess.run(
    [SCRIPTS / 'again.sh', put(folder / 'program', PROGRAM), 'two words'],
    cwd=folder,
    env={**os.environ, 'AGAIN_SECONDS': '0'},
    capture_output=True,
    text=True,
    timeout=tiny_run.PATIENCE,
  )


def until(condition) -> None:
  """Waits for another process; the machine may be busy."""
  end = time.monotonic() + tiny_run.PATIENCE
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.02)


def gone(pid: int) -> bool:
  """Whether a process has ended; who started it may not have noticed yet."""
  done = subprocess.run(
    ['ps', '-o', 'stat=', '-p', str(pid)], capture_output=True, text=True
  )
  return done.stdout.strip()[:1] in ('', 'Z')


def starts(folder) -> list[str]:
  path = folder / 'starts'
  return path.read_text().splitlines() if path.exists() else []


def test_what_a_later_start_mends_is_started_again(tmp_path):
  done = again(tmp_path, (75, 134, 137, 143, 0))
  assert done.returncode == 0
  assert starts(tmp_path) == [f'{tmp_path / "program"} two words'] * 5
  assert done.stderr.count('starting again') == 4
  assert 'exit code 134' in done.stderr


def test_what_never_gets_anywhere_is_given_up(tmp_path):
  done = again(tmp_path, (75,))
  assert done.returncode == 75
  assert len(starts(tmp_path)) == 5
  assert done.stderr.splitlines()[-1].endswith('giving up')


@pytest.mark.parametrize('code', [0, 1, 2, 130])
def test_everything_else_ends(tmp_path, code):
  done = again(tmp_path, (code,))
  assert done.returncode == code
  assert len(starts(tmp_path)) == 1
  assert not done.stderr


@pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_command_and_the_loop(tmp_path, how):
  process = subprocess.Popen(
    [SCRIPTS / 'again.sh', put(tmp_path / 'program', WAITING)],
    cwd=tmp_path,
    # As on a terminal: a job in the background ignores Ctrl-C, and what it
    # starts inherits that.
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
  )
  until(lambda: starts(tmp_path))
  process.send_signal(how)
  assert process.wait(timeout=tiny_run.PATIENCE) == 143
  assert len(starts(tmp_path)) == 1


@pytest.fixture
def slice_of_two(tmp_path, monkeypatch):
  """Two hosts with the project on them, and a `gcloud` that reaches them."""
  for name in ('host0', 'host1'):
    root = tmp_path / name / 'spnas_jax'
    shutil.copytree(SCRIPTS, root / 'scripts')
    put(root / '.venv' / 'bin' / 'python', PROGRAM)
  put(tmp_path / 'bin' / 'gcloud', GCLOUD)
  monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:{os.environ["PATH"]}')
  monkeypatch.setenv('HOSTS', str(tmp_path))
  monkeypatch.setenv('AGAIN_SECONDS', '0')
  monkeypatch.setenv('TPU', 'spnas')
  monkeypatch.setenv('ZONE', 'here')
  return tmp_path


def tpu(*arguments) -> subprocess.CompletedProcess:
  return subprocess.run(
    [SCRIPTS / 'tpu.sh', *arguments],
    capture_output=True,
    text=True,
    timeout=tiny_run.PATIENCE,
  )


def asked(folder) -> list[list[str]]:
  """The arguments of every call of `gcloud`."""
  return [json.loads(line) for line in (folder / 'asked').open()]


def test_a_tpu_is_made_and_deleted(slice_of_two):
  assert tpu('create', 'v5litepod-16', 'a-version', '--spot').returncode == 0
  assert tpu('delete', '--quiet').returncode == 0
  begin = ['compute', 'tpus', 'tpu-vm']
  assert asked(slice_of_two) == [
    [
      *(*begin, 'create', 'spnas', '--zone=here'),
      *('--accelerator-type=v5litepod-16', '--version=a-version', '--spot'),
    ],
    [*begin, 'delete', 'spnas', '--zone=here', '--quiet'],
  ]


def test_a_run_is_started_again_on_every_host(slice_of_two):
  """Its arguments arrive as they were typed, whatever is in them."""
  roots = [slice_of_two / name / 'spnas_jax' for name in ('host0', 'host1')]
  for root in roots:
    (root / 'codes').write_text('75\n0\n')
  typed = ('--config.space.channels=(8, 12)', "--workdir=gs://a b/$HOME'")
  assert tpu('run', *typed).returncode == 0
  for root in roots:
    until(lambda root=root: len(starts(root)) == 2)
    assert (
      starts(root) == [' '.join(['.venv/bin/python', 'main.py', *typed])] * 2
    )
    assert 'exit code 75' in (root / 'run.log').read_text()


def test_a_run_is_stopped_and_not_started_twice(slice_of_two):
  roots = [slice_of_two / name / 'spnas_jax' for name in ('host0', 'host1')]
  for root in roots:
    put(root / '.venv' / 'bin' / 'python', WAITING)
  assert tpu('run', '--workdir=here').returncode == 0
  for root in roots:
    until(lambda root=root: starts(root))
  second = tpu('run', '--workdir=here')
  assert second.returncode == 1 and 'a run is there' in second.stderr
  assert tpu('stop').returncode == 0
  for root in roots:
    pid = int((root / 'run.pid').read_text())
    until(lambda pid=pid: gone(pid))
    assert len(starts(root)) == 1


def test_a_number_that_is_another_programs_is_no_run(slice_of_two):
  """As after a restart of the machine: it is neither stopped nor waited for."""
  roots = [slice_of_two / name / 'spnas_jax' for name in ('host0', 'host1')]
  other = subprocess.Popen(['sleep', '60'])
  try:
    for root in roots:
      (root / 'run.pid').write_text(f'{other.pid}\n')
    stopped = tpu('stop')
    assert stopped.returncode == 1 and 'no run is there' in stopped.stderr
    assert other.poll() is None
    assert tpu('run', '--workdir=here').returncode == 0
    for root in roots:
      until(lambda root=root: starts(root))
  finally:
    other.kill()
    other.wait()


def test_what_is_missing_is_named(slice_of_two, monkeypatch):
  assert 'scripts/tpu.sh create' in tpu().stderr
  assert tpu('fly').returncode == 2
  monkeypatch.delenv('ZONE')
  done = tpu('log')
  assert done.returncode == 2 and 'set ZONE' in done.stderr
  assert not (slice_of_two / 'asked').exists()
