"""The laws of plans: every entry exactly once, shards that nobody can disagree about, few blocks to encode."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dqk.errors import InvalidInputError, MemoryBoundError
from dqk.scheduler import Tile, TileCost, blocks, blocks_that_fit, plan

COST = TileCost(encode_s=0.02, tile_s=0.01)
shapes = st.builds(
    lambda n, m, symmetric: (n, n if symmetric else m, symmetric),
    st.integers(0, 150),
    st.integers(0, 150),
    st.booleans(),
)
sides = st.integers(1, 40)
keeps = st.integers(2, 200)
costs = st.builds(TileCost, st.floats(0, 10), st.floats(1e-6, 10))


def tiles_of(made) -> list[tuple[int, int]]:
    return [tuple(pair) for pair in made.tiles.tolist()]


@given(shapes, sides, keeps)
@settings(max_examples=200, deadline=None)
def test_every_entry_exactly_once(shape, side, keep):
    n, m, symmetric = shape
    made = plan(n, m, symmetric, side, COST, keep)
    rows, columns = blocks(n, side), blocks(m, side)
    seen = np.zeros((n, m), int)
    for item in range(len(made)):
        tile = made.tile(item)
        seen[rows[tile.row], columns[tile.column]] += 1
        if symmetric and not tile.is_diagonal:
            seen[columns[tile.column], rows[tile.row]] += 1
    assert (seen == 1).all()
    assert len(made.seconds) == len(made) and (made.seconds > 0).all()


@given(shapes, sides, keeps, keeps, costs, costs)
@settings(max_examples=100, deadline=None)
def test_neither_memory_nor_speed_changes_the_grid(shape, side, keep, other_keep, cost, other_cost):
    one, other = (tiles_of(plan(*shape, side, c, k)) for c, k in ((cost, keep), (other_cost, other_keep)))
    assert sorted(one) == sorted(other)


@given(shapes, sides, st.lists(keeps, min_size=9, max_size=9), costs, st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_shards_are_disjoint_complete_and_equal_although_every_node_is_different(shape, side, memories, cost, k):
    parts = [tiles_of(plan(*shape, side, cost if i % 2 else COST, memories[i], (i + 1, k))) for i in range(k)]
    whole = tiles_of(plan(*shape, side, COST, 50))
    assert sorted(tile for part in parts for tile in part) == sorted(whole)
    rows, columns = ([part.stop - part.start for part in blocks(n, side)] for n in shape[:2])
    padded = [[min(side, -(-count // 8) * 8) for count in counts] for counts in (rows, columns)]
    entries = [sum(padded[0][r] * padded[1][c] for r, c in part) for part in parts]
    assert max(entries) - min(entries) <= 2 * side**2


@given(st.integers(1, 120), st.integers(0, 60), sides, keeps)
@settings(max_examples=100, deadline=None)
def test_growth_keeps_the_old_tiles(n, more, side, keep):
    small, large = (tiles_of(plan(size, size, True, side, COST, keep)) for size in (n, n + more))
    assert set(small) <= set(large)


def encodings(tiles: list[tuple[int, int]], keep: int) -> int:
    """Blocks that a worker encodes which keeps the most recently used ones, as workers do."""
    kept: OrderedDict[int, None] = OrderedDict()
    count = 0
    for tile in tiles:
        for block in tile:
            count += block not in kept
            kept[block] = None
            kept.move_to_end(block)
            if len(kept) > keep:
                kept.popitem(last=False)
    return count


@pytest.mark.parametrize(("keep", "most"), [(1000, 100), (48, 440), (12, 700)])
def test_neighbours_share_blocks(keep, most):
    """100 blocks, 5,050 tiles: each block once if all fit; with little memory one for 12 (9) tiles."""
    made = tiles_of(plan(1000, 1000, True, 10, COST, keep))
    assert len(made) == 5050
    assert encodings(made, keep) <= most
    assert encodings(sorted(made), keep) >= most  # row after row


def test_a_stretch_for_one_of_many_workers_needs_few_blocks():
    """With 32 workers, each of 158 tiles: about 2 x 12.6 blocks for a square, all 100 for whole columns."""
    made = tiles_of(plan(1000, 1000, True, 10, COST, 1000))
    parts = np.array_split(np.array(made), 32)
    assert max(encodings([tuple(pair) for pair in part.tolist()], 1000) for part in parts) <= 50


def test_ragged_and_shared_work_is_cheaper():
    made = plan(210, 210, True, 100, TileCost(encode_s=0.0, tile_s=1.0), 10)
    seconds = dict(zip(tiles_of(made), made.seconds, strict=True))
    assert seconds[0, 0] == 1.0
    assert seconds[0, 2] == pytest.approx(0.16) and seconds[2, 2] == pytest.approx(0.16**2)  # 10 samples, padded to 16
    encoding = plan(800, 800, False, 100, TileCost(encode_s=1.0, tile_s=0.0), 1000)
    assert encoding.seconds.sum() == pytest.approx(16.0)  # 8 blocks of rows, 8 of columns
    assert encoding.tile(0) == Tile(0, 0)


@given(st.integers(0, 10**9), st.integers(1, 10**8), st.integers(0, 10**8), st.integers(1, 64))
def test_no_tile_over_the_memory_bound(bound, block, tile, threads):
    if 2 * block + threads * tile > bound:
        with pytest.raises(MemoryBoundError, match="DQK_MEMORY_MIB"):
            blocks_that_fit(bound, block, tile, threads)
    else:
        keep = blocks_that_fit(bound, block, tile, threads)
        assert keep >= 2 and keep * block + threads * tile <= bound < (keep + 1) * block + threads * tile


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((10, 10, True, 0, COST, 10), "side 0"),
        ((-1, 10, False, 8, COST, 10), "-1 x 10"),
        ((10, 11, True, 8, COST, 10), "equal ones if symmetric"),
        ((10, 10, True, 8, COST, 1), "2 blocks or more"),
        ((10, 10, True, 8, COST, 9, (0, 4)), "shard 0/4"),
        ((10, 10, True, 8, COST, 9, (5, 4)), "shard 5/4, expected i/k with 1 <= i <= k"),
    ],
)
def test_what_cannot_be_planned(arguments, says):
    with pytest.raises(InvalidInputError, match=says):
        plan(*arguments)
