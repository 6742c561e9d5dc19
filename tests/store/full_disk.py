"""What a store does on a small tmpfs that fills up: run in a mount namespace of its own, with an empty folder to mount it on."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from dqk.errors import StoreError
from dqk.store import GramStore
from dqk.store.check import verify
from tests.store.problems import angles, compute, fill, fingerprint, matrix


def main(folder: Path) -> None:
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "dqk-test", str(disk)], check=True)
    path, ax = disk / "K.zarr", angles(61)
    k = matrix(ax)
    with GramStore.open(path, fingerprint(ax)) as store:
        with pytest.raises(StoreError, match="No space left on device; make room"):
            fill(store, k)
        done = dict(store.done)
        assert done and store.reload().done == done
    assert not verify(path).damaged
    # So full that not even the lease fits.
    with pytest.raises(OSError) as error, (disk / "filler").open("wb") as stream:
        while True:
            stream.write(bytes(4096))
            stream.flush()
    assert error.value.errno == errno.ENOSPC
    with pytest.raises(StoreError, match="No space left on device"):
        GramStore.open(path, fingerprint(ax), resume=True)
    (disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
    with GramStore.open(path, fingerprint(ax), resume=True) as store:
        assert store.done == done
        assert fill(store, k) == store.total - len(done)
        assert store.digest() == compute(folder / "whole.zarr", 61)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
