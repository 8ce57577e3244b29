"""What can go wrong with a lab, as one sentence and a remedy."""

from __future__ import annotations


class LabError(Exception):
    """A lab cannot be brought up, changed or taken down."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy
