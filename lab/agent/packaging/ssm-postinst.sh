#!/bin/sh
set -e
# Like the real package: branch on the name of PID 1, and start at once.
init_system=$(cat /proc/1/comm)
if [ "$init_system" = systemd ]; then
    systemctl daemon-reload
    systemctl enable amazon-ssm-agent
    echo "Starting agent"
    systemctl start amazon-ssm-agent
elif [ "$init_system" = init ]; then
    echo "Starting agent"
    initctl reload-configuration || true
    start amazon-ssm-agent || true
fi
