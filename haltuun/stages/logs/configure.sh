# shellcheck shell=sh
# shellcheck disable=SC2154 # configuration, action and package are put before it
# Follows discover's common.sh, host/process.sh, host/lock.sh and agent.sh. The last step of the document
# (document.py): the agent takes the configuration, and the host notes which.
if [ "$package" != Install ]; then exit 0; fi
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
hold # of two at once, each may remove what the other has just fetched
if [ "$(tail -n 1 "$noted" 2>/dev/null)" != end ]; then
    echo "NOT_NOTED: how the host was before is not noted on it, so nothing is configured" >&2
    exit 6
fi
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
