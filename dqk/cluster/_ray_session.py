"""Ray itself: the one that runs already, the one at an address, or one of our own, which ends with us."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from dqk.errors import BackendUnavailableError, ClusterError

_LONGEST_TEMP = 30  # Ray adds 70 characters to the path of its sockets, which may have 107
_PATIENCE_S = 5.0  # with a cluster that may just be starting


def ray_module() -> Any:
    """Ray, imported when it is first needed.

    Raises:
        BackendUnavailableError: if it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise BackendUnavailableError(
            f"the executor 'ray' needs Ray, which cannot be imported ({error}); pip install 'dqk[ray]'"
        ) from error
    return ray


def session_of(ray: Any) -> tuple[str, str] | None:
    """What tells the Ray that this process uses from any that it uses later; None if it uses none."""
    if not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_job_id()


@contextlib.contextmanager
def _leaving(ray: Any) -> Iterator[None]:
    """Shuts down the Ray that is used now, unless that was done and another one is used at the end."""
    session = session_of(ray)
    try:
        yield
    finally:
        if session_of(ray) == session:
            ray.shutdown()


@contextlib.contextmanager
def ray_session(address: str | None, cpus: float) -> Iterator[bool]:
    """A Ray to work with. What was running before runs on afterwards. Gives whether it is our own.

    Args:
        address: of a cluster; None for the Ray that this process uses already, else RAY_ADDRESS, else a Ray of our own.
        cpus: logical CPUs of a Ray of our own.

    Raises:
        BackendUnavailableError: if Ray is not installed.
        ClusterError: if no Ray answers at the address.
    """
    ray = ray_module()
    if ray.is_initialized():
        if address is not None:
            raise ClusterError(
                f"this process uses the Ray at {ray.get_runtime_context().gcs_address} already, so that it cannot use the one "
                f"at {address!r}; leave the address out, or call ray.shutdown() before"
            )
        yield False
        return
    with _sigterm_kept():
        where = address or os.environ.get("RAY_ADDRESS") or "local"
        with _own_ray(ray, cpus) if where == "local" else _cluster(ray, where):
            yield where == "local"


@contextlib.contextmanager
def _cluster(ray: Any, address: str) -> Iterator[None]:
    if address.startswith("ray://"):
        raise ClusterError(
            f"the address {address!r} (given, or RAY_ADDRESS) is one of Ray Client, over which results would travel twice; run "
            "this on a node of the cluster with RAY_ADDRESS=auto, or hand it in with `ray job submit`"
        )
    advice = "start one with `ray start --head`, or unset RAY_ADDRESS to have one started on this machine"
    if (error := _unreachable(address)) is not None:
        raise ClusterError(f"no Ray answers at {address!r} (the address given, or RAY_ADDRESS): {error}; {advice}")
    try:
        _init(ray, address=address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"cannot use the Ray at {address!r} (the address given, or RAY_ADDRESS): {error}; {advice}"
        ) from error
    with _leaving(ray):
        yield


def _unreachable(address: str) -> OSError | None:
    """Why nothing listens at `host:port`, where Ray itself would try for minutes; other kinds of addresses are left to Ray."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return None
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE_S).close()
            return None
        except OSError as error:
            if time.monotonic() > deadline:
                return error
            time.sleep(0.5)


@contextlib.contextmanager
def _own_ray(ray: Any, cpus: float) -> Iterator[None]:
    parent = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="dqk-ray-", dir=parent if len(parent) <= _LONGEST_TEMP else "/tmp")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(private_environment())
        try:
            _init(
                ray,
                address="local",
                num_cpus=math.ceil(cpus),
                include_dashboard=False,
                _temp_dir=folder,
                # Ray would start a worker for each CPU, none of which has the environment of ours.
                _system_config={"prestart_worker_first_driver": False},
            )
        except (OSError, RuntimeError, ValueError) as error:
            ray.shutdown()
            raise ClusterError(f"Ray cannot be started on this machine: {error}") from error
        with _leaving(ray):
            yield


@contextlib.contextmanager
def private_environment() -> Iterator[None]:
    """The environment of a Ray of our own: only this user's processes may talk to it, as it listens on the network."""
    wanted = {
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # no warning about workers without a GPU
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    if "RAY_AUTH_MODE" not in os.environ:
        wanted |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    _read_environment_again()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_environment_again()


def _read_environment_again() -> None:
    """Has Ray look at RAY_AUTH_*, which it reads once for each process."""
    with contextlib.suppress(ImportError):  # Rays without authentication
        from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Keeps the handler of SIGTERM, which `ray.init` replaces by one that ends the process in order.

    Ray's stays for as long as Ray is used where there was none: processes of Ray end in order, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _init(ray: Any, **options: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
    with contextlib.suppress(AttributeError):
        # Ray prints to stdout, where our results go, that a worker died; `Lost` says it instead. As in its own `disconnect`:
        worker = ray._private.worker.global_worker
        worker.threads_stopped.set()
        worker.gcs_error_subscriber.close()
