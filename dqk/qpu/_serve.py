"""Runs the service: a socket, uvicorn, and the words on the terminal."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dqk.errors import BackendUnavailableError, ClusterError, InvalidInputError, UnsupportedError, whole_number
from dqk.qpu.jobs import JobStore
from dqk.qpu.profile import Profile
from dqk.qpu.records import TOKEN_VARIABLE, check_token, read_tokens


def serve(
    n_qubits: int,
    profile: Profile,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token_file: Path | None = None,
    data: Path | None = None,
    ready: Callable[[str], None],
    note: Callable[[str], None],
) -> None:
    """Serves until the process is told to end.

    Args:
        n_qubits: of the device.
        profile: what the device is like.
        host: address to listen at.
        port: to listen at, 0 for a free one.
        token_file: tokens, one in each line; that of DQK_QPU_TOKEN is taken, too.
        data: folder in which jobs survive; None to keep them in memory.
        ready: is told the URL once requests are answered.
        note: is told what the user should know.

    Raises:
        InvalidInputError: if something cannot be used as given.
        UnsupportedError: if the device is too wide to be emulated.
        BackendUnavailableError: if the extra `qpu` is not installed.
        ClusterError: if the address is taken.
    """
    try:
        import uvicorn  # noqa: F401

        from dqk.qpu._api import Service
    except ImportError as error:
        raise BackendUnavailableError(f"the QPU service needs {error.name}: pip install 'dqk[qpu]'") from error
    from dqk.qpu import _simulate

    _check_width(n_qubits, profile, _simulate)
    _make_folder(data)
    tokens = _tokens(token_file)
    if not tokens:
        if not _is_loopback(host):
            raise InvalidInputError(
                f"without tokens the service listens at 127.0.0.1 only, not at {host}: give --token-file, or set {TOKEN_VARIABLE}"
            )
        note("note: no token is asked for; everybody on this machine can use the service (--token-file changes that)")
    if data is None:
        note("note: jobs are kept in memory and end with the service (--data keeps them)")
    listener = _listen(host, port)
    store = JobStore(data)
    if store.interrupted:
        note(f"{store.interrupted} interrupted job{'s' * (store.interrupted != 1)} will run again")
    _simulate.warm_up(profile.noise)
    service = Service(store, profile, n_qubits)
    try:
        _run(service, tokens, listener, lambda: ready(_url(host, listener)))
    finally:
        service.stop()
        store.close()


def _run(service: Any, tokens: list[str], listener: socket.socket, ready: Callable[[], None]) -> None:
    import uvicorn

    from dqk.qpu._api import create_app
    from dqk.qpu._gate import owners_of

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready()

    config = uvicorn.Config(
        create_app(service, owners_of(tokens)),
        log_config=None,  # warnings and errors alone, and no line that has a URL or a header in it
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    Server(config).run(sockets=[listener])


def _check_width(n_qubits: int, profile: Profile, simulate: Any) -> None:
    whole_number("--qubits", n_qubits, 1)
    if n_qubits > simulate.MAX_QUBITS:
        raise UnsupportedError(f"--qubits is {n_qubits}, at most {simulate.MAX_QUBITS} can be emulated")
    if profile.noise.of_gates and n_qubits > simulate.MAX_MIXED_QUBITS:
        raise UnsupportedError(
            f"--qubits is {n_qubits}, with noise in gates at most {simulate.MAX_MIXED_QUBITS} can be emulated; "
            "readout errors alone can be had on more"
        )


def _make_folder(data: Path | None) -> None:
    if data is None:
        return
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (FileExistsError, NotADirectoryError) as error:
        file = next(path for path in (data, *data.parents) if path.is_file())
        raise InvalidInputError(
            f"--data {data}: {file} is a file, expected a folder, a new one or that of an earlier service"
        ) from error
    except OSError as error:
        raise InvalidInputError(
            f"--data {data}: cannot be made: {error.strerror}; choose a folder that can be written to"
        ) from error


def _tokens(file: Path | None) -> list[str]:
    tokens = [] if file is None else read_tokens(file)
    own = os.environ.get(TOKEN_VARIABLE)
    if own:
        tokens.append(check_token(own, TOKEN_VARIABLE))
    return list(dict.fromkeys(tokens))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidInputError(f"--host is {host!r}: {error.strerror}") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise ClusterError(
            f"cannot listen at {host} port {port}: {error.strerror}; choose another --port, or 0 for a free one"
        ) from error
    listener.set_inheritable(True)
    return listener


def _url(host: str, listener: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
