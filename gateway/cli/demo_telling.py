"""How the demo's stories are told."""

from __future__ import annotations


class StepFailed(Exception):
    """A step did not go as it must."""


def say(text: str) -> None:
    """One line below a step."""
    print(f"   {text}", flush=True)


def must(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Errors: StepFailed."""
    if not holds:
        raise StepFailed(otherwise)
