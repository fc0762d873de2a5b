#!/bin/bash
# Workers of a planned sweep as a SLURM array: one task each, on one GPU. docs/launch/slurm.md says more.
#
#   pini sweep plan --config=paper_sweep:data_dir=/data --workdir=/shared/paper
#   sbatch --array=0-15 --export=ALL,WORKDIR=/shared/paper launch/slurm.sh
#
# Two minutes before the time limit, and on preemption, the worker saves what it has and ends with status 42: the task
# is then put back into the queue, and goes on. WORKDIR is a folder that all nodes see.
#
#SBATCH --job-name=pini
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --output=%x-%A_%a.log

set -u
: "${WORKDIR:?the folder of the sweep, as in --export=ALL,WORKDIR=/shared/paper}"
# Where the worker begins among the units: indices may be any, such as 3,7 or 0-6:2.
share="$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))/$((SLURM_ARRAY_TASK_MAX - SLURM_ARRAY_TASK_MIN + 1))"

# --signal=B: reaches this shell alone, and a preemption's SIGTERM may reach both: one is passed on, once, as soon as
# there is a worker.
asked="" told="" worker=""
pass_on() {
  [ -n "$asked" ] && [ -n "$worker" ] && [ -z "$told" ] || return 0
  told=yes
  kill -TERM "$worker" 2>/dev/null
}
trap 'asked=yes; pass_on' USR1 TERM

${PINI:-pini} sweep run --workdir="$WORKDIR" --worker="$share" --nowait "$@" &
worker=$!
pass_on

# A signal ends a wait before the worker ends.
while :; do
  wait "$worker"
  status=$?
  [ "$status" -gt 128 ] && kill -0 "$worker" 2>/dev/null || break
done
wait "$worker"
again=$?  # of a worker that has ended while another wait was cut short; 127 where it has been waited for
[ "$again" -eq 127 ] || status=$again

# One that was not listening yet is killed by what was passed on. What scancel has ended is no longer running.
task="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
put_back() {
  state=$(squeue --noheader --job="$task" --format=%T) && { [ "$state" != RUNNING ] || scontrol requeue "$task"; }
}
if [ "$status" -eq 42 ] || { [ -n "$asked" ] && [ "$status" -gt 128 ]; }; then
  for _ in 1 2 3 4 5; do  # a busy controller does not always answer
    put_back && break
    sleep 5
  done
fi
exit "$status"
