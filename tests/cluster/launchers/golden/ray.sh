#!/usr/bin/env bash
# dqk gram X.npy -o K.zarr --executor ray
# on the workers of a Ray cluster inside this job. Written by `dqk launch slurm`; `sbatch` takes it again as it is.
#SBATCH --job-name=dqk-gram
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --time=2:00:00
#SBATCH --chdir="/scratch/my work"
#SBATCH --output="/scratch/run/log-%j.txt"
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120

# --- what runs, and how it goes on after a requeue ---
run=/scratch/run
payload=(gram X.npy -o K.zarr --executor ray)
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then payload+=(--resume); fi

# --- the environment ---
python=(/opt/dqk/bin/python)
set -u

# The job of an array has a name of its own, so that a requeue concerns it alone.
job=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}; fi
rm -f "$run/exit-$job"
quit() {
  printf '%s\n' "$1" >"$run/exit-$job"
  exit "$1"
}

ulimit -n "$(ulimit -Hn)"
# srun takes the CPUs of a task from its own options alone.
cpus=${SLURM_CPUS_PER_TASK:-$((SLURM_CPUS_ON_NODE / 1))}

# --- Slurm's warning, 120 s before the time limit: the program saves its state and ends ---
warned=no
step=
# shellcheck disable=SC2317 # the trap calls it
warn() {
  warned=yes
  if [ -n "$step" ]; then kill -USR1 "$step" 2>/dev/null; fi
}
trap warn USR1

# The exit code of a child, also where the warning interrupts the waiting.
finish() {
  local code again
  while :; do
    wait "$1"
    code=$?
    kill -0 "$1" 2>/dev/null || break
  done
  wait "$1" 2>/dev/null
  again=$?
  if [ "$again" -ne 127 ]; then code=$again; fi
  return "$code"
}

# --- Ray: a node of it on every node of the job, open to this job alone ---
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
RAY_USAGE_STATS_ENABLED=0
# Paths of sockets have at most 107 characters, 70 of which Ray adds.
DQK_RAY_TEMP=/tmp/dqk-$SLURM_JOB_ID-$RANDOM
export RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED DQK_RAY_TEMP
RAY_ADDRESS=$("${python[@]}" -m dqk.cluster.launchers.ray_node address) || quit 1
export RAY_ADDRESS
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$cpus" \
  "${python[@]}" -m dqk.cluster.launchers.ray_node start >"$run/ray-$job.log" 2>&1 &
ray=$!
if ! "${python[@]}" -m dqk.cluster.launchers.ray_node wait "$SLURM_JOB_NUM_NODES" "$ray"; then
  tail -n 20 "$run/ray-$job.log" >&2
  quit 1
fi

# --- the work ---
srun --overlap --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" --cpus-per-task="$cpus" \
  "${python[@]}" -m dqk "${payload[@]}" &
step=$!
if [ "$warned" = yes ]; then kill -USR1 "$step"; fi
finish "$step"
code=$?

# Ray is this job's first step; nothing else is ended.
scancel --signal=TERM "$SLURM_JOB_ID.0"
wait "$ray"

# 138, or more where srun has ended tasks that were about to end.
if [ "$warned" = yes ] && [ "$code" -gt 128 ]; then
  echo "warned by Slurm: the state is saved, the job is queued again"
  scontrol requeue "$job" && exit 138
fi
quit "$code"
