"""The series that statsmodels ships, so that forecasts can be tried without a file or a network."""

from __future__ import annotations

import numpy as np

from dqk.data.series import Series, fill
from dqk.errors import BackendUnavailableError


def shipped_series(name: str) -> Series:
    """The monthly CO2 of Mauna Loa, or the yearly sunspots.

    Args:
        name: `co2` or `sunspots`.

    Raises:
        BackendUnavailableError: if statsmodels is not installed.
    """
    try:
        from statsmodels.datasets import co2, sunspots
    except ImportError as error:
        raise BackendUnavailableError(
            f"series {name!r} needs statsmodels, which ships it: pip install 'dqk[forecast]'"
        ) from error
    if name == "co2":
        weeks = co2.load_pandas().data["co2"]
        months = weeks.resample("MS").mean()
        values, filled = fill(months.to_numpy(np.float64))
        times = tuple(f"{time:%Y-%m}" for time in months.index)
        gaps = ", ".join(time for time, gap in zip(times, filled, strict=True) if gap)
        note = (
            f"means of the months of {len(weeks):,} weeks, of which {int(weeks.isna().sum())} are missing; {int(filled.sum())} "
            f"months without any ({gaps}) have the values before them, and are never forecast"
        )
        return Series("co2", values, times, filled, 12, note, "ppm")
    years = sunspots.load_pandas().data
    values = years["SUNACTIVITY"].to_numpy(np.float64)
    times = tuple(str(int(year)) for year in years["YEAR"])
    return Series("sunspots", values, times, np.zeros(len(values), bool), 11, "a season is taken to be 11 years")
