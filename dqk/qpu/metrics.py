"""What Prometheus reads. Sums over all tokens; nothing about one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dqk.qpu.jobs import JobStore
from dqk.qpu.profile import Profile

STATES = ("queued", "running", "done", "failed", "cancelled")


def metrics(store: JobStore, calibration: Mapping[str, Any], profile: Profile, answers: Mapping[int, int]) -> str:
    """The text of `/metrics`.

    Args:
        store: the jobs.
        calibration: probabilities of errors now.
        profile: of the device.
        answers: how often each HTTP status was answered.
    """
    totals = store.totals()
    done = totals.get("done", {})
    lines = _family(
        "dqk_qpu_up", "gauge", "Whether the device works", {"": float(not profile.outage_left_s(store.age_s))}
    )
    lines += _family(
        "dqk_qpu_jobs",
        "gauge",
        "Jobs by state",
        {f'state="{state}"': totals.get(state, {}).get("jobs", 0) for state in STATES},
    )
    for name, text in (
        ("circuits", "Circuits"),
        ("shots", "Shots"),
        ("seconds", "Seconds charged"),
        ("price", "Price"),
    ):
        lines += _family(f"dqk_qpu_{name}_total", "counter", f"{text} of jobs that are done", {"": done.get(name, 0)})
    runs = sum(row["runs"] for row in totals.values())
    lines += _family("dqk_qpu_runs_total", "counter", "Times that a job was started", {"": runs})
    errors = {f'error="{name}"': value for name, value in calibration.items() if name != "calibrated_s_ago"}
    lines += _family("dqk_qpu_error_probability", "gauge", "Probabilities of errors now", errors)
    ago = {"": calibration["calibrated_s_ago"]}
    lines += _family("dqk_qpu_calibrated_seconds_ago", "gauge", "Seconds since the last calibration", ago)
    by_status = {f'status="{status}"': count for status, count in sorted(answers.items())}
    lines += _family("dqk_qpu_http_answers_total", "counter", "Answers by HTTP status", by_status)
    return "\n".join(lines) + "\n"


def _family(name: str, kind: str, text: str, values: Mapping[str, float]) -> list[str]:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    return lines + [f"{name}{f'{{{labels}}}' if labels else ''} {float(value)!r}" for labels, value in values.items()]
