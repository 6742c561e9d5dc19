"""A real Slurm on this machine: munged, slurmctld and several slurmd, as root, without systemd, ended by process number.

Every node has the address 127.0.<id>.<k>, or with `networks` a network interface, a host name and process numbers of its own, and
GPUs that are character devices without a driver. Slurm's files, the key of munge and
all sockets lie in one temporary folder with a short path; `environment()` is what its commands need.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
_PATIENCE_S = 60.0

_CONFIGURATION = """\
ClusterName=dqk
SlurmctldHost={host}({address})
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=200000,batch_sched_delay=0,max_switch_wait=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
MpiDefault=none
JobRequeue=1
ReturnToService=2
KillWait=5
MinJobAge=3600
GresTypes=gpu
NodeName=DEFAULT CPUs={cpus} RealMemory=4000 State=UNKNOWN Gres=gpu:tesla:{gpus}
{nodes}
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


def missing() -> str | None:
    """What this machine lacks for a Slurm of its own; None if nothing."""
    if os.geteuid() != 0:
        return "slurmctld and slurmd have to run as root"
    absent = [name for name in PROGRAMS if which(name) is None]
    return f"{', '.join(absent)} not installed (Debian: slurmctld slurmd slurm-client munge)" if absent else None


def which(name: str) -> str | None:
    """A program, also where daemons lie."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Network:
    """A bridge on this machine, and for each node a network namespace with an interface to it; the interfaces have no way out.

    Attributes:
        address: of this machine on the bridge.
    """

    def __init__(self, nodes: Sequence[str], folder: Path):
        self._mark = f"{os.getpid() % 100_000:x}"
        self._subnet, self._folder, self._nodes = f"10.77.{1 + os.getpid() % 250}", folder, nodes
        self.address = f"{self._subnet}.254"
        self._bridge = f"dqk{self._mark}"
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("address", "add", f"{self.address}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for k, name in enumerate(nodes):
            space, end = self._space(name), f"v{self._mark}{k}"
            _ip("netns", "add", space)
            _ip("link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", end, "master", self._bridge, "up")
            for words in (
                "address add {}/24 dev eth0",
                "link set eth0 up",
                "link set lo up",
                "route add default via {}",
            ):
                filled = words.format(self.address_of(k) if "address" in words else self.address)
                _ip("-netns", space, *filled.split())
        hosts = [f"{self.address} {socket.gethostname()}", "127.0.0.1 localhost"]
        hosts += [f"{self.address_of(k)} {name}" for k, name in enumerate(nodes)]
        (folder / "hosts").write_text("\n".join(hosts) + "\n")
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")

    def _space(self, name: str) -> str:
        return f"dqk{self._mark}-{name}"

    def address_of(self, k: int) -> str:
        """Of the k-th node."""
        return f"{self._subnet}.{k + 1}"

    def around(self, name: str) -> list[str]:
        """What stands before a program that is to run on a node. A shell is process 1 there, since somebody has to reap."""
        prepare = f"mkdir -p /tmp/ray {self._folder}/ray-{name}; mount --bind {self._folder}/ray-{name} /tmp/ray; "
        prepare += f"hostname {name}; mount --bind {self._folder}/hosts /etc/hosts; "
        prepare += f"mount --bind {self._folder}/resolv.conf $(readlink -f /etc/resolv.conf); "
        inside = ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        shell = ["bash", "-c", prepare + 'trap "kill %1" TERM; "$@" & wait; wait', "bash"]
        return ["nsenter", f"--net=/run/netns/{self._space(name)}", *inside, *shell]

    def remove(self) -> None:
        """Takes it all away."""
        for name in self._nodes:
            _ip("netns", "delete", self._space(name))
        _ip("link", "delete", self._bridge)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)


@dataclass
class Slurm:
    """A cluster that runs.

    Attributes:
        folder: all its files.
        nodes: names.
    """

    folder: Path
    nodes: tuple[str, ...]
    network: Network | None = None
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """For programs that use it: nothing of another Slurm, SLURM_CONF, and no limit of this test session's threads."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "PMI", "RAY_"))}
        return {**kept, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 120, **more: object
    ) -> subprocess.CompletedProcess:
        """A command of Slurm, or one that calls them."""
        done = subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, timeout=timeout_s, **more
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.logs()}")
        return done

    def state(self, job: str) -> str:
        """Of a job: PENDING, RUNNING, COMPLETED, FAILED, CANCELLED ..."""
        shown = self.run("scontrol", "show", "job", "--oneliner", job).stdout
        return dict(part.split("=", 1) for part in shown.split() if "=" in part)["JobState"]

    def wait(self, job: str, *states: str, timeout_s: float = 120) -> str:
        """Until a job is in one of some states; by default until it has ended."""
        states = states or ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED")
        deadline = time.monotonic() + timeout_s
        while (found := self.state(job)) not in states:
            if time.monotonic() > deadline:
                raise AssertionError(f"job {job} is {found} after {timeout_s:g} s\n{self.logs()}")
            time.sleep(0.1)
        return found

    def logs(self, lines: int = 15) -> str:
        """The ends of what the daemons wrote."""
        return "\n".join(
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
            for path in sorted(self.folder.glob("*.log"))
        )


