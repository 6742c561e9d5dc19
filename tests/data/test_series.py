"""Series from CSV files and from statsmodels: what is read, what is filled, what is refused."""

from pathlib import Path

import numpy as np
import pytest

from dqk.data._statsmodels import shipped_series
from dqk.data.series import fill, read_series
from dqk.errors import DataFileError, InvalidInputError


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "series.csv"
        path.write_text(text)
        return path

    return write


def test_a_column_with_dates(write) -> None:
    path = write("month,co2,other\n1999-01,1.5,a\n1999-02,2,b\n\n1999-03,-3e1,c\n")
    series = read_series(path, "co2")
    assert series.values.tolist() == [1.5, 2.0, -30.0] and series.times == ("1999-01", "1999-02", "1999-03")
    assert not series.filled.any() and series.note == "" and series.season is None
    assert read_series(path, "co2").digest == series.digest


def test_rows_without_dates_keep_their_order(write) -> None:
    series = read_series(write("a,b\n3,1\n1,2\n"), "a")
    assert series.values.tolist() == [3.0, 1.0] and series.times == ("1", "2")


def test_missing_values_are_the_ones_before_them(write) -> None:
    path = write("year,v\n1,5\n2,\n3,NaN\n4,7\n5,na\n")
    with pytest.raises(
        DataFileError,
        match=r"3 of 5 values in column 'v' are missing \(lines 3, 4, 6\).*--missing previous \(missing='previous'\)",
    ):
        read_series(path, "v")
    series = read_series(path, "v", missing="previous")
    assert series.values.tolist() == [5, 5, 5, 7, 7] and series.filled.tolist() == [False, True, True, False, True]
    assert "3 missing values (lines 3, 4, 6)" in series.note


def test_filling_knows_nothing_of_later_values() -> None:
    values = np.array([1.0, np.nan, 3.0, np.nan, np.nan, 6.0])
    for cut in range(1, len(values)):
        changed = np.where(np.arange(len(values)) < cut, values, 99.0)
        assert fill(changed)[0][:cut].tolist() == fill(values)[0][:cut].tolist()


@pytest.mark.parametrize(
    ("text", "options", "kind", "says"),
    [
        (
            "date,v\n2001-01-02,1\n2001-01-01,2\n",
            {},
            DataFileError,
            "line 3: date is 2001-01-01, earlier than 2001-01-02",
        ),
        ("date,v\n2001-01-02,1\n2001-01-02,2\n", {}, DataFileError, "the same date as the line before"),
        ("date,v\nmonday,1\ntuesday,2\n", {}, DataFileError, "'monday' is not a date"),
        ("t,v\n2,1\n1,2\n", {"date_column": "t"}, DataFileError, "dates are out of order"),
        ("a,v\n1,1\n", {"date_column": "t"}, InvalidInputError, "has no column 't'; it has a, v"),
        ("a,b\n1,1\n", {}, InvalidInputError, "has no column 'v'"),
        ("a,v\n1,x\n", {}, DataFileError, "line 2: 'x' is not a number"),
        ("a,v\n1,inf\n", {}, DataFileError, "'inf', expected a finite number"),
        ("a,v\n1\n", {}, DataFileError, "line 2: 1 values, expected 2"),
        ("a,v\n", {}, DataFileError, "has 1 lines"),
        ("a,v\n1,\n2,3\n", {"missing": "previous"}, DataFileError, "line 2: the first value is missing"),
    ],
)
def test_bad_files(text: str, options: dict, kind: type, says: str, write) -> None:
    with pytest.raises(kind) as error:
        read_series(write(text), "v", **options)
    assert says in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="cannot read"):
        read_series(tmp_path / "none.csv", "v")


def test_the_shipped_series_are_those_of_statsmodels() -> None:
    """Months are means of the weeks that were measured; gaps carry the month before."""
    from statsmodels.datasets import co2, sunspots

    series = shipped_series("co2")
    weeks = co2.load_pandas().data["co2"]
    for k, month in enumerate(series.times):
        measured = weeks[month].dropna()
        expected = measured.mean() if len(measured) else series.values[k - 1]
        assert series.values[k] == pytest.approx(expected, rel=1e-12) and series.filled[k] == (not len(measured))
    assert (len(series), int(series.filled.sum()), series.season) == (526, 5, 12) and "1964-02" in series.note
    spots = shipped_series("sunspots")
    assert spots.values.tolist() == sunspots.load_pandas().data["SUNACTIVITY"].tolist() and spots.times[0] == "1700"
