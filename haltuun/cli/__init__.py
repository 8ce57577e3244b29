"""The command line. The top layer: it alone imports flows and lab, and only when a command needs them."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from haltuun.errors import EXIT_ERROR, EXIT_USAGE, HaltuunError


def main() -> None:
    """Entry point of `haltuun`. Every failure is one sentence and an exit code, never a traceback."""
    import click

    from haltuun.cli.app import app

    try:
        code = app(standalone_mode=False)
    except HaltuunError as error:
        _say(error)
        code = error.exit_code
    except click.exceptions.UsageError as error:
        sys.stderr.write(f"haltuun: {error.format_message()} See 'haltuun --help'.\n")
        code = EXIT_USAGE
    except (KeyboardInterrupt, click.exceptions.Abort):
        sys.stderr.write(
            "haltuun: stopped. The ledger holds what was done; the next run goes on from there.\n"
        )
        code = 130
    except BrokenPipeError:
        # The reader (head, less) has left: nothing to tell it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_ERROR
    except Exception as error:
        log = Path(os.environ.get("TMPDIR", "/tmp")) / f"haltuun-error-{os.getpid()}.log"
        log.write_text(traceback.format_exc())
        log.chmod(0o600)
        sys.stderr.write(
            f"haltuun: a defect of Haltuun ({type(error).__name__}); please report it with {log}.\n"
        )
        code = EXIT_ERROR
    sys.exit(code if isinstance(code, int) else 0)


def _say(error: HaltuunError) -> None:
    sys.stderr.write(f"haltuun: {error} [{error.code}]\n")
