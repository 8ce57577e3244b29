#!/bin/sh
set -e
# Like the real package: stop and disable, whatever the reason; the state folder is never touched.
echo "Stopping agent"
init_system=$(cat /proc/1/comm)
if [ "$init_system" = systemd ]; then
    systemctl stop amazon-ssm-agent || true
    systemctl disable amazon-ssm-agent || true
    systemctl daemon-reload || true
elif [ "$init_system" = init ]; then
    stop amazon-ssm-agent || true
fi
