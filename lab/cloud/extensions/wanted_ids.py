"""Instances and images with ids that a scenario chose; everything else is numbered by moto."""

from __future__ import annotations

import threading
from collections import deque

import moto.ec2.models.amis as moto_amis
import moto.ec2.models.instances as moto_instances
from moto.ec2.utils import random_ami_id, random_instance_id

_lock = threading.Lock()
_instances: deque[str] = deque()
_images: deque[str] = deque()


def want(instances: list[str], images: list[str]) -> None:
    with _lock:
        _instances.extend(instances)
        _images.extend(images)


def _next_instance_id() -> str:
    with _lock:
        return _instances.popleft() if _instances else random_instance_id()


def _next_ami_id() -> str:
    with _lock:
        return _images.popleft() if _images else random_ami_id()


def apply() -> None:
    vars(moto_instances)["random_instance_id"] = _next_instance_id
    vars(moto_amis)["random_ami_id"] = _next_ami_id
