"""A full or read-only disk: one line, and nothing that is there suffers."""

import errno
import logging
import shutil
import subprocess
import sys

import pytest
import tiny_run

from spnas_jax import cli
from spnas_jax.config.workdir import Workdir
from spnas_jax.core import disk

# As TensorStore words it.
TENSORSTORE = (
  'RESOURCE_EXHAUSTED: Error writing "a/3" in OCDBT database at local '
  'file "/runs/x/checkpoints/2/": Failed to write 225 bytes: No space left '
  "on device [os_error_code='28']"
)


def raised_from(cause: Exception) -> RuntimeError:
  try:
    raise RuntimeError('saving failed') from cause
  except RuntimeError as e:
    return e


@pytest.mark.parametrize(
  ('error', 'expected'),
  [
    (OSError(errno.ENOSPC, 'x', '/a/b'), 'No space left on device: /a/b'),
    (OSError(errno.EROFS, 'x'), 'Read-only file system'),
    (OSError(errno.EDQUOT, 'x', '/a'), 'Disk quota exceeded: /a'),
    (
      ValueError(TENSORSTORE),
      'No space left on device: /runs/x/checkpoints/2/',
    ),
    (
      raised_from(OSError(errno.EIO, 'x', '/a')),
      'Input/output error: /a',
    ),
    (FileNotFoundError(errno.ENOENT, 'x', '/a'), None),
    (ValueError('no'), None),
  ],
)
def test_trouble_is_told_from_mistakes(error, expected):
  assert disk.trouble(error) == expected


def test_the_command_line_says_it_in_one_line(capsys, monkeypatch):
  """Exit code 1: neither a wrong input nor a traceback."""
  codes = []
  monkeypatch.setattr(cli.os, '_exit', codes.append)

  def full():
    raise OSError(errno.ENOSPC, 'x', '/runs/x/results.json')

  cli.guarded(full)
  assert codes == [1]
  line = capsys.readouterr().err
  assert line.startswith('error: No space left on device: /runs/x/results.json')
  assert line.count('\n') == 1 and 'the same command continues' in line
  with pytest.raises(FileNotFoundError):
    cli.guarded(open, '/none/there')


def test_what_is_raised_as_well_is_not_logged(caplog):
  disk.quiet()
  logger = logging.getLogger('absl')
  logger.propagate, before = True, logger.propagate
  logger.error(TENSORSTORE)
  logger.error('something else')
  logger.propagate = before
  assert [r.getMessage() for r in caplog.records] == ['something else']


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
  """No reader sees half a file, and no partial one stays."""
  workdir = Workdir(tmp_path)
  workdir.write('results.json', '{"search": 1}')

  def fails(self, data):
    path = str(self)
    with open(path, 'wb') as file:
      file.write(data[:3])
    raise OSError(errno.ENOSPC, 'No space left on device', path)

  monkeypatch.setattr(type(workdir / 'x'), 'write_bytes', fails)
  with pytest.raises(OSError, match='No space'):
    workdir.write('results.json', '{"search": 1, "train": 2}')
  assert [path.name for path in tmp_path.iterdir()] == ['results.json']
  assert workdir.results() == {'search': 1}


def namespaces() -> bool:
  """Whether a file system of one's own may be mounted."""
  if not shutil.which('unshare'):
    return False
  trial = 'mount -t tmpfs -o size=64k none /mnt'
  done = subprocess.run(['unshare', '-rm', 'sh', '-c', trial], check=False)
  return done.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='needs a tmpfs')
@pytest.mark.parametrize('left_kib', [20, 400, 1500])
def test_a_full_disk_in_the_middle_of_a_search(tmp_path, left_kib):
  """One line, exit code 1; with room again the same bits as without trouble."""
  if not namespaces():
    pytest.skip('this machine lets nobody mount a tmpfs')
  run = tmp_path / 'run'
  run.mkdir()
  command = ' '.join(tiny_run.command('search', run))
  size = 30 * 2**20
  script = f"""
    mount -t tmpfs -o size={size} none {run}
    head -c {size - 1024 * left_kib} /dev/zero > {run}/filler
    {command} > {tmp_path}/out1 2> {tmp_path}/err1; echo $? > {tmp_path}/code1
    rm {run}/filler
    {command} > {tmp_path}/out2 2> {tmp_path}/err2; echo $? > {tmp_path}/code2
    cp {run}/results.json {tmp_path}
    find {run} -name '.*' -o -name '*tmp*' > {tmp_path}/partial
  """
  subprocess.run(
    ['unshare', '-rm', 'sh', '-c', script],
    cwd=tiny_run.ROOT,
    env=tiny_run.environment(),
    check=True,
  )
  said = (tmp_path / 'err1').read_text()
  assert (tmp_path / 'code1').read_text() == '1\n', said[-2000:]
  assert 'Traceback' not in said
  assert said.splitlines()[-1].startswith('error: No space left on device')
  assert (tmp_path / 'code2').read_text() == '0\n'
  result = tiny_run.results(tmp_path)['search']
  whole = tiny_run.results(tiny_run.finished())['search']
  assert result['params_sha256'] == whole['params_sha256']
  assert not (tmp_path / 'partial').read_text()
