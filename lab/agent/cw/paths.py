"""Where the CloudWatch agent keeps things."""

from __future__ import annotations

HOME = "/opt/aws/amazon-cloudwatch-agent"
BINARY = f"{HOME}/bin/amazon-cloudwatch-agent"
VERSION_FILE = f"{HOME}/bin/CWAGENT_VERSION"
CONFIG_FOLDER = f"{HOME}/etc/amazon-cloudwatch-agent.d"
TOML = f"{HOME}/etc/amazon-cloudwatch-agent.toml"
LOG = f"{HOME}/logs/amazon-cloudwatch-agent.log"
SERVICE = "amazon-cloudwatch-agent"
