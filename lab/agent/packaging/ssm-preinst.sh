#!/bin/sh
set -e
echo "Preparing for install"
if [ -e /snap/amazon-ssm-agent ]; then
    echo "The amazon-ssm-agent snap is installed: remove it before installing this package."
    exit 1
fi
