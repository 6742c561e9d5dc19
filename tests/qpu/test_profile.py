"""Profiles: what is wrong with one is said at once, and the example is right."""

from pathlib import Path

import pytest

from dqk.errors import InvalidInputError
from dqk.qpu.profile import Outage, Profile

EXAMPLE = Path(__file__).parents[2] / "examples" / "qpu" / "profile.toml"


def read(folder: Path, text: str) -> Profile:
    (folder / "p.toml").write_text(text)
    return Profile.read(folder / "p.toml")


def test_the_example_says_every_key() -> None:
    import tomllib
    from dataclasses import fields, is_dataclass

    given = tomllib.loads(EXAMPLE.read_text())
    assert given.keys() == {field.name for field in fields(Profile)}
    for field in fields(Profile):
        if is_dataclass(field.default):
            named = {inner.name for inner in fields(field.default)} - {"file"}  # only a trace has one: a comment
            assert given[field.name].keys() == named, field.name
    profile = Profile.read(EXAMPLE)
    assert profile.outage == (Outage(3600.0, 120.0, 86400.0),)
    assert profile.times.seconds(300, 1000) == pytest.approx(0.5 + 300 * (0.001 + 1000 * 0.00002))
    assert profile.times.seconds(300, 1000, follows=True) == pytest.approx(0.05 + 300 * (0.001 + 1000 * 0.00002))


def test_nothing_said_is_an_ideal_device(tmp_path: Path) -> None:
    profile = read(tmp_path, "")
    assert profile == Profile()
    assert not profile.noise.any and not profile.outage and profile.times.seconds(100, 1000) == 0.0


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read(
            tmp_path,
            """
            nam = "x"
            noise = 3
            [limits]
            max_shots = 0
            max_open_jobs = 1.5
            [times]
            job_s = -1
            shots_s = 2
            circuit_s = "fast"
            session_job_s = true
            [drift]
            calibrate_every_s = 0.0
            [failures]
            job = 1.5
            refused = nan
            [price]
            currency = ""
            [[outage]]
            start_s = 1
            [[outage]]
            start_s = 1
            duration_s = 10
            every_s = 5
            """,
        )
    said = str(caught.value).splitlines()
    for expected in (
        "unknown key 'nam'; did you mean 'name'?",
        "noise is 3, expected a table: [noise]",
        "limits.max_shots is 0, expected a whole number of at least 1",
        "limits.max_open_jobs is 1.5, expected a whole number",
        "times.job_s is -1, expected a number of at least 0",
        "unknown key of [times] 'shots_s'; did you mean 'shot_s'?",
        "times.circuit_s is 'fast', expected a number",
        "times.session_job_s is True, expected a number",
        "drift.calibrate_every_s is 0.0, expected a number above 0",
        "failures.job is 1.5, expected a number of at least 0 and at most 1",
        "failures.refused is nan",
        "price.currency is ''",
        "outage 1 lacks duration_s",
        "outage 2: every_s is 5, expected more than duration_s, 10",
    ):
        assert any(line.startswith(expected) for line in said), (expected, said)
    assert len(said) == 15


@pytest.mark.parametrize(("text", "message"), [("a = ", "is not TOML"), (None, "cannot be read")])
def test_files_that_are_no_profile(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "p.toml").write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        Profile.read(tmp_path / "p.toml")
