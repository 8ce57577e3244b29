"""Folders that the worker makes for its identity at every start (coremanager.go:92-150)."""

from __future__ import annotations

import shutil

from ..netkit.hostfs import at
from .layout import STATE
from .logfile import Log

_SHARED = ("daemons", "localcommands", "localcommands/completed", "ipc")
_OWN = (
    "document",
    "document/state",
    "document/state/pending",
    "document/state/current",
    "document/state/completed",
    "document/state/corrupt",
    "longrunningplugins",
    "longrunningplugins/datastore",
    "longrunningplugins/healthcheck",
    "replies",
    "replies_mgs",
    "inventory",
    "inventory/custom",
    "inventory/file",
    "inventory/role",
    "idempotency",
)
_LINES = (
    "Initializing bookkeeping folders",
    "removing the completed state files",
    "Initializing bookkeeping folders for long running plugins",
    "Initializing replies folder for MDS reply requests that couldn't reach the service",
    "Initializing replies folder for MGS reply requests that couldn't reach the service",
    "Initializing healthcheck folders for long running plugins",
    "Initializing locations for inventory plugin",
    "Initializing default location for custom inventory",
    "Initializing default location for file inventory",
    "Initializing default location for role inventory",
    "Init the cloudwatchlogs publisher",
)
_INDEPENDENT_PLUGINS = (
    "aws:softwareInventory",
    "aws:runPowerShellScript",
    "aws:configureDocker",
    "aws:runDockerAction",
    "aws:refreshAssociation",
    "aws:downloadContent",
    "aws:updateSsmAgent",
    "aws:configurePackage",
    "aws:runDocument",
)
_DEPENDENT_PLUGINS = ("aws:runShellScript", "aws:domainJoin")


def make_folders(instance_id: str) -> None:
    """Create what is missing and empty the completed states."""
    for name in (*_SHARED, instance_id, *(f"{instance_id}/{part}" for part in _OWN)):
        at(f"{STATE}/{name}").mkdir(mode=0o700, parents=True, exist_ok=True)
    completed = at(f"{STATE}/{instance_id}/document/state/completed")
    for entry in completed.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def log_folders_and_plugins(log: Log, instance_id: str) -> None:
    """The lines that go with it."""
    for line in _LINES:
        log.info(line)
    of_instance = log.within(f"[instanceID={instance_id}]")
    for name in _INDEPENDENT_PLUGINS:
        of_instance.info(f"Successfully loaded platform independent plugin {name}")
    for name in _DEPENDENT_PLUGINS:
        of_instance.info(f"Successfully loaded platform dependent plugin {name}")
