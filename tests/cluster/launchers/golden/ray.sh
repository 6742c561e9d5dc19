#!/usr/bin/env bash
# dqk gram X.npy -o K.zarr --executor ray
# on the workers of a Ray cluster inside this job. Written by `dqk launch slurm`; change it as you like, `sbatch` takes it.
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

# The job of an array has a name of its own, so that a requeue concerns it alone.
job=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}; fi
rm -f "$run/exit-$job"
quit() {
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
python=(/opt/dqk/bin/python)
set -u +e # whatever the lines above have set
ulimit -n "$(ulimit -Hn)"
# srun takes the CPUs of a task from its own options alone.
cpus=${SLURM_CPUS_PER_TASK:-$((SLURM_CPUS_ON_NODE / 1))}

# --- Ray: a node of it on every node of the job, open to this job alone ---
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
RAY_USAGE_STATS_ENABLED=0
# Paths of sockets have at most 107 characters, 70 of which Ray adds.
DQK_RAY_TEMP=/tmp/dqk-$SLURM_JOB_ID-$RANDOM
DQK_RAY_STEP=$run/ray-$job.step
export RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED DQK_RAY_TEMP DQK_RAY_STEP
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
code=138 # what the program ends with once it is warned
if [ "$warned" = no ]; then
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" --cpus-per-task="$cpus" \
    "${python[@]}" -m dqk "${payload[@]}" &
  step=$!
  # Without Ray the program would wait for a minute, and end with less to say.
  (
    while kill -0 "$ray" 2>/dev/null; do sleep 2; done
    echo "Ray has ended before its time, its log is $run/ray-$job.log; what is done can be gone on with by --resume" >&2
    kill -USR1 "$step" 2>/dev/null
  ) &
  watch=$!
  finish "$step"
  code=$?
fi

if [ -n "${watch:-}" ]; then kill "$watch" 2>/dev/null; fi
# The step of Ray, and nothing else.
scancel --signal=TERM "$SLURM_JOB_ID.$(cat "$DQK_RAY_STEP")"
wait "$ray"

# Warned, or preempted: then Slurm sends SIGTERM to the steps, and the program ends with 143. A cancelled job does not get here.
again=no
if [ "$code" -eq 143 ]; then again=yes; fi
if [ "$warned" = yes ] && [ "$code" -gt 128 ]; then again=yes; fi
if [ "$again" = yes ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
  scontrol requeue "$job" && echo "the state is saved, the job is queued again" && exit "$code"
fi
quit "$code"
