"""Everything that talks to AWS: sessions, clients, pagination, typed errors, the call recorder.

The only module that imports boto3. Calls go through `Aws.call`, so that all of them are recorded, a
read-only run cannot mutate, and each failure becomes one of a few errors a caller can act on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, TypeVar

import boto3
import botocore.exceptions
import botocore.parsers
import botocore.session
from botocore.config import Config as BotoConfig

from haltuun.answers import ODD_ANSWER, odd_answer
from haltuun.clock import Clock
from haltuun.config import AccountConfig
from haltuun.errors import (
    AccessDenied,
    AwsError,
    AwsUnanswered,
    HaltuunError,
    NoCredentials,
    NotFound,
    NotImplementedByEndpoint,
    Throttled,
)
from haltuun.model import Frozen, Unknown

T = TypeVar("T")

# Prefixes of operations that change nothing, in the services used here.
READS = ("Describe", "List", "Get", "Simulate", "Filter", "Lookup", "Search", "BatchGet", "Head")

_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError"}
_BAD_CREDENTIALS = {
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "SignatureDoesNotMatch",
}
# Calls that AWS takes no token for: sent again after an answer that was lost, they would make a second thing.
UNREPEATABLE = {("ssm", "CreateAssociation"), ("ec2", "CreateSnapshots")}
# botocore sends these once; a throttled one was not taken and is tried again after these pauses.
_PAUSES_S = (1.0, 2.0, 4.0, 8.0)

_THROTTLED = {
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "SlowDown",
}
_NOT_FOUND = {
    "NoSuchEntity",
    "ResourceNotFoundException",
    "ParameterNotFound",
    "InvalidDocument",
    "DoesNotExistException",
    "InvalidInstanceID.NotFound",
    "InvalidGroup.NotFound",
    "AssociationDoesNotExist",
}


class CallRecord(Frozen):
    """One AWS call as made: for the audit of what was done and for the policies in deployments/."""

    service: str
    operation: str
    region: str
    mutating: bool
    ok: bool


class Aws:
    """One account as the operator's role sees it. Thread-safe.

    `read_only` refuses every operation that is not a read, before it is sent.
    """

    def __init__(self, account: AccountConfig, clock: Clock, *, read_only: bool) -> None:
        self.account = account
        self.clock = clock
        self.read_only = read_only
        self.calls: list[CallRecord] = []
        self._clients: dict[tuple[str, str, bool], Any] = {}
        self._lock = threading.Lock()
        self._session: boto3.Session | None = None
        self._identity: tuple[str, str] | None = None
        # Called before each sending of what is not a read; what it raises comes out of the call.
        self.before_mutation: Callable[[], None] = lambda: None

    # -- who and where ---------------------------------------------------------------------

    @property
    def account_id(self) -> str:
        return self._who()[0]

    @property
    def partition(self) -> str:
        """aws, aws-cn, aws-us-gov, aws-eusc, …: from the caller's ARN, never assumed."""
        return self._who()[1]

    def _who(self) -> tuple[str, str]:
        if self._identity is None:
            answer = self.call("sts", "GetCallerIdentity", self.home_region)
            self._identity = (answer["Account"], str(answer["Arn"]).split(":")[1])
        return self._identity

    def confirm_account(self) -> None:
        """Raises AwsError when the credentials belong to another account than the configured one."""
        if self.account_id != self.account.id:
            raise AwsError(
                f"the credentials belong to account {self.account_id}, not {self.account.id}.",
                subject=self.account.label,
                remedy="Set role_arn or profile of this account in haltuun.yaml, or use its credentials.",
                code="WRONG_ACCOUNT",
            )

    @property
    def home_region(self) -> str:
        if self.account.regions:
            return self.account.regions[0]
        return self._base_session().region_name or first_region(self.account.role_arn)

    def regions(self) -> list[str]:
        """The configured regions; without any, every region that is enabled for the account."""
        enabled = self.ask(lambda: self.pages("ec2", "DescribeRegions", "Regions", self.home_region))
        if isinstance(enabled, Unknown):
            if self.account.regions:
                return list(self.account.regions)
            raise AccessDenied(
                f"which regions are enabled cannot be asked ({enabled.unknown}).",
                subject=self.account.label,
                remedy="Allow ec2:DescribeRegions, or list 'regions' for the account.",
            )
        names = [region["RegionName"] for region in enabled]
        if not self.account.regions:
            return sorted(names)
        wrong = [region for region in self.account.regions if region not in names]
        if wrong:
            raise AwsError(
                f"region {wrong[0]} does not exist or is not enabled for the account.",
                subject=f"accounts: {self.account.label}: regions",
                remedy="Correct it in haltuun.yaml, or enable the region.",
                code="WRONG_REGION",
            )
        return list(self.account.regions)

    # -- calls -----------------------------------------------------------------------------

    def call(self, service: str, operation: str, region: str, **parameters: Any) -> dict[str, Any]:
        """One API call, `operation` as AWS spells it ("DescribeInstances").

        Raises:
            NoCredentials, AccessDenied, Throttled, NotFound, NotImplementedByEndpoint, AwsError, and what
            `before_mutation` raises.
        """
        mutating = not operation.startswith(READS)
        if mutating and self.read_only:
            raise AwsError(
                "a plan changes nothing, yet this operation would.",
                subject=f"{service}:{operation}",
                remedy="This is a defect of Haltuun: please report it.",
                code="READ_ONLY",
            )
        once = (service, operation) in UNREPEATABLE
        client = self._client(service, region, once=once)
        method = getattr(client, _snake(client, operation))
        send = partial(method, **parameters)
        asked = datetime.now(UTC)
        try:
            # Where botocore sends a mutation again, AWS knows it by its token or its name, or it sets what is
            # set already.
            answer = _unhurried(send) if once else send() if mutating else _once_more(send)
        except Exception as error:
            self._record(service, operation, region, mutating, ok=False)
            raise _translated(error, service, operation, region) from error
        self._record(service, operation, region, mutating, ok=True)
        meta = answer.get("ResponseMetadata", {})
        self.clock.heard(meta.get("HTTPHeaders", {}).get("date"), asked)
        return dict(answer)

    def pages(
        self,
        service: str,
        operation: str,
        key: str,
        region: str,
        *,
        each: Callable[[Any], Any] = lambda item: item,
        **parameters: Any,
    ) -> list[Any]:
        """All items under `key` over all pages (a plain call where botocore knows no paginator).

        Of each item what `each` makes of it is kept: whole answers of a large account are hundreds of
        megabytes.
        """
        client = self._client(service, region)
        name = _snake(client, operation)
        if not client.can_paginate(name):
            return [each(item) for item in self.call(service, operation, region, **parameters).get(key) or ()]
        items: list[Any] = []
        asked = datetime.now(UTC)
        try:
            for page in client.get_paginator(name).paginate(**parameters):
                self._record(service, operation, region, mutating=False, ok=True)
                self.clock.heard(page.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date"), asked)
                asked = datetime.now(UTC)
                items.extend(map(each, page.get(key) or ()))
        except Exception as error:
            self._record(service, operation, region, mutating=False, ok=False)
            raise _translated(error, service, operation, region) from error
        return items

    def ask(self, question: Callable[[], T]) -> T | Unknown:
        """The answer, or Unknown with the reason where AWS would not give one, or one that is not as its API
        says.

        Missing credentials are not an answer of the account: they are raised.
        """
        try:
            return question()
        except NoCredentials:
            raise
        except AwsError as error:
            return Unknown(unknown=f"{error.code}: {error.subject}: {error.message}")
        except ODD_ANSWER as error:
            return odd_answer(error)

    # -- below -----------------------------------------------------------------------------

    def _record(self, service: str, operation: str, region: str, mutating: bool, ok: bool) -> None:
        record = CallRecord(service=service, operation=operation, region=region, mutating=mutating, ok=ok)
        with self._lock:
            self.calls.append(record)

    def _client(self, service: str, region: str, *, once: bool = False) -> Any:
        retries = {"total_max_attempts": 1} if once else {"mode": "adaptive", "max_attempts": 6}
        with self._lock:
            client = self._clients.get((service, region, once))
            if client is None:
                try:
                    client = self._assumed_session().client(
                        service,
                        region_name=region,
                        config=BotoConfig(
                            retries=retries,
                            connect_timeout=10,
                            read_timeout=60,
                            max_pool_connections=32,
                            user_agent_extra="haltuun",
                        ),
                    )
                except HaltuunError:
                    raise
                except Exception as error:
                    raise _translated(error, service, "", region) from error
                # Last: botocore may have slept before, for the service's rate.
                client.meta.events.register_last("before-send", self._before_attempt)
                self._clients[(service, region, once)] = client
            return client

    def _before_attempt(self, *, event_name: str, **_: Any) -> None:
        """Each time that a call is sent, for botocore sends one up to six times."""
        if not event_name.rpartition(".")[2].startswith(READS):
            self.before_mutation()

    def _base_session(self) -> boto3.Session:
        try:
            return boto3.Session(botocore_session=_new_session(self.account.profile))
        except botocore.exceptions.ProfileNotFound as error:
            raise NoCredentials(
                f"there is no AWS profile '{self.account.profile}'.",
                subject=f"accounts: {self.account.label}: profile",
                remedy="Create it in ~/.aws/config, or correct the name.",
            ) from error

    def _assumed_session(self) -> boto3.Session:
        if self._session is None:
            base = self._base_session()
            self._session = base if not self.account.role_arn else self._assume(base, self.account.role_arn)
        return self._session

    def _assume(self, base: boto3.Session, role_arn: str) -> boto3.Session:
        from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials

        source = base.get_credentials()
        if source is None:
            raise _no_credentials(self.account.label)
        extra: dict[str, Any] = {"RoleSessionName": "haltuun"}
        if self.account.external_id:
            extra["ExternalId"] = self.account.external_id
        regions = self.account.regions
        region = regions[0] if regions else base.region_name or first_region(role_arn)
        fetcher = AssumeRoleCredentialFetcher(
            lambda name, **kw: base.client(
                name, region_name=region, **{k: v for k, v in kw.items() if k != "region_name"}
            ),
            source,
            role_arn,
            extra_args=extra,
        )
        botocore_session = _new_session()
        # Refreshed by itself: a takeover outlives the hour of an assumed role.
        botocore_session._credentials = DeferredRefreshableCredentials(
            method="assume-role", refresh_using=fetcher.fetch_credentials
        )
        return boto3.Session(botocore_session=botocore_session, region_name=region)


def _new_session(profile: str | None = None) -> botocore.session.Session:
    session = botocore.session.Session(profile=profile)
    session.register_component("data_loader", _service_models())
    session.get_scoped_config()  # raises ProfileNotFound here, not at the first call
    return session


@cache
def _service_models() -> Any:
    """botocore's descriptions of the services, parsed once a process: EC2's alone takes half a second."""
    return botocore.session.Session().get_component("data_loader")


def first_region(role_arn: str | None) -> str:
    """Where to ask first when nobody says: a region of the partition that the role's ARN names (botocore's
    partitions.json; credentials of one partition are refused in the others)."""
    partition = (role_arn or "arn:aws").split(":")[1]
    session = _new_session()
    regions: list[str] = session.get_available_regions("ec2", partition_name=partition)
    return "us-east-1" if "us-east-1" in regions or not regions else sorted(regions)[0]


def chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """`items` in runs of at most `size` (an API's limit)."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def tags_of(resource: Mapping[str, Any], key: str = "Tags") -> dict[str, str]:
    """AWS's [{Key, Value}] as a dict."""
    return {tag["Key"]: tag.get("Value", "") for tag in resource.get(key) or () if "Key" in tag}


def _snake(client: Any, operation: str) -> str:
    for name, api in client.meta.method_to_api_mapping.items():
        if api == operation:
            return str(name)
    raise NotImplementedByEndpoint(
        "this boto3 does not know the operation.",
        subject=f"{client.meta.service_model.service_name}:{operation}",
        remedy="Install the locked requirements.",
    )


def _not_implemented(error: botocore.exceptions.ClientError) -> bool:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code in {"NotImplemented", "UnknownOperationException", "InvalidAction", "UnknownAction"}:
        return True
    # An emulator answers HTML or nothing of AWS's own, so botocore takes the status for the code.
    return status in (404, 500, 501) and code in {"404", "500", "501", ""}


def _once_more(send: Callable[[], Any]) -> Any:
    """5xx are retried by botocore; this is for endpoints that answer nonsense once."""
    try:
        return send()
    except botocore.exceptions.ClientError as error:
        if not _not_implemented(error):
            raise
        return send()
    except botocore.parsers.ResponseParserError:
        return send()


def _unhurried(send: Callable[[], Any]) -> Any:
    """Again only while AWS says that it was throttled, and so not done."""
    for pause_s in _PAUSES_S:
        try:
            return send()
        except botocore.exceptions.ClientError as error:
            if error.response.get("Error", {}).get("Code") not in _THROTTLED:
                raise
        time.sleep(pause_s)
    return send()


def _no_credentials(label: str) -> NoCredentials:
    return NoCredentials(
        "there are no AWS credentials.",
        subject=label,
        remedy="Set AWS_PROFILE or the AWS_… variables, or 'profile'/'role_arn' in haltuun.yaml.",
    )


def _translated(error: Exception, service: str, operation: str, region: str) -> HaltuunError:
    subject = f"{service}:{operation} ({region})"
    if isinstance(error, HaltuunError):
        return error
    if isinstance(
        error, botocore.exceptions.NoCredentialsError | botocore.exceptions.PartialCredentialsError
    ):
        return _no_credentials(subject)
    if isinstance(error, botocore.exceptions.ClientError):
        detail = error.response.get("Error", {})
        code, message = str(detail.get("Code", "")), str(detail.get("Message", ""))
        if error.operation_name == "AssumeRole":  # made by botocore on the way to the call
            service, operation = "sts", error.operation_name
            subject = f"{service}:{operation} ({region})"
        if _not_implemented(error):
            return NotImplementedByEndpoint(
                "the endpoint does not implement this operation.",
                subject=subject,
                remedy="What depends on it stays unknown.",
            )
        if code in _DENIED:
            return AccessDenied(
                f"denied: {message.rstrip('.')}.",
                subject=subject,
                remedy=f"Allow {service}:{operation} for the role that Haltuun uses.",
            )
        if code in _BAD_CREDENTIALS:
            return NoCredentials(
                f"AWS refuses the credentials ({code}).",
                subject=subject,
                remedy="Renew them, or correct 'profile'/'role_arn' in haltuun.yaml.",
            )
        if code in _THROTTLED:
            return Throttled("throttled beyond all retries.", subject=subject, remedy="Run again later.")
        if code in _NOT_FOUND or code.endswith(("NotFound", "NotFoundException", ".NotFound")):
            return NotFound(message or "does not exist.", subject=subject, remedy="", code=code)
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
            # It failed on the way, and nobody says whether before or after it was done.
            return AwsUnanswered(f"{code}: {message}", subject=subject, remedy="See the message.", code=code)
        return AwsError(f"{code}: {message}", subject=subject, remedy="See the message.", code=code or "AWS")
    if isinstance(error, ValueError) and "endpoint" in str(error):  # botocore's plain ValueError
        return AwsError(
            f"the endpoint is no address ({error}).",
            subject=subject,
            remedy="Correct AWS_ENDPOINT_URL: it begins with http:// or https://.",
            code="AWS_UNREACHABLE",
        )
    if isinstance(error, botocore.parsers.ResponseParserError):
        return NotImplementedByEndpoint(
            "the endpoint's answer is not AWS's.", subject=subject, remedy="What depends on it stays unknown."
        )
    if isinstance(error, botocore.exceptions.HTTPClientError | botocore.exceptions.ConnectionError):
        return AwsUnanswered(
            "the endpoint does not answer.",
            subject=subject,
            remedy="Check the region's name, the network and AWS_ENDPOINT_URL.",
        )
    if isinstance(error, botocore.exceptions.BotoCoreError):
        return AwsError(str(error), subject=subject, remedy="See the message.")
    raise error
