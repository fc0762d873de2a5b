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
if [ "$status" -eq 42 ] && [ "$(squeue --noheader --job="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
