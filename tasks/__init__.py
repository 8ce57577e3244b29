"""Thin Prefect tasks: each calls one method of the engine. No decision on facts is taken here."""

from __future__ import annotations

import logging


class _NoEmptyTraceback(logging.Filter):
    """Prefect logs an empty traceback for a Failed state that a task returned on purpose (a held host)."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Task run failed with state: ")


logging.getLogger("prefect.task_runs").addFilter(_NoEmptyTraceback())
