"""Where the agent keeps things (agent/appconfig/constants_unix.go)."""

from __future__ import annotations

STATE = "/var/lib/amazon/ssm"
VAULT = f"{STATE}/Vault"
STORE = f"{VAULT}/Store"
IPC = f"{STATE}/ipc"
REGISTRATION = f"{STATE}/registration"
IDENTITY_CONFIG = f"{STATE}/runtimeconfig/identity_config.json"
DHMC_CREDENTIALS = f"{STATE}/credentials"
CONFIG = "/etc/amazon/ssm/amazon-ssm-agent.json"
LOGS = "/var/log/amazon/ssm"
SHARED_CREDENTIALS = "/root/.aws/credentials"
CORE_BINARY = "/usr/bin/amazon-ssm-agent"
WORKER_BINARY = "/usr/bin/ssm-agent-worker"
CORE_NAME = "amazon-ssm-agent"
WORKER_NAME = "ssm-agent-worker"
