#!/bin/sh
set -e
ctl=/opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl
if [ "$1" = remove ] && [ -x "$ctl" ]; then
    "$ctl" -a stop || true
fi
