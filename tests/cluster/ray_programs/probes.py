"""Opens a pool of two workers on whatever Ray it finds, asks each who it is, and prints one line of JSON.

With `hold`, it prints while the pool is open and then waits to be killed; with `lose`, one worker is killed before the end;
with `many`, the workers get tasks and arrays in turn.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from dqk._wire import pack, unpack
from dqk.cluster import Done, Lost
from dqk.cluster._ray import RayPool


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and that those have."""
    found = []
    for place in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, place.read_text().split()):
            found += [child, *descendants(child)]
    return found


def many(pool: RayPool) -> list[int]:
    """Tickets that came back, of tasks each of which finds what was put before it."""
    for k in range(10):
        pool.put(f"array {k}", {"x": np.full(1000, k)})
        for ticket in range(20 * k, 20 * k + 20):
            pool.submit(pool.workers()[ticket % 2].id, ticket, pack({"kind": "probe"}))
    returned = []
    while len(returned) < 200 and (events := pool.poll(60)):
        for event in events:
            assert isinstance(event, Done), event
            assert len(unpack(event.result)[0]["held"]) > event.ticket // 20
            returned.append(event.ticket)
    return sorted(returned + [event.ticket for event in pool.poll(1) if isinstance(event, Done)])


def main() -> None:
    signal.signal(signal.SIGTERM, handler := lambda *_: None)
    with RayPool(2, start_timeout_s=120) as pool:
        import ray

        for ticket, worker in enumerate(pool.workers()):
            pool.submit(worker.id, ticket, pack({"kind": "probe"}))
        events = []
        while sum(isinstance(event, Done) for event in events) < 2:
            events += pool.poll(60)
        pids = [unpack(event.result)[0]["pid"] for event in events if isinstance(event, Done)]
        seen = {
            "address": ray.get_runtime_context().gcs_address,
            "handler_kept": signal.getsignal(signal.SIGTERM) is handler,
            "pids": pids,
            "processes": {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in descendants(os.getpid())},
            "threads": [thread.name for thread in threading.enumerate()],
            "token": os.environ.get("RAY_AUTH_TOKEN"),
        }
        if "hold" in sys.argv:
            print(json.dumps(seen), flush=True)
            time.sleep(600)
        if "lose" in sys.argv:
            os.kill(pids[0], signal.SIGKILL)
            while not any(isinstance(event, Lost) for event in pool.poll(60)):
                pass
            time.sleep(1)  # in which Ray could say something
        if "many" in sys.argv:
            seen["tickets"] = many(pool)
    seen["handler_kept"] &= signal.getsignal(signal.SIGTERM) is handler
    seen["token_left"] = os.environ.get("RAY_AUTH_TOKEN")
    print(json.dumps(seen))


main()
