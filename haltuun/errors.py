"""One error root; below it what a caller can act on.

Every error has a code (a runbook of that name stands in docs/runbooks when it can hold a host), the
subject it is about (a file and line, a host, an AWS operation), one sentence and a remedy.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_HELD = 3
EXIT_BLOCKED = 4
EXIT_AWAITS_APPROVAL = 5


class HaltuunError(Exception):
    """Something a person has to know: `message` says what is wrong, `remedy` what to do."""

    code = "ERROR"
    exit_code = EXIT_ERROR

    # False where the answer never came: what was asked for may have happened all the same.
    answered = True

    def __init__(
        self,
        message: str,
        *,
        subject: str = "",
        remedy: str = "",
        code: str | None = None,
        unchanged: bool = False,
    ) -> None:
        """`unchanged`: whoever raises it knows that nothing was changed."""
        super().__init__(message)
        self.message = message
        self.subject = subject
        self.remedy = remedy
        self.unchanged = unchanged
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        head = f"{self.subject}: {self.message}" if self.subject else self.message
        return f"{head} {self.remedy}".rstrip()

    def __reduce__(self) -> tuple[object, ...]:
        # Prefect pickles exceptions between threads and processes; the keyword-only
        # arguments would be lost by Exception's default.
        return (_rebuild, (type(self), self.message, self.subject, self.remedy, self.code, self.unchanged))


def _rebuild(
    kind: type[HaltuunError], message: str, subject: str, remedy: str, code: str, unchanged: bool
) -> HaltuunError:
    return kind(message, subject=subject, remedy=remedy, code=code, unchanged=unchanged)


class ConfigError(HaltuunError):
    """The configuration file or the command line cannot be used as it is."""

    code = "CONFIG"
    exit_code = EXIT_USAGE


class LeaseHeld(HaltuunError):
    """Another run holds the account."""

    code = "LEASE_HELD"


class LeaseLost(HaltuunError):
    """A later run took the account over; this one must not mutate any more."""

    code = "LEASE_LOST"


class PlanStale(HaltuunError):
    """What an approved change was planned on is no longer so."""

    code = "PLAN_STALE"


class ServerUnreachable(HaltuunError):
    """The Prefect server does not answer."""

    code = "PREFECT_UNREACHABLE"


class ToolMissing(HaltuunError):
    """A program this needs is not on the machine."""

    code = "TOOL_MISSING"


class AwsError(HaltuunError):
    """An AWS call did not give an answer."""

    code = "AWS"

    @property
    def there_already(self) -> bool:
        """Perhaps by this very call: botocore sends one again whose answer was lost."""
        if self.code == "IncorrectState":  # EC2 says other things by it, too
            return "existing association" in self.message
        return self.code.endswith(("AlreadyExists", "AlreadyExistsException", "InvalidPermission.Duplicate"))


class NoCredentials(AwsError):
    """No AWS credentials, or they are refused."""

    code = "NO_CREDENTIALS"


class AccessDenied(AwsError):
    """AWS denied an operation."""

    code = "ACCESS_DENIED"


class Throttled(AwsError):
    """AWS throttled an operation beyond the retries."""

    code = "THROTTLED"


class NotImplementedByEndpoint(AwsError):
    """The endpoint (an emulator, an old partition) does not know the operation."""

    code = "NOT_IMPLEMENTED"


class NotFound(AwsError):
    """AWS says the named thing does not exist."""

    code = "NOT_FOUND"


class AwsUnanswered(AwsError):
    """The endpoint did not answer, not before the deadline, or with an error of its own (5xx)."""

    code = "AWS_UNREACHABLE"
    answered = False


class Unreachable(HaltuunError):
    """A host could not be reached; subclasses say at which point."""

    code = "SSH_UNREACHABLE"


class ConnectionRefused(Unreachable):
    """The port answers with a reset."""

    code = "SSH_REFUSED"


class ConnectTimeout(Unreachable):
    """Nothing answers at the address."""

    code = "SSH_TIMEOUT"


class BannerTimeout(Unreachable):
    """The connection opens, but sshd never speaks: it hangs."""

    code = "SSH_HANGS"


class ConnectionClosed(Unreachable):
    """The port opens, and is closed before anybody is logged in: so does a machine that starts or is full."""

    code = "SSH_CLOSED"


class HostKeyUnknown(Unreachable):
    """The server's key is not known and the configuration does not say how to trust it."""

    code = "HOST_KEY_UNKNOWN"


class HostKeyChanged(Unreachable):
    """The server's key is not the one that is known."""

    code = "HOST_KEY_CHANGED"


class AuthRefused(Unreachable):
    """No offered key opens the host."""

    code = "AUTH_REFUSED"


class NoSudo(Unreachable):
    """Logged in, but root is not to be had."""

    code = "NO_SUDO"


class CommandTimeout(Unreachable):
    """A command outlived its deadline."""

    code = "COMMAND_TIMEOUT"
    answered = False


class ConnectionLost(Unreachable):
    """The connection broke in the middle of a command."""

    code = "CONNECTION_LOST"
    answered = False


class WrongBox(Unreachable):
    """The machine that answers is not the instance that was meant."""

    code = "WRONG_BOX"
