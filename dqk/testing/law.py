"""A law: a named check, and whom it binds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Law:
    """A check that raises AssertionError if its subject breaks the law.

    Attributes:
        check: called with the subject and what it is checked on.
        binds: whether the law holds for a subject; a sampled backend, say, need not be symmetric.
    """

    check: Callable[..., None]
    binds: Callable[[Any], bool]

    @property
    def name(self) -> str:
        """The check's name."""
        return self.check.__name__

    def applies(self, subject: Any) -> bool:
        """Whether the subject promises this law."""
        return self.binds(subject)

    def __call__(self, subject: Any, *arguments: Any) -> None:
        """Raises AssertionError, naming the law, if the subject breaks it."""
        try:
            self.check(subject, *arguments)
        except AssertionError as error:
            raise AssertionError(f"law {self.name!r}: {error}") from error


def laws_in(*modules: ModuleType) -> tuple[Law, ...]:
    """The laws that some modules define, in order."""
    return tuple(value for module in modules for value in vars(module).values() if isinstance(value, Law))
