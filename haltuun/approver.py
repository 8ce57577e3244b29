"""Who is recorded as the one who approved. Pure."""

from __future__ import annotations

from haltuun.errors import ConfigError
from haltuun.redaction import redact
from haltuun.report.render import plain

LONGEST = 100


def approver(given: str, *, deployed: bool, user: str) -> str:
    """The name for the record: as it was given, else the `user` whose process this is.

    Through a deployment a name must be given: whoever started it, the process is the worker's, and a
    self-hosted Prefect server has one login for all.

    Raises:
        ConfigError: no name where one must be given, or one too long to be one.
    """
    name = redact(plain(given))
    if len(name) > LONGEST:
        raise _refused(f"a name has at most {LONGEST} characters, this has {len(name)}.")
    if deployed and not name:
        raise _refused("nobody knows who approves: the Prefect server's login names no person.")
    if deployed:
        return f"{name} (as given to the deployment)"
    return f"{name} (as given by {user})" if name else user


def _refused(message: str) -> ConfigError:
    return ConfigError(
        message,
        subject="approved_by",
        remedy="Nothing was done. Start it again with your name there; it is recorded with the approval.",
        code="APPROVER_UNKNOWN",
    )
