"""The release that this stand-in follows; the packager writes another number here when asked for one."""

from __future__ import annotations

VERSION = "3.3.1142.0"

# Of amazon-ssm-agent issue 277: those before cannot use session tokens.
TOKENS_SINCE = (2, 3, 814, 0)


def sends_tokens() -> bool:
    """Whether this release asks the instance metadata with a session token."""
    return tuple(map(int, VERSION.split("."))) >= TOKENS_SINCE
