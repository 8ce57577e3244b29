"""Backup jobs, recovery points and selections of one account and region."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from moto.backup.models import BackupBackend, Vault, backup_backends
from moto.ec2.models import ec2_backends
from moto.ec2.models.elastic_block_store import Volume
from moto.iam.models import iam_backends
from moto.kms.models import kms_backends

from lab.cloud import clock
from lab.cloud.errors import CloudError
from lab.cloud.identity import boundary_documents, role_documents
from lab.cloud.policy import evaluate

RUNNING_AFTER_S = 0.7
COMPLETED_AFTER_S = 2.0
# First actions of AWSBackupServiceRolePolicyForBackup for each type of resource.
NEEDED_ACTION = {"EC2": "ec2:CreateImage", "EBS": "ec2:CreateSnapshot"}
DEFAULT_KEY = "alias/aws/backup"
DEFAULT_KEY_TEXT = "Default key that protects my Backup data when no other key is defined"
OPT_IN_TYPES = (
    "Aurora",
    "CloudFormation",
    "DocumentDB",
    "DynamoDB",
    "EBS",
    "EC2",
    "EFS",
    "FSx",
    "Neptune",
    "RDS",
    "Redshift",
    "S3",
    "SAP HANA on Amazon EC2",
    "Storage Gateway",
    "Timestream",
    "VirtualMachine",
)


@dataclass
class Job:
    id: str
    vault: str
    resource_arn: str
    resource_type: str
    role_arn: str
    created: datetime
    started_s: float
    lifecycle: dict[str, Any]
    tags: dict[str, str]
    state: str = "CREATED"
    message: str = ""
    point_arn: str = ""
    completed: datetime | None = None


@dataclass
class Point:
    arn: str
    vault: str
    resource_arn: str
    resource_type: str
    role_arn: str
    created: datetime
    completed: datetime
    lifecycle: dict[str, Any]
    size_bytes: int
    is_encrypted: bool
    key_arn: str | None


@dataclass
class BackupState:
    account_id: str
    region: str
    jobs: dict[str, Job] = field(default_factory=dict)
    points: dict[str, Point] = field(default_factory=dict)
    selections: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    opt_in: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(OPT_IN_TYPES, True))
    management: dict[str, bool] = field(default_factory=lambda: {"DynamoDB": True, "EFS": True})
    tokens: dict[str, str] = field(default_factory=dict)
    _settling: threading.Lock = field(default_factory=threading.Lock)

    @property
    def backend(self) -> BackupBackend:
        return backup_backends[self.account_id][self.region]

    @property
    def partition(self) -> str:
        return str(self.backend.partition)

    def vault(self, name: str) -> Vault:
        vault = self.backend.vaults.get(name)
        if vault is None:
            raise CloudError("ResourceNotFoundException", f"Backup vault {name} was not found.")
        return vault

    def default_key_arn(self) -> str:
        """The key that AWS makes in the account for its Backup service."""
        kms = kms_backends[self.account_id][self.region]
        if not kms.alias_exists(DEFAULT_KEY):
            key = kms.create_key(None, "ENCRYPT_DECRYPT", "SYMMETRIC_DEFAULT", DEFAULT_KEY_TEXT, None)
            kms.create_alias(key.id, DEFAULT_KEY)
        return str(kms.describe_key(DEFAULT_KEY).arn)

    def start(self, request: dict[str, Any]) -> Job:
        token = str(request.get("IdempotencyToken") or "")
        if token and token in self.tokens:
            return self.jobs[self.tokens[token]]
        vault, arn = str(request["BackupVaultName"]), str(request["ResourceArn"])
        self.vault(vault)
        kind = self.type_of(arn)
        self.check_role(str(request["IamRoleArn"]))
        job = Job(
            id=str(uuid.uuid4()).upper(),
            vault=vault,
            resource_arn=arn,
            resource_type=kind,
            role_arn=str(request["IamRoleArn"]),
            created=clock.now(),
            started_s=clock.stopwatch(),
            lifecycle=request.get("Lifecycle") or {},
            tags=request.get("RecoveryPointTags") or {},
        )
        self.jobs[job.id] = job
        if token:
            self.tokens[token] = job.id
        return job

    def type_of(self, arn: str) -> str:
        """EC2 or EBS; the resource must exist."""
        kind, _, found = arn.rsplit(":", 1)[-1].partition("/")
        ec2 = ec2_backends[self.account_id][self.region]
        if kind == "instance":
            known = [i.id for r in ec2.reservations.values() for i in r.instances if i.state != "terminated"]
            if found in known:
                return "EC2"
        elif kind == "volume" and found in ec2.volumes:
            return "EBS"
        raise CloudError("InvalidParameterValueException", f"Resource {arn} is not found or not supported.")

    def check_role(self, role_arn: str) -> None:
        from lab.cloud.extensions.iam import trust_of
        from lab.cloud.policy import trusts

        trust = trust_of(self.account_id, self.partition, role_arn)
        if trust is None or not trusts(trust, "backup.amazonaws.com"):
            raise CloudError(
                "InvalidParameterValueException", f"IAM Role {role_arn} cannot be assumed by AWS Backup"
            )

    def role_allows(self, role_arn: str, action: str) -> bool:
        for role in iam_backends[self.account_id][self.partition].roles.values():
            if role.arn == role_arn:
                boundary = boundary_documents(role, self.account_id, self.partition)
                return evaluate(role_documents(role), action, "*", {}, boundary).allowed
        return False

    def settle(self) -> None:
        """Move jobs on: CREATED, RUNNING, COMPLETED or FAILED; each ends once, whoever asks meanwhile."""
        with self._settling:
            for job in list(self.jobs.values()):
                age_s = clock.stopwatch() - job.started_s
                if job.state == "CREATED" and age_s >= RUNNING_AFTER_S:
                    job.state = "RUNNING"
                if job.state == "RUNNING" and age_s >= COMPLETED_AFTER_S:
                    self._complete(job)

    def _complete(self, job: Job) -> None:
        action = NEEDED_ACTION[job.resource_type]
        if not self.role_allows(job.role_arn, action):
            job.state, job.completed = "FAILED", clock.now()
            job.message = f"Access Denied trying to call AWS Backup service: {job.role_arn} lacks {action}"
            return
        volumes = self._volumes(job)
        job.point_arn = self._image(job) if job.resource_type == "EC2" else self._snapshot(job)
        job.completed = clock.now()
        job.state = "COMPLETED"
        self.points[job.point_arn] = Point(
            arn=job.point_arn,
            vault=job.vault,
            resource_arn=job.resource_arn,
            resource_type=job.resource_type,
            role_arn=job.role_arn,
            created=job.created,
            completed=job.completed,
            lifecycle=job.lifecycle,
            size_bytes=8 * 1024**3,
            # Images and snapshots are encrypted as their source is, whatever the vault's key (AWS
            # Backup developer guide, "Encryption for backups").
            is_encrypted=bool(volumes) and all(volume.encrypted for volume in volumes),
            key_arn=next((volume.kms_key_id for volume in volumes if volume.encrypted), None),
        )
        self.vault(job.vault).num_of_recovery_points += 1
        if job.tags:
            self.backend.tag_resource(job.point_arn, job.tags)

    def _volumes(self, job: Job) -> list[Volume]:
        ec2 = ec2_backends[self.account_id][self.region]
        found = job.resource_arn.rsplit("/", 1)[-1]
        if job.resource_type == "EBS":
            return [ec2.volumes[found]]
        devices = ec2.get_instance(found).block_device_mapping.values()
        return [ec2.volumes[device.volume_id] for device in devices if device.volume_id in ec2.volumes]

    def _image(self, job: Job) -> str:
        """AWS Backup keeps an instance as an image with a snapshot of each volume."""
        ec2 = ec2_backends[self.account_id][self.region]
        instance_id = job.resource_arn.rsplit("/", 1)[-1]
        name = f"AwsBackup_{instance_id}_{job.id}"
        image = ec2.create_image(
            instance_id, name, f"This image is created by the AWS Backup service. {name}", []
        )
        for volume in self._volumes(job):
            ec2.create_snapshot(volume.id, f"Created by AWS Backup for {image.id} from {volume.id}")
        return f"arn:{self.partition}:ec2:{self.region}::image/{image.id}"

    def _snapshot(self, job: Job) -> str:
        ec2 = ec2_backends[self.account_id][self.region]
        snapshot = ec2.create_snapshot(
            job.resource_arn.rsplit("/", 1)[-1], "This snapshot is created by the AWS Backup service."
        )
        return f"arn:{self.partition}:ec2:{self.region}::snapshot/{snapshot.id}"


def backup_state(account_id: str, region: str) -> BackupState:
    backend = backup_backends[account_id][region]
    state = backend.__dict__.get("_lab_state")
    if state is None:
        state = backend.__dict__.setdefault("_lab_state", BackupState(account_id, region))
    return state  # type: ignore[no-any-return]
