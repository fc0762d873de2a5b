#!/bin/bash
# One run over several tasks of SLURM, each on one GPU. docs/launch/slurm.md says more.
#
#   sbatch launch/slurm_train.sh --config=paper:dataset=dtd,data_dir=/data --workdir=/shared/dtd
#
# Two minutes before the time limit all tasks stop at the same step and end with status 42: the job is then put back
# into the queue, and goes on. The workdir is a folder that all nodes see.
#
#SBATCH --job-name=pini
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120
#SBATCH --output=%x-%j.log

# Without B: the signal reaches the tasks, and not this shell. Of a node's GPUs, JAX gives each task one.
# srun does not know the number of cores from sbatch.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" ${PINI:-pini} train --distributed "$@"
status=$?
job=$SLURM_JOB_ID
put_back() {
  state=$(squeue --noheader --job="$job" --format=%T) && { [ "$state" != RUNNING ] || scontrol requeue "$job"; }
}
if [ "$status" -eq 42 ]; then
  for _ in 1 2 3 4 5; do  # a busy controller does not always answer
    put_back && break
    sleep 5
  done
fi
exit "$status"
