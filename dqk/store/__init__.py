"""The durable result: a matrix on disk, tile by tile, in zarr's format.

`GramStore` is the side that computes, `StoredGram` the side that reads, `TileWriter` what commits tiles in a worker.
"""

from dqk.store.digests import matrix_digest, numeric_class, tile_digest
from dqk.store.fingerprint import Fingerprint
from dqk.store.gram_store import GramStore
from dqk.store.grid import Grid
from dqk.store.stored import StoredGram
from dqk.store.writer import TileWriter

__all__ = [
    "Fingerprint",
    "GramStore",
    "Grid",
    "StoredGram",
    "TileWriter",
    "matrix_digest",
    "numeric_class",
    "tile_digest",
]
