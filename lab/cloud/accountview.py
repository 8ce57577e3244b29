"""The account as the host services see it over HTTP, shared by all hosts of a process."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from typing import Any, ClassVar

FRESH_FOR_S = 0.8


class AccountView:
    """Facts of every instance of a region, at most FRESH_FOR_S old; the last known when the cloud is away."""

    _views: ClassVar[dict[tuple[str, str], AccountView]] = {}
    _views_lock = threading.Lock()

    def __init__(self, endpoint_url: str, region: str) -> None:
        self.endpoint_url = endpoint_url
        self.region = region
        self._lock = threading.Lock()
        self._facts: dict[str, Any] = {}
        self._read_at_s = float("-inf")

    @classmethod
    def shared(cls, endpoint_url: str, region: str) -> AccountView:
        with cls._views_lock:
            return cls._views.setdefault((endpoint_url, region), cls(endpoint_url, region))

    def _post(self, path: str, **given: Any) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.endpoint_url}/lab/{path}", data=json.dumps(given).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found

    def facts(self, instance_id: str, *, fresh: bool = False) -> dict[str, Any] | None:
        """None: the instance is not (any more) in the account."""
        with self._lock:
            if fresh or time.monotonic() - self._read_at_s > FRESH_FOR_S:
                # A cloud that restarts must not switch hosts off: then the last known facts stay.
                with contextlib.suppress(OSError, ValueError):
                    self._facts = self._post("instances", region=self.region)
                self._read_at_s = time.monotonic()
            return self._facts.get(instance_id)

    def credentials(self, instance_id: str, role_arn: str | None) -> dict[str, Any] | None:
        try:
            return self._post("credentials", region=self.region, id=instance_id, role_arn=role_arn)
        except (OSError, ValueError):
            return None
