#!/bin/sh
set -e
ctl=/opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl
if [ "$1" = remove ]; then
    "$ctl" -a preun
fi
