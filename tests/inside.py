"""`haltuun` called within this process, which has imported by then what each process of its own would for
ten to fifteen seconds (measured): Prefect, Great Expectations, the AWS clients.

Not for what is about processes: signals, kills, imports, a server that is gone (there it exits hard).
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest import mock

from haltuun import cli


def call(environment: Mapping[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `haltuun ARGUMENTS` started in `folder` with this environment ends with and prints."""
    out, err = io.StringIO(), io.StringIO()
    command = ["haltuun", *arguments]
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        mock.patch.object(sys, "argv", command),
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _prefect_as_the_environment_says(),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _prefect_as_the_environment_says() -> Iterator[None]:
    """Prefect reads it once, at its import. What waits to be sent is sent before the end, as at an exit."""
    from prefect.context import SettingsContext, get_settings_context
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import Settings

    try:
        with SettingsContext(profile=get_settings_context().profile, settings=Settings()):
            yield
    finally:
        EventsWorker.drain_all()
        APILogWorker.drain_all()
