"""The batch script of a job: one file that people can read, change and hand in again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent

from dqk.cluster.launchers.options import SlurmOptions
from dqk.cluster.launchers.payload import Payload
from dqk.cluster.launchers.site import Site
from dqk.errors import InvalidInputError

_WHAT = {
    "ray": "on the workers of a Ray cluster inside this job",
    "mpi": "on MPI ranks",
    "torch": "on ranks that share every batch",
    "single": "in one process",
}

_START = r"""
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

# --- Slurm's warning, {signal_s} s before the time limit: the program saves its state and ends ---
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
"""

_QPUS = r"""
# --- quantum resources: QRMI passes over names that it does not know ---
granted=${QRMI_JOB_QPU_RESOURCES:-${SLURM_JOB_QPU_RESOURCES:-}}
for qpu in {qpus}; do
  case ",$granted," in
    *",$qpu,"*) ;;
    *)
      echo "the job has no QPU $qpu, only: ${granted:-none}; ask the site for the names in its qrmi_config.json" >&2
      quit 1
      ;;
  esac
done
"""

_EMULATED = r"""
# --- emulated QPUs: one task of this job for each; a run after a requeue has its own ---
fleet=$run/qpus-$job-${SLURM_RESTART_COUNT:-0}
tasks=$("${python[@]}" -m dqk.qpu.tasks prepare {file} "$fleet") || quit 1
nodes=$((tasks < SLURM_JOB_NUM_NODES ? tasks : SLURM_JOB_NUM_NODES))
# They wait most of the time, so they share CPUs with each other and with the work.
srun --overlap --overcommit --nodes="$nodes" --ntasks="$tasks" --ntasks-per-node=$(((tasks + nodes - 1) / nodes)) \
  --cpus-per-task=1 --distribution=cyclic --label "${python[@]}" -m dqk.qpu.tasks serve "$fleet" >"$fleet/tasks.log" 2>&1 &
qpus=$!
options=$("${python[@]}" -m dqk.qpu.tasks wait "$fleet" "$qpus") || quit 1
mapfile -t options <<<"$options"
payload+=("${options[@]}")
"""

_DROP = r"""
kill "$qpus" 2>/dev/null # srun ends its tasks
wait "$qpus"
"""

_SETTINGS = r"""set -u +e # whatever the lines above have set
ulimit -n "$(ulimit -Hn)"
# srun takes the CPUs of a task from its own options alone.
cpus=${SLURM_CPUS_PER_TASK:-$((SLURM_CPUS_ON_NODE / {tasks}))}
"""

_RAY = r"""
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
"""

_WATCH = r"""
  # Without Ray the program would wait for a minute, and end with less to say.
  (
    while kill -0 "$ray" 2>/dev/null; do sleep 2; done
    kill -USR1 "$step" 2>/dev/null
  ) &
  watch=$!
"""

_STEP = {
    "ray": r"""srun --overlap --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" --cpus-per-task="$cpus" \
  "${python[@]}" -m dqk "${payload[@]}" &""",
    "mpi": r"""export DQK_THREADS=$cpus OMP_NUM_THREADS=$cpus
{ungpu}srun --mpi={mpi} --kill-on-bad-exit=1 --ntasks-per-node={tasks} --cpus-per-task="$cpus"{gpus} \
  "${python[@]}" -m mpi4py -m dqk "${payload[@]}" &""",
    "torch": r"""export DQK_THREADS=$cpus OMP_NUM_THREADS=$cpus
{ungpu}srun --ntasks-per-node={tasks} --cpus-per-task="$cpus"{gpus} \
  "${python[@]}" -m dqk "${payload[@]}" &""",
    "single": r"""export DQK_THREADS=$cpus OMP_NUM_THREADS=$cpus
srun --nodes=1 --ntasks=1 --cpus-per-task="$cpus" "${python[@]}" -m dqk "${payload[@]}" &""",
}

_STOP_RAY = r"""
if [ "$code" -ne 0 ] && [ ! -e "$DQK_STOPPED" ]; then sleep 5; fi # Ray's nodes may be about to end
if [ "$code" -ne 0 ] && [ "$code" -ne 143 ] && ! kill -0 "$ray" 2>/dev/null; then
  echo "Ray has ended before its time, its log is $run/ray-$job.log; what is done can be gone on with by --resume" >&2
fi
if [ -n "${watch:-}" ]; then kill "$watch" 2>/dev/null; fi
# The step of Ray, and nothing else.
scancel --signal=TERM "$SLURM_JOB_ID.$(cat "$DQK_RAY_STEP")"
wait "$ray"
"""

