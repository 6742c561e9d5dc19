"""In which pieces: tiles of a kernel matrix. Pure: no I/O, no clock, no knowledge of workers."""

from dqk.scheduler.tiles import Tile, blocks, partition

__all__ = ["Tile", "blocks", "partition"]
