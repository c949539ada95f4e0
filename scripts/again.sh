#!/usr/bin/env bash
# Runs a command, and starts it again after what a later start mends: another
# host was lost (exit codes 75 and 134), the process was killed (137) or the
# machine is taken away (143). Gives up after five starts in a row that each ended
# within five minutes.
#
#   scripts/again.sh python main.py --config=configs/digits.py --workdir=runs/digits
#
# Ctrl-C or SIGTERM to this script ends it: the command saves the step that runs,
# and is not started again. AGAIN_SECONDS is the pause before a start, 30 s unless
# it is set.
set -u
signals=0
short=0

stop() {
  signals=$((signals + 1))
  kill -TERM "$child" 2>/dev/null
}

# The exit code of a process. A signal to this script ends `wait` early.
ended() {
  local before code
  while true; do
    before=$signals
    wait "$child"
    code=$?
    [ "$signals" -ne "$before" ] || return "$code"
  done
}

trap stop TERM INT HUP
while true; do
  started=$SECONDS
  "$@" &
  child=$!
  ended
  code=$?
  case $code in
    75 | 134 | 137 | 143) ;;
    *) exit "$code" ;;
  esac
  [ "$signals" -eq 0 ] || exit "$code"
  short=$((SECONDS - started < 300 ? short + 1 : 0))
  if [ "$short" -eq 5 ]; then
    echo "again.sh: exit code $code, five short starts in a row: giving up" >&2
    exit "$code"
  fi
  echo "again.sh: exit code $code, starting again in ${AGAIN_SECONDS:-30} s" >&2
  sleep "${AGAIN_SECONDS:-30}" &
  child=$!
  ended
  [ "$signals" -eq 0 ] || exit "$code"
done
