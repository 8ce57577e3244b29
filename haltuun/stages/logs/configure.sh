# shellcheck shell=sh
# shellcheck disable=SC2154 # configuration and action are put before it
# Follows host/process.sh and host/lock.sh. The second step of the document (document.py): the agent takes the
# configuration, and the host notes which.
ROOT=${HALTUUN_ROOT:-}
ctl=$ROOT/opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl
lock=$ROOT/var/lib/haltuun/logs
waited=0
# Where this document runs twice at once, the other run installs the agent and the step before this one failed.
until [ -x "$ctl" ]; do
    if [ "$waited" -ge 300 ]; then
        echo "NOT_INSTALLED: the CloudWatch agent's package could not be installed" >&2
        exit 3
    fi
    sleep 5
    waited=$((waited + 5))
done
umask 077
mkdir -p "$lock" || exit 5
# Where no link can be made (read-only, no inode left) the lock would be waited for until this is killed: ln says
# why.
ln -sf probe "$lock/probe.$$" || exit 5
rm -f "$lock/probe.$$"
take_lock # of two at once, each may remove what the other has just fetched
trap release_lock EXIT
had=$(cat "$lock/configuration" 2>/dev/null)
rm -f "$lock/configuration"
if [ "$action" = append-config ] && [ -n "$had" ] && [ "$had" != "$configuration" ]; then
    # Else what it shipped would be shipped still. Older agents know no such action.
    "$ctl" -a remove-config -m ec2 -c "ssm:$had" >/dev/null 2>&1
fi
if ! said=$("$ctl" -a "$action" -m ec2 -c "ssm:$configuration" -s 2>&1); then
    printf '%s\n' "$said"
    echo "NOT_CONFIGURED: $(printf '%s\n' "$said" | sed '/^ *$/d' | tail -n 1)" >&2
    exit 4
fi
printf '%s\n' "$said"
printf '%s\n' "$configuration" >"$lock/configuration" || exit 5
