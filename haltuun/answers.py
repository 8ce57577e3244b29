"""Answers of AWS that are not as its API says."""

from __future__ import annotations

import logging

from haltuun.model import Unknown

log = logging.getLogger("haltuun")

# What reading an answer raises that lacks a member, or has one of another kind.
ODD_ANSWER = (LookupError, TypeError, ValueError, AttributeError)


def odd_answer(error: Exception) -> Unknown:
    """What stands for such an answer; the log has where it was read."""
    log.warning("an answer of AWS could not be read", exc_info=error)
    why = f"{type(error).__name__}: {error}"
    return Unknown(unknown=f"UNREADABLE: an answer of AWS is not as its API says ({why})")
