"""The line that a terminal shows, and that nobody else sees anything of it."""

import logging
import sys
import time
import warnings

import jax
import pytest
from terminal import on_terminal, screen

from spnas_jax.core import live_line, progress
from spnas_jax.core.console import say
from spnas_jax.core.live_line import GREEN, LiveLine, Part, bar, clock, fit
from spnas_jax.core.progress import Progress

PARTS = (
  Part('search'),
  Part('10/20', 1),
  Part('fine', 2, GREEN),
  Part('ETA 1:05'),
)
LINE = 'search  10/20  fine  ETA 1:05'


def test_what_is_printed_meanwhile_stands_above_the_line(monkeypatch):
  """print(), a warning and a logger that holds an old stream: whole lines in
  their order, none of them torn, and the line last."""
  with on_terminal(monkeypatch) as terminal:
    logger = logging.getLogger('test_live_line')
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    with LiveLine() as line:
      line.draw(*PARTS)
      say('said')
      print('two', 'words')
      # As `warnings` writes it; pytest collects those that are raised.
      sys.stderr.write(warnings.formatwarning('careful', UserWarning, 'a', 1))
      logger.warning('logged')
      line.draw(*PARTS)
      # What was written arrives in its time.
      end = time.monotonic() + 20
      while terminal.lines()[-2:] != ['logged', LINE]:
        if time.monotonic() > end:
          break
        time.sleep(0.01)
      seen = terminal.lines()
    logger.removeHandler(handler)
    print('after')
  assert seen[:2] == ['said', 'two words']
  assert 'careful' in seen[2]
  assert seen[-2:] == ['logged', LINE]
  assert terminal.lines()[-2:] == ['after', '']
  assert not any('ETA' in text for text in terminal.lines())


def test_half_a_line_is_not_painted_over(monkeypatch):
  """Text without its end waits for it."""
  with on_terminal(monkeypatch) as terminal, LiveLine() as line:
    line.draw(*PARTS)
    print('half', end='', flush=True)
    line.draw(*PARTS)
    print(' a line')
  assert terminal.lines() == ['half a line', '']


@pytest.mark.parametrize('error', [KeyboardInterrupt, ValueError])
def test_an_error_leaves_the_terminal_clean(monkeypatch, error):
  """The streams are as before, the cursor was never hidden (a killed process
  could not show it again) and the line is gone."""
  with on_terminal(monkeypatch) as terminal:
    with pytest.raises(error), LiveLine() as line:
      line.draw(*PARTS)
      raise error
    assert 'write' not in vars(sys.stderr) and 'write' not in vars(sys.stdout)
    print('error: bad', file=sys.stderr)
  assert terminal.lines() == ['error: bad', '']
  assert '\x1b[?' not in terminal.text


def test_a_process_that_ends_itself_takes_the_line_away(monkeypatch):
  """As `peers` does, from a thread; the context's own end changes nothing."""
  with on_terminal(monkeypatch) as terminal:
    with LiveLine() as line:
      line.draw(*PARTS)
      live_line.end()
      print('error: process 1 has ended', file=sys.stderr)
      line.draw(*PARTS)
    live_line.end()
  assert terminal.lines() == ['error: process 1 has ended', '']


def test_a_line_that_is_left_stays(monkeypatch):
  with on_terminal(monkeypatch) as terminal:
    with LiveLine() as line:
      line.leave(*PARTS)
    print('after')
  assert terminal.lines() == [LINE, 'after', '']


@pytest.mark.parametrize(
  ('value', 'coloured'), [(None, True), ('', True), ('1', False)]
)
def test_no_color_is_respected(monkeypatch, value, coloured):
  """https://no-color.org: set and not empty."""
  with on_terminal(monkeypatch, NO_COLOR=value) as terminal, LiveLine() as line:
    line.draw(*PARTS)
  assert ('\x1b[32mfine\x1b[0m' in terminal.text) == coloured
  assert terminal.paintings() == [LINE]


@pytest.mark.parametrize('env', [{'TERM': 'dumb'}, {'CI': 'true'}])
def test_a_terminal_that_cannot_rewrite_gets_lines_only(monkeypatch, env):
  with on_terminal(monkeypatch, **env) as terminal, LiveLine() as line:
    line.draw(*PARTS)
    say('said')
    assert not line.due()
  assert terminal.text == 'said\r\n'


def test_a_pipe_gets_nothing(capfd):
  with LiveLine() as line, line.ticking('search', 'compiling'):
    line.draw(*PARTS)
    line.leave(*PARTS)
  assert capfd.readouterr() == ('', '')


def test_only_process_0_has_the_line(monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  with on_terminal(monkeypatch) as terminal, LiveLine() as line:
    line.draw(*PARTS)
  assert terminal.text == ''


def test_a_log_beside_a_terminal_has_no_control_characters(monkeypatch, capfd):
  """`spnas ... > log`: stderr is the terminal, stdout is not."""
  with on_terminal(monkeypatch, stdout=False) as terminal, LiveLine() as line:
    line.draw(*PARTS)
    say('said')
  assert capfd.readouterr().out == 'said\n'
  assert terminal.paintings() == [LINE]


def test_a_line_inside_a_line_is_silent(monkeypatch):
  with on_terminal(monkeypatch) as terminal, LiveLine() as outer:
    outer.draw(*PARTS)
    with LiveLine() as inner:
      inner.draw(Part('inner'))
    outer.draw(*PARTS)
  assert set(terminal.paintings()) == {LINE}


def test_a_narrow_terminal_drops_what_matters_least(monkeypatch):
  """Every painting fits into 40 columns, one of them free, and stage and time
  to go are in all of them."""
  wide = (*PARTS[:2], Part('x' * 30, 3), *PARTS[2:])
  with on_terminal(monkeypatch, columns=40) as terminal, LiveLine() as line:
    line.draw(*wide)
    line.draw(Part('random_search/0123456789abcdef0123456789'), *wide)
  first, second = terminal.paintings()
  assert first == LINE and len(second) < 40
  assert second.startswith('random_search/')


@pytest.mark.parametrize('width', range(1, 60))
def test_fitted_parts_are_never_wider(width):
  kept = fit(PARTS, width)
  assert len('  '.join(part.text for part in kept)) <= width
  assert kept[0].text == 'search'[:width]


def test_an_ascii_terminal_gets_ascii(monkeypatch):
  with (
    on_terminal(monkeypatch, encoding='ascii') as terminal,
    LiveLine() as line,
  ):
    line.draw(Part(bar(1, 2)), Part('λ 1'))
  assert terminal.paintings() == ['#####-----  l 1']


def test_work_that_says_nothing_counts_its_seconds(monkeypatch):
  monkeypatch.setattr(live_line, '_TICK_SECONDS', 0.01)
  with (
    on_terminal(monkeypatch) as terminal,
    live_line.waiting('search', 'compiling'),
  ):
    time.sleep(0.2)
  seen = terminal.paintings()
  assert len(seen) > 2 and set(seen) == {'search  compiling  0:00'}
  assert terminal.lines() == ['']


def test_bar_and_clock():
  assert bar(0, 3) == '─' * 10 and bar(3, 3) == '━' * 10
  assert bar(0, 0) == '─' * 10
  assert clock(65.4) == '1:05' and clock(3600) == '60:00'


# --- progress -----------------------------------------------------------------


def test_a_log_gets_a_line_from_time_to_time(monkeypatch, capfd):
  """Those that were there before say nothing of the speed, and the first, which
  compiles, nothing once there is a second."""
  monkeypatch.setattr(progress, '_SAY_SECONDS', -1.0)
  now = 0.0
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now)
  with Progress('build_table', 'samples', 12, 6) as measured:
    now = 30.0
    measured.advance()
    now = 32.0
    measured.advance()
  out, err = capfd.readouterr()
  assert out.splitlines() == [
    'build_table: 7 of 12 samples, about 150 s left',
    'build_table: 8 of 12 samples, about 8 s left',
  ]
  assert not err


def test_a_terminal_gets_a_bar(monkeypatch, capfd):
  monkeypatch.setattr(live_line, '_PAINT_SECONDS', -1.0)
  with (
    on_terminal(monkeypatch) as terminal,
    Progress('build_table', 'samples', 4) as measured,
  ):
    for _ in range(4):
      measured.advance()
  seen = terminal.paintings()
  assert seen[0] == f'build_table  {"─" * 10}  0/4 samples'
  assert seen[-1].startswith(f'build_table  {"━" * 10}  4/4 samples  ETA 0:00')
  assert terminal.lines() == ['']


def test_the_screen_of_these_tests_is_a_screen():
  assert screen('abc\rx\x1b[K\r\nnext') == ['x', 'next']