_FAR = r"""
# When its last part was written: a start that adds none is in vain. Folders of tiles know, and are fewer than tiles.
far() { find {parts} -maxdepth 1 -printf '%T@\n' 2>/dev/null | sort -n | tail -n 1; }
before=$(far)
"""

_REQUEUE = r"""
# Asked to stop, and stopped: the program says so, for srun ends ranks with SIGTERM, too, where one of them has crashed. Before it
# can listen, Slurm knows: the job was warned, or preempted with SIGTERM to its steps. A cancelled job does not get here.
preempted=no
if scontrol show job "$job" | grep -q 'PreemptTime=[0-9]'; then preempted=yes; fi
again=no
if [ "$code" -eq 143 ] && [ -e "$DQK_STOPPED" ]; then again=yes; fi
if [ "$code" -gt 128 ] && [ "$warned$preempted" != nono ]; then again=yes; fi
if [ "$again" = yes ] && [ "${SLURM_RESTART_COUNT:-0}" -ge {restarts} ]; then
  echo "the job was queued again {restarts} times and is not once more;" \
    {go_on} >&2
  again=no
fi
{vain}if [ "$again" = yes ]; then
  scontrol requeue "$job" && echo "the state is saved, the job is queued again" && exit "$code"
fi
"""

_VAIN = r"""vain=$(cat "$run/vain-$job" 2>/dev/null || echo 0)
if [ "$(far)" != "$before" ]; then vain=0; elif [ "$preempted" = no ]; then vain=$((vain + 1)); fi
if [ "$again" = yes ] && [ "$vain" -ge {most} ]; then
  echo "{most} starts, one after the other, have added nothing: the job is not queued again. Does it need a longer --time, or a" \
    "smaller --signal-seconds?" \
    {go_on} >&2
  again=no
fi
echo "$vain" >"$run/vain-$job"
"""

_CRASHED = r"""
if [ "$code" -gt 128 ] && [ "$warned" = no ] && [ ! -e "$DQK_STOPPED" ]; then
  echo "{who} by a signal, which srun names above; Killed is often for want of memory;" \
    {go_on} >&2
{more}fi
"""

_NOT_MET = r"""  echo "Where it is Alarm clock, the ranks did not meet within ${DQK_MPI_INIT_S:-600} s: the MPI library of mpi4py" \
    "and srun --mpi={mpi} do not get on with each other; build mpi4py on the site's MPI, name another flavour in the site file," \
    "or use --executor ray" >&2
"""
_VAIN_STARTS = 5
_MOST_RESTARTS = 100
_UNGPU = "unset SLURM_GPUS_PER_NODE # with a type of GPU it would contradict the next line\n"


def render(
    payload: Payload,
    options: SlurmOptions,
    site: Site,
    folder: Path,
    workdir: Path,
    python: str,
    mpi: str = "pmi2",
) -> str:
    """The script.

    Args:
        payload: what it runs.
        options: what it asks for.
        site: what the site wants said.
        folder: the run folder, absolute; log and exit code go there.
        workdir: folder that the payload's paths are relative to, absolute.
        python: interpreter to use if the site names none.
        mpi: what `srun --mpi=` is given.

    Raises:
        InvalidInputError: if a folder's name cannot be written into a script.
    """
    for path in (folder, workdir):
        if any(sign in str(path) for sign in '%\n"\\'):
            raise InvalidInputError(
                f"the folder {str(path)!r} has a percent sign, double quote, backslash or line break in its name, which Slurm "
                "reads otherwise; use another folder"
            )
    tasks = options.tasks(payload)
    head = [
        "#!/usr/bin/env bash",
        f"# {_comment(str(payload))}",
        f"# {_WHAT[payload.engine]}. Written by `dqk launch slurm`; change it as you like, `sbatch` takes it.",
        *(f"#SBATCH {word}" for word in _directives(payload, options, site, folder, workdir)),
        "",
        "# --- what runs, and how it goes on after a requeue ---",
        f"run={shlex.quote(str(folder))}",
        f"payload=({_words(payload, options)})",
        *_again(payload),
    ]
    environment = [
        "",
        "# --- the environment ---",
        *(f"module load {shlex.quote(name)} || quit 1" for name in site.modules),
        *(f"{line} || quit 1" for line in site.setup),
        *([f"source {shlex.quote(site.venv + '/bin/activate')} || quit 1"] if site.venv else []),
        f"python=({_python(site, python)})",
    ]
    text = "\n".join(head) + "\n" + _START.replace("{signal_s}", str(options.signal_s)) + "\n".join(environment) + "\n"
    text += _SETTINGS.replace("{tasks}", str(tasks)) + _qpus(options) + _work(payload, options, mpi)
    return text + _end(payload, options, mpi) + 'quit "$code"\n'


