"""The published numbers, and formulas that give what was counted."""

import re

from dqk.training.table1 import table1

EXPECTED = [477, 183, 199, 273, 113, 213, 289, 337]


def test_counts_and_formulas() -> None:
    rows = table1()
    assert [row.parameters for row in rows] == EXPECTED
    for row in rows:
        arithmetic = re.sub(r"\([^()]*[A-Za-z][^()]*\)", "", row.formula)  # drop the names of the parts
        assert re.fullmatch(r"[0-9 +*()]+", arithmetic)
        assert eval(arithmetic) == row.expected == row.parameters
        assert row.note


def test_which_numbers_are_the_papers() -> None:
    assert {row.name: row.paper for row in table1() if row.paper} == {"LSTM": 477, "QK-LSTM": 183}
