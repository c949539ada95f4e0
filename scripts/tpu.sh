#!/usr/bin/env bash
# A Cloud TPU, one host or a slice of several, from its making to its end.
#
#   export TPU=spnas ZONE=us-central1-a
#   scripts/tpu.sh create v5litepod-16 v2-alpha-tpuv5-lite [--spot]
#   scripts/tpu.sh install REPOSITORY
#   scripts/tpu.sh run --config=configs/imagenet_search.py --workdir=gs://BUCKET/search
#   scripts/tpu.sh log      what host 0 prints, until Ctrl-C
#   scripts/tpu.sh stop     saves the step that runs on all hosts, ends the run
#   scripts/tpu.sh delete   a TPU that runs costs money whether it computes or not
#
# `run` gives its arguments to main.py on every host and comes back at once; a run
# that lost a host or was preempted is started again by itself (again.sh), as long
# as the TPU is there. A spot TPU that was taken away is made again by `create`,
# `install` and the same `run`, which goes on from its newest checkpoint.
set -euo pipefail

usage() {
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0" >&2
  exit 2
}

# On a host: is the process of run.pid a run? After a restart of the machine its
# number may be another program's.
theirs='-F run.pid -f again.sh'

# Runs a shell command on every host.
everywhere() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

[ $# -gt 0 ] || usage
for name in TPU ZONE; do
  [ -n "${!name:-}" ] || {
    echo "tpu.sh: set $name, as in TPU=spnas ZONE=us-central1-a" >&2
    exit 2
  }
done
action=$1
shift
case $action in
  create)
    [ $# -ge 2 ] || usage
    type=$1 version=$2
    shift 2
    gcloud compute tpus tpu-vm create "$TPU" --zone="$ZONE" \
      --accelerator-type="$type" --version="$version" "$@"
    ;;
  install)
    [ $# -eq 1 ] || usage
    everywhere "test -d spnas_jax || git clone $(printf %q "$1") spnas_jax
      cd spnas_jax && python3 -m venv .venv &&
      .venv/bin/pip install -r requirements.txt -r requirements-tpu.txt"
    ;;
  run)
    [ $# -ge 1 ] || usage
    everywhere "cd spnas_jax || exit 1
      if pgrep $theirs > /dev/null 2>&1; then
        echo 'tpu.sh: a run is there; stop it first' >&2; exit 1
      fi
      nohup scripts/again.sh .venv/bin/python main.py $(printf '%q ' "$@") \
        > run.log 2>&1 < /dev/null & echo \$! > run.pid"
    ;;
  log)
    gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=0 \
      --command='tail -n 20 -F spnas_jax/run.log'
    ;;
  stop)
    everywhere "cd spnas_jax || exit 1
      pkill -TERM $theirs 2> /dev/null || {
        echo 'tpu.sh: no run is there' >&2; exit 1
      }"
    ;;
  delete)
    gcloud compute tpus tpu-vm delete "$TPU" --zone="$ZONE" "$@"
    ;;
  *) usage ;;
esac