def _end(payload: Payload, options: SlurmOptions, mpi: str) -> str:
    """What decides whether the job is queued again, and says what has happened."""
    requeue = options.requeue and payload.goes_on
    text = (_REQUEUE.replace("{vain}", _VAIN if payload.parts else "") if requeue else "") + _CRASHED
    with_words = f" with {shlex.join(payload.again())}" if payload.again() else ""
    kept, anew = f"what is done is kept: the same command{with_words} goes on", "the same command starts anew"
    ranks = payload.engine == "mpi"
    fillings = {
        "restarts": str(_MOST_RESTARTS),
        "most": str(_VAIN_STARTS),
        "who": "a rank was ended, and the others with it," if ranks else "the program was ended",
        "more": _NOT_MET.replace("{mpi}", mpi) if ranks else "",
        "go_on": shlex.quote(kept if payload.goes_on else anew),
    }
    for name, value in fillings.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def _qpus(options: SlurmOptions) -> str:
    """What looks at the QPUs of the site, and starts those of a fleet."""
    text = _QPUS.replace("{qpus}", " ".join(options.qpus)) if options.qpus else ""
    if options.emulated_qpus is not None:
        text += _EMULATED.replace("{file}", shlex.quote(options.emulated_qpus))
    return text


def _work(payload: Payload, options: SlurmOptions, mpi: str) -> str:
    """What starts the program, and ends what it needs."""
    engine = payload.engine
    per_task = " --gpus-per-task=1" if options.gpus_per_node and engine in ("mpi", "torch") else ""
    fillings = {"mpi": mpi, "tasks": str(options.tasks(payload)), "gpus": per_task, "ungpu": _UNGPU if per_task else ""}
    step = _STEP[engine]
    for name, value in fillings.items():
        step = step.replace(f"{{{name}}}", value)
    text = _RAY if engine == "ray" else ""
    if options.requeue and payload.parts:
        text += _FAR.replace("{parts}", shlex.quote(payload.parts))
    text += "\n# --- the work ---\n"
    text += (
        f'code=138 # what the program ends with once it is warned\nif [ "$warned" = no ]; then\n{indent(step, "  ")}\n'
    )
    text += "  step=$!\n" + (_WATCH.lstrip("\n") if engine == "ray" else "")
    text += '  finish "$step"\n  code=$?\nfi\n'
    text += _STOP_RAY if engine == "ray" else ""
    return text + (_DROP if options.emulated_qpus is not None else "")


def _directives(payload: Payload, options: SlurmOptions, site: Site, folder: Path, workdir: Path) -> list[str]:
    tasks = options.tasks(payload)
    cpus = options.cpus_per_task or site.cpus_per_task
    found = [
        f"--job-name={options.name or f'dqk-{payload.command}'}",
        f"--nodes={options.nodes}",
        f"--ntasks-per-node={tasks}",
        "--exclusive" if cpus is None else f"--cpus-per-task={cpus}",
    ]
    if options.gpus_per_node:
        kind = f"{site.gpu_type}:" if site.gpu_type else ""
        found.append(f"--gpus-per-node={kind}{options.gpus_per_node}")
    if options.time is not None:
        found.append(f"--time={options.time}")
    if options.qpu is not None:
        found.append(f"--qpu={options.qpu}")
    if options.array is not None:
        found.append(f"--array=1-{options.array}")
    log = folder / ("log-%A_%a.txt" if options.array is not None else "log-%j.txt")
    return [
        *found,
        f'--chdir="{workdir}"',
        f'--output="{log}"',
        "--open-mode=append",
        "--requeue" if options.requeue else "--no-requeue",
        f"--signal=B:USR1@{options.signal_s}",
        *site.directives(),
    ]


def _words(payload: Payload, options: SlurmOptions) -> str:
    shard = f' --shard "$SLURM_ARRAY_TASK_ID/{options.array}"' if options.array is not None else ""
    return shlex.join(payload.words) + shard


def _again(payload: Payload) -> Sequence[str]:
    words = payload.again()
    if not words:
        return ()
    return (f'if [ "${{SLURM_RESTART_COUNT:-0}}" -gt 0 ]; then payload+=({shlex.join(words)}); fi',)


def _python(site: Site, python: str) -> str:
    if site.container is not None:
        return f"{site.container} {shlex.quote(site.python or 'python')}"
    return shlex.quote(site.python or ("python" if site.venv else python))


def _comment(text: str) -> str:
    return text.replace("\n", " ")
