#!/bin/bash
# Workers of a planned sweep on Cloud TPU VMs, over ssh. docs/launch/tpu_vm.md says more.
#
#   launch/tpu_vm.sh NAME ZONE install
#   launch/tpu_vm.sh NAME ZONE sweep --workdir=/shared/paper --workers=4
#   launch/tpu_vm.sh NAME ZONE train --config=paper:dataset=dtd,data_dir=/shared/data --workdir=/shared/dtd
#
# `install` puts pini_jax (or the wheel that PACKAGE names) on every host; `sweep` starts workers on every host; `train`
# starts one run over all hosts of a slice. With DRY_RUN=yes the command is printed, and not run.
set -eu
name=${1:?the name of the TPU VM} zone=${2:?its zone} action=${3:?install, sweep or train}
shift 3

on_all_hosts() {
  set -- gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
  if [ "${DRY_RUN:-}" = yes ]; then printf '%q ' "$@"; echo; else "$@"; fi
}

flags=$(printf ' %q' "$@")
case $action in
  install)
    on_all_hosts "python3 -m pip install --quiet uv && python3 -m uv venv --quiet --clear --python 3.11 ~/pini \
&& python3 -m uv pip install --quiet --python ~/pini $(printf %q "${PACKAGE:-pini_jax[bucket]}") 'jax[tpu]'" ;;
  sweep) on_all_hosts "exec ~/pini/bin/pini sweep run --nowait$flags" ;;
  train) on_all_hosts "exec ~/pini/bin/pini train --distributed$flags" ;;
  *) echo "error: $action is none of install, sweep and train" >&2; exit 2 ;;
esac
