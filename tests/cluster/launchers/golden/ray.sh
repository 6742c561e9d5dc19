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

# When its last part was written: a start that adds none is in vain. Folders of tiles know, and are fewer than tiles.
far() { find K.zarr/c -maxdepth 1 -printf '%T@\n' 2>/dev/null | sort -n | tail -n 1; }
before=$(far)

# --- the work ---
code=138 # what the program ends with once it is warned
if [ "$warned" = no ]; then
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" --cpus-per-task="$cpus" \
    "${python[@]}" -m dqk "${payload[@]}" &
  step=$!
  # Without Ray the program would wait for a minute, and end with less to say.
  (
    while kill -0 "$ray" 2>/dev/null; do sleep 2; done
    kill -USR1 "$step" 2>/dev/null
  ) &
  watch=$!
  finish "$step"
  code=$?
fi

if [ "$code" -ne 0 ] && [ ! -e "$DQK_STOPPED" ]; then sleep 5; fi # Ray's nodes may be about to end
if [ "$code" -ne 0 ] && [ "$code" -ne 143 ] && ! kill -0 "$ray" 2>/dev/null; then
  echo "Ray has ended before its time, its log is $run/ray-$job.log; what is done can be gone on with by --resume" >&2
fi
if [ -n "${watch:-}" ]; then kill "$watch" 2>/dev/null; fi
# The step of Ray, and nothing else.
scancel --signal=TERM "$SLURM_JOB_ID.$(cat "$DQK_RAY_STEP")"
wait "$ray"

# Asked to stop, and stopped: the program says so, for srun ends ranks with SIGTERM, too, where one of them has crashed. Before it
# can listen, Slurm knows: the job was warned, or preempted with SIGTERM to its steps. A cancelled job does not get here.
preempted=no
if scontrol show job "$job" | grep -q 'PreemptTime=[0-9]'; then preempted=yes; fi
again=no
if [ "$code" -eq 143 ] && [ -e "$DQK_STOPPED" ]; then again=yes; fi
if [ "$code" -gt 128 ] && [ "$warned$preempted" != nono ]; then again=yes; fi
if [ "$again" = yes ] && [ "${SLURM_RESTART_COUNT:-0}" -ge 100 ]; then
  echo "the job was queued again 100 times and is not once more;" \
    'what is done is kept: the same command with --resume goes on' >&2
  again=no
fi
vain=$(cat "$run/vain-$job" 2>/dev/null || echo 0)
if [ "$(far)" != "$before" ]; then vain=0; elif [ "$preempted" = no ]; then vain=$((vain + 1)); fi
if [ "$again" = yes ] && [ "$vain" -ge 5 ]; then
  echo "5 starts, one after the other, have added nothing: the job is not queued again. Does it need a longer --time, or a" \
    "smaller --signal-seconds?" \
    'what is done is kept: the same command with --resume goes on' >&2
  again=no
fi
echo "$vain" >"$run/vain-$job"
if [ "$again" = yes ]; then
  scontrol requeue "$job" && echo "the state is saved, the job is queued again" && exit "$code"
fi

if [ "$code" -gt 128 ] && [ "$warned" = no ] && [ ! -e "$DQK_STOPPED" ]; then
  echo "the program was ended by a signal, which srun names above; Killed is often for want of memory;" \
    'what is done is kept: the same command with --resume goes on' >&2
fi
quit "$code"
