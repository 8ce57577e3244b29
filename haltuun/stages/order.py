"""The stages, in the order in which they run."""

from __future__ import annotations

from haltuun.stages.backup import STAGE as BACKUP
from haltuun.stages.base import Stage
from haltuun.stages.discover import STAGE as DISCOVER
from haltuun.stages.logs import STAGE as LOGS
from haltuun.stages.patch import STAGE as PATCH
from haltuun.stages.repair import STAGE as REPAIR
from haltuun.stages.verify import STAGE as VERIFY

STAGES: tuple[Stage, ...] = (DISCOVER, VERIFY, REPAIR, PATCH, BACKUP, LOGS)
