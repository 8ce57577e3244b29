"""How operations are added to moto: methods on its response classes, dispatched by their names."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from moto.core.responses import ActionResult, BaseResponse
from moto.ssm.responses import SimpleSystemManagerResponse

from lab.cloud.errors import CloudError, validation
from lab.cloud.state import SsmState, ssm_state

T = TypeVar("T")
TOKEN_PREFIX = "lab-page-"


def graft(source: type, onto: type[BaseResponse]) -> None:
    """Copy the operations of `source` (its public functions and private helpers) onto a response class."""
    for name, function in inspect.getmembers(source, predicate=inspect.isfunction):
        if not name.startswith("__") and name in vars(source):
            setattr(onto, name, function)


def request_of(response: BaseResponse) -> dict[str, Any]:
    """The JSON document of a request."""
    try:
        found = json.loads(response.body or "{}")
    except ValueError as error:
        raise CloudError("SerializationException", "The request body is no JSON document.") from error
    return found if isinstance(found, dict) else {}


def state_of(response: SimpleSystemManagerResponse) -> SsmState:
    return ssm_state(response.current_account, response.region)


def page_of(
    rows: Sequence[T], request: dict[str, Any], *, default: int = 50, low: int = 1, high: int = 50
) -> tuple[list[T], str | None]:
    """One page and the token of the next, with the limits that the API reference gives."""
    size = request.get("MaxResults")
    if size is None:
        size = default
    elif not low <= int(size) <= high:
        raise validation(
            f"1 validation error detected: Value '{size}' at 'maxResults' failed to satisfy constraint: "
            f"Member must have value between {low} and {high}"
        )
    start = 0
    token = request.get("NextToken")
    if token:
        digits = str(token).removeprefix(TOKEN_PREFIX)
        if not str(token).startswith(TOKEN_PREFIX) or not digits.isdigit():
            raise CloudError("InvalidNextToken", "The specified token isn't valid.")
        start = int(digits)
    end = start + int(size)
    return list(rows[start:end]), (f"{TOKEN_PREFIX}{end}" if end < len(rows) else None)


def answer(**members: Any) -> ActionResult:
    return ActionResult({key: value for key, value in members.items() if value is not None})


def paged(key: str, rows: Sequence[Any], request: dict[str, Any], **limits: int) -> ActionResult:
    page, token = page_of(rows, request, **limits)
    return answer(**{key: page, "NextToken": token})


def filters_hold(filters: list[dict[str, Any]], look: Callable[[str], list[str] | None]) -> bool:
    """Every filter names one of the row's values; `look` gives them, or None for a key that is unknown."""
    for row in filters:
        key = str(row.get("Key") or row.get("key"))
        wanted = [
            str(value) for value in row.get("Values") or row.get("valueSet") or row.get("ValueSet") or []
        ]
        have = look(key)
        if have is None:
            raise CloudError("InvalidFilterKey", f"The specified key {key} is not valid.")
        if not set(have) & set(wanted):
            return False
    return True
