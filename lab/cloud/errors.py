"""Errors of the emulated services, as moto serialises them."""

from __future__ import annotations

from moto.core.exceptions import ServiceException


class CloudError(ServiceException):
    """An AWS error with its code; moto turns it into the protocol of the service."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)


def validation(message: str) -> CloudError:
    return CloudError("ValidationException", message)
