"""Slurm's nodes: their names in its short form, and where they can be reached."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess

from dqk.errors import ClusterError


def expand(nodes: str) -> list[str]:
    """The names in Slurm's short form.

    Example:
        >>> expand("login,node[01-03,7]-ib,n[1-2]x[5,9]")
        ['login', 'node01-ib', 'node02-ib', 'node03-ib', 'node7-ib', 'n1x5', 'n1x9', 'n2x5', 'n2x9']
    """
    # A comma separates names where it is not inside brackets.
    return [name for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodes) for name in _expanded(part)]


def _expanded(pattern: str) -> list[str]:
    head, opened, rest = pattern.partition("[")
    if not opened:
        return [head]
    inside, _, tail = rest.partition("]")
    numbers: list[str] = []
    for piece in inside.split(","):
        first, _, last = piece.partition("-")
        numbers += [f"{number:0{len(first)}d}" for number in range(int(first), int(last or first) + 1)]
    return [f"{head}{number}{end}" for number in numbers for end in _expanded(tail)]


def address_of(node: str) -> str:
    """Where a node can be reached: its name, or what Slurm knows where the name says nothing.

    Raises:
        ClusterError: if neither is known.
    """
    try:
        socket.getaddrinfo(node, None)
        return node
    except OSError as error:
        address = _slurm_address(node)
        if address is None or address == node:
            raise ClusterError(
                f"the node {node!r} has no address here ({error}), and scontrol knows none; set MASTER_ADDR to that of rank 0"
            ) from error
        return address


def _slurm_address(node: str) -> str | None:
    """What Slurm calls it; None without Slurm."""
    command = ["scontrol", "show", "node", "--oneliner", node]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\bNodeAddr=(\S+)", shown)
    return found[1] if found else None


def ip_of(node: str) -> str:
    """A node's IPv4 address as other nodes know it.

    A node's own name may mean its loopback interface on the node itself; then Slurm is asked, then the interface that would
    reach other machines.

    Raises:
        ClusterError: if there is none.
    """
    found = socket.gethostbyname(address_of(node))
    if not found.startswith("127."):
        return found
    with contextlib.suppress(OSError):
        known = _slurm_address(node)
        address = socket.gethostbyname(known) if known else found
        if known == found or not address.startswith("127."):  # the former where several nodes are on one machine
            return address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation; nothing is sent
        except OSError:
            return found
        ip: str = probe.getsockname()[0]
        return ip
