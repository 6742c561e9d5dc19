#!/usr/bin/env bash
# dqk gram X.npy -o 'K of X.zarr'
# in one process. Written by `dqk launch slurm`; change it as you like, `sbatch` takes it.
#SBATCH --job-name=dqk-gram
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --array=1-8
#SBATCH --chdir="/scratch/my work"
#SBATCH --output="/scratch/run/log-%A_%a.txt"
#SBATCH --open-mode=append
#SBATCH --no-requeue
#SBATCH --signal=B:USR1@120
#SBATCH --partition=batch
#SBATCH --constraint=cpu

# --- what runs, and how it goes on after a requeue ---
run=/scratch/run
payload=(gram X.npy -o 'K of X.zarr' --shard "$SLURM_ARRAY_TASK_ID/8")
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then payload+=(--resume); fi

# The job of an array has a name of its own, so that a requeue concerns it alone.
job=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}; fi
export DQK_STOPPED=$run/stopped-$job # the program makes it when it has stopped because it was asked to
rm -f "$run/exit-$job" "$DQK_STOPPED"
quit() {
  rm -f "$run/vain-$job" "$DQK_STOPPED"
  printf '%s\n' "$1" >"$run/exit-$job"
  exit "$1"
}

# Tasks get this script's environment, also where sbatch was told to take none along.
unset SLURM_EXPORT_ENV

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

# --- the environment ---
python=(apptainer exec --bind /scratch dqk.sif /usr/bin/python3)
set -u +e # whatever the lines above have set
ulimit -n "$(ulimit -Hn)"
# srun takes the CPUs of a task from its own options alone.
cpus=${SLURM_CPUS_PER_TASK:-$((SLURM_CPUS_ON_NODE / 1))}

# --- the work ---
code=138 # what the program ends with once it is warned
if [ "$warned" = no ]; then
  export DQK_THREADS=$cpus OMP_NUM_THREADS=$cpus
  srun --nodes=1 --ntasks=1 --cpus-per-task="$cpus" "${python[@]}" -m dqk "${payload[@]}" &
  step=$!
  finish "$step"
  code=$?
fi

if [ "$code" -gt 128 ] && [ "$warned" = no ] && [ ! -e "$DQK_STOPPED" ]; then
  echo "the program was ended by a signal, which srun names above; Killed is often for want of memory;" \
    'what is done is kept: the same command with --resume goes on' >&2
fi
quit "$code"
