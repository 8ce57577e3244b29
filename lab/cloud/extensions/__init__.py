"""What moto lacks, added to its own response classes.

`apply_extensions()` works in a server process and in a test that uses moto's `mock_aws`.
"""

from __future__ import annotations

import threading
from functools import cache

_applied = threading.Event()


def apply_extensions() -> None:
    """Add the operations; doing it twice changes nothing."""
    if _applied.is_set():
        return
    _applied.set()
    from moto.core import responses

    from lab.cloud.extensions import backup, iam, ssm, wanted_ids

    ssm.apply()
    iam.apply()
    backup.apply()
    wanted_ids.apply()
    # moto goes through all names of a service's class at each request; none is added after these.
    responses.method_names_from_class = cache(responses.method_names_from_class)


__all__ = ["apply_extensions"]
