#!/bin/sh
# As AWS's: the user and group that it makes stay when it is removed.
set -e
if ! grep -q '^cwagent:' /etc/group; then
    groupadd -r cwagent
fi
if ! id cwagent >/dev/null 2>&1; then
    useradd -r -M -d /home/cwagent -g cwagent -c 'Cloudwatch Agent' -s /usr/sbin/nologin cwagent
fi