@contextlib.contextmanager
def slurm(n_nodes: int = 4, cpus: int = 2, gpus: int = 2, networks: bool = False) -> Iterator[Slurm]:
    """Starts a cluster, waits until its nodes are idle, and ends it.

    Args:
        n_nodes: nodes n1, n2, ...
        cpus: of each node, whatever the machine has.
        gpus: of each node.
        networks: whether each node has a network, a host name and process numbers of its own.
    """
    folder = Path(tempfile.mkdtemp(prefix="dqk-slurm-", dir="/tmp"))
    cluster = Slurm(folder, tuple(f"n{k + 1}" for k in range(n_nodes)))
    try:
        if networks:
            cluster.network = Network(cluster.nodes, folder)
        _configure(cluster, cpus, gpus)
        _start(cluster)
        yield cluster
    finally:
        _end(cluster)
        if cluster.network is not None:
            cluster.network.remove()
        shutil.rmtree(folder, ignore_errors=True)


def _configure(cluster: Slurm, cpus: int, gpus: int) -> None:
    folder, net = cluster.folder, 1 + os.getpid() % 250
    folder.chmod(0o755)
    ports = _free_ports(1 + len(cluster.nodes))
    if cluster.network is None:
        address, host = "127.0.0.1", socket.gethostname()
        places = [(host, f"127.0.{net}.{k + 1}") for k in range(len(cluster.nodes))]
    else:
        address = cluster.network.address
        places = [(name, cluster.network.address_of(k)) for k, name in enumerate(cluster.nodes)]
    nodes = [
        f"NodeName={name} NodeHostname={host} NodeAddr={where} Port={ports[k + 1]}"
        for k, (name, (host, where)) in enumerate(zip(cluster.nodes, places, strict=True))
    ]
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text(
        _CONFIGURATION.format(
            host=socket.gethostname(),
            address=address,
            port=ports[0],
            folder=folder,
            cpus=cpus,
            gpus=gpus,
            nodes="\n".join(nodes),
        )
    )
    devices = folder / "devices"
    devices.mkdir()
    for k in range(gpus):
        os.mknod(devices / f"gpu{k}", stat.S_IFCHR | 0o666, os.makedev(1, 3))  # /dev/null by another name
    (folder / "gres.conf").write_text(f"Name=gpu Type=tesla File={devices}/gpu[0-{gpus - 1}]\n" if gpus > 1 else "")
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for found in sockets:
        found.bind(("127.0.0.1", 0))
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def _start(cluster: Slurm) -> None:
    folder = cluster.folder
    munge = [
        f"--{name}={folder}/munge.{end}"
        for name, end in (
            ("key-file", "key"),
            ("socket", "socket"),
            ("pid-file", "pid"),
            ("log-file", "log"),
            ("seed-file", "seed"),
        )
    ]
    _spawn(cluster, "munged", ["--foreground", "--force", *munge])
    _until(cluster, lambda: (folder / "munge.socket").exists())
    _spawn(cluster, "slurmctld", ["-D", "-f", str(folder / "slurm.conf")])
    for name in cluster.nodes:
        (folder / f"spool-{name}").mkdir()
        around = () if cluster.network is None else cluster.network.around(name)
        _spawn(cluster, f"slurmd {name}", ["-D", "-N", name, "-f", str(folder / "slurm.conf")], around)
    idle = len(cluster.nodes)
    _until(
        cluster,
        lambda: cluster.run("sinfo", "-h", "-N", "-p", "main", "-t", "idle", check=False).stdout.count("\n") == idle,
    )


def _spawn(cluster: Slurm, name: str, arguments: Sequence[str], around: Sequence[str] = ()) -> None:
    program = which(name.split()[0])
    assert program is not None
    log = (cluster.folder / f"{name.replace(' ', '-')}.out.log").open("wb")
    cluster.processes[name] = subprocess.Popen(
        [*around, program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=cluster.environment(),
        start_new_session=True,
    )
    log.close()


def _until(cluster: Slurm, true: object) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not true():  # type: ignore[operator]
        for name, process in cluster.processes.items():
            if process.poll() is not None:
                raise AssertionError(f"{name} ended with {process.returncode}\n{cluster.logs()}")
        if time.monotonic() > deadline:
            raise AssertionError(f"Slurm is not ready after {_PATIENCE_S:g} s\n{cluster.logs()}")
        time.sleep(0.1)


def _end(cluster: Slurm) -> None:
    """Jobs first, then the daemons, the last one started first."""
    if "slurmctld" in cluster.processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            cluster.run("scancel", "--full", "--user=root", check=False, timeout_s=20)
            deadline = time.monotonic() + 15
            while cluster.run("squeue", "-h", check=False, timeout_s=20).stdout.strip() and time.monotonic() < deadline:
                time.sleep(0.1)
    for process in reversed(list(cluster.processes.values())):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
