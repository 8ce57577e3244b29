# Runs a job's script on a lab's host so that it can be stood still at each of its steps; see steps.py.
# shellcheck shell=bash
#
# A step is not named anywhere: it is a command after which the host is not what it was. So what a script is
# taught tomorrow is a step as well. bash, for its DEBUG trap, which comes before each command of the script.
haltuun_gate=/var/cache/gate

# What the host is, as far as a repair may change it, without what an agent that runs writes by itself. How much
# of the state is saved is no difference before all of it is.
haltuun_seen() {
    local own=/var/lib/haltuun agent=/var/lib/amazon/ssm comm
    {
        echo "$own"/jobs/*/.run/*
        find "$own" "$agent/Vault" "$agent/registration" /root /etc/amazon /etc/init /etc/systemd/system \
            /var/lib/dpkg/status /usr/bin/amazon-ssm-agent \
            \( -path "$own/jobs" -o -path "$own/saved/*/files/*" -o -name '*EC2*' \) -prune -o \
            -path /root/.aws/credentials -printf '%p %m %U %G %s\n' -o \
            -printf '%p %y %m %U %G %l\n' -type f -exec cksum {} +
        for comm in /proc/[0-9]*/comm; do
            if { read -r comm <"$comm"; } && [ "$comm" = amazon-ssm-agen ]; then echo "$comm"; fi
        done
    } 2>/dev/null | sort | cksum
}

haltuun_step() {
    local seen last='' count=0 stop=''
    # These change nothing by themselves; that the host has changed is noticed at the next one.
    if [[ $1 =~ ^(\[|for|case|return|shift)\  || $1 =~ ^[A-Za-z_]+=[^\ ]*$ ]] && [[ $1 != *'>'* ]]; then
        return 0
    fi
    [ "$BASH_SUBSHELL" = 0 ] || return 0
    read -r stop 2>/dev/null <"$haltuun_gate/stop" || return 0
    seen=$(haltuun_seen)
    [ ! -e "$haltuun_gate/last" ] || read -r count last <"$haltuun_gate/last"
    [ "$seen" != "$last" ] || return 0
    count=$((count + 1))
    echo "$count $seen" >"$haltuun_gate/last"
    printf '%s\t%s\t%s\n' "$count" "${ACTION:-runner}" "${1%%$'\n'*}" >>"$haltuun_gate/steps"
    if [ "$stop" = every ] || [ "$stop" = "$count" ]; then
        echo "$count" >"$haltuun_gate/reached"
        while [ -e "$haltuun_gate/reached" ]; do sleep 0.05; done
    fi
}

set -T
trap 'haltuun_step "$BASH_COMMAND"' DEBUG
haltuun_script=$1
shift
# shellcheck disable=SC1090 # the script that was to be run
. "$haltuun_script"
