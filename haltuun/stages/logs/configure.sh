# shellcheck shell=sh
# shellcheck disable=SC2154 # configuration and action are put before it
# The second step of the document (document.py): the agent takes the configuration, and the host notes which.
ROOT=${HALTUUN_ROOT:-}
ctl=$ROOT/opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl
waited=0
# Where this document runs twice at once, the other run installs the agent and the step before this one failed.
until [ -x "$ctl" ]; do
    if [ "$waited" -ge 60 ]; then
        echo "NOT_INSTALLED: the CloudWatch agent's package could not be installed" >&2
        exit 3
    fi
    sleep 2
    waited=$((waited + 2))
done
"$ctl" -a "$action" -m ec2 -c "ssm:$configuration" -s || exit
umask 022
mkdir -p "$ROOT/var/log/haltuun" || exit 5
printf '%s\n' "$configuration" >"$ROOT/var/log/haltuun/configuration" || exit 5
