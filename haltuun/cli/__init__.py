"""The command line. The top layer: it alone imports flows and lab, and only when a command needs them."""

from __future__ import annotations

import errno
import io
import os
import sys
import tempfile
import traceback
from pathlib import Path

from haltuun.cli.interrupt import EXIT_INTERRUPTED
from haltuun.errors import EXIT_ERROR, EXIT_OK, EXIT_USAGE, HaltuunError, ServerUnreachable

EXIT_SERVER_GONE = -1  # within this module: told as EXIT_ERROR


def main() -> None:
    """Entry point of `haltuun`. Every failure is one sentence and an exit code, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no arrows gets a question mark
    code = _run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
    except OSError as error:
        _forget_stdout()
        code = _unwritten(error)
    if code == EXIT_SERVER_GONE:
        # Prefect would go on for minutes to offer its events to the server that is gone.
        os._exit(EXIT_ERROR)
    sys.exit(code)


def _run() -> int:
    try:
        from haltuun.cli.app import app

        code = app(standalone_mode=False)
    except HaltuunError as error:
        _say(f"{error} [{error.code}]")
        return EXIT_SERVER_GONE if isinstance(error, ServerUnreachable) else error.exit_code
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return EXIT_ERROR
    except OSError as error:
        if error.errno != errno.ENOSPC:
            return _defect(error)
        _forget_stdout()
        return _unwritten(error)
    except Exception as error:
        if _is_usage(error):
            return _usage(error)
        return _defect(error)
    if code == EXIT_INTERRUPTED:  # typer's form of KeyboardInterrupt
        _say("stopped. The ledger holds what was done; the next run goes on from there.")
    return code if isinstance(code, int) else EXIT_OK


def _is_usage(error: Exception) -> bool:
    # typer carries a click of its own, and exports no common base of its usage errors.
    return getattr(error, "exit_code", None) == EXIT_USAGE and hasattr(error, "format_message")


def _usage(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "haltuun"
    said = str(error.format_message())  # type: ignore[attr-defined]
    _say(f"{said.replace('Value error, ', '').rstrip('.')}. See '{command} --help'. [USAGE]")
    return EXIT_USAGE


def _unwritten(error: OSError) -> int:
    _say(f"not all could be written ({error.strerror}). Free space, then call it again. [OUTPUT]")
    return EXIT_ERROR


def _defect(error: Exception) -> int:
    text = "".join(traceback.format_exception(error))
    try:
        handle, name = tempfile.mkstemp(prefix="haltuun-error-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8") as log:
            log.write(text)
        where = f"please report it with {Path(name)}"
    except OSError:
        where = f"please report it: {error}"
    _say(f"a defect of Haltuun ({type(error).__name__}); {where}. [INTERNAL]")
    return EXIT_ERROR


def _say(text: str) -> None:
    # One line, whatever a library put into the message.
    sys.stderr.write(f"haltuun: {' '.join(text.split())}\n")


def _forget_stdout() -> None:
    """The reader (head, less) has left: nothing to tell it, now or at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
