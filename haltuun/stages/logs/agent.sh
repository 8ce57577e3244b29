# shellcheck shell=sh
# shellcheck disable=SC2034 # lock and unit are used by what follows
# Follows discover's common.sh. The CloudWatch agent, as note.sh and back.sh look at it.
home=$ROOT/opt/aws/amazon-cloudwatch-agent
etc=$home/etc
ctl=$home/bin/amazon-cloudwatch-agent-ctl
unit=amazon-cloudwatch-agent
lock=$ROOT/var/lib/haltuun/logs
noted=$lock/before
# Folders that its package and its start bring where there are none, the deepest first.
FOLDERS="/etc/systemd/system/multi-user.target.wants /etc/systemd/system /etc/systemd /etc/init /etc/amazon
/opt/aws /opt /var/log/amazon /var/run/amazon"

# package_state: installed (be it half), config-files (removed, its configuration is left) or none.
package_state() {
    case $(dpkg-query -W -f '${Status}' "$unit" 2>/dev/null) in
        '' | *not-installed) ;;
        *config-files)
            echo config-files
            return
            ;;
        *)
            echo installed
            return
            ;;
    esac
    if have rpm && rpm -q "$unit" >/dev/null 2>&1; then echo installed; else echo none; fi
}

agent_is_there() {
    [ -x "$ctl" ] || [ "$(package_state)" = installed ]
}

agent_runs() {
    bounded 20 "$ctl" -a status 2>/dev/null | grep -q '"status": *"running"'
}

agent_version() {
    version=$(cat "$home/bin/CWAGENT_VERSION" 2>/dev/null)
    echo "${version:-unknown}"
}

# What it would read at its next start.
agent_is_configured() {
    for file in "$etc/amazon-cloudwatch-agent.json" "$etc/amazon-cloudwatch-agent.toml" \
        "$etc"/amazon-cloudwatch-agent.d/*; do
        if [ -s "$file" ]; then return 0; fi
    done
    return 1
}

# Under systemd; nothing elsewhere, where a job starts or not by its own file.
agent_starts() {
    have systemctl || return 0
    bounded 20 systemctl is-enabled "$unit.service" 2>/dev/null | head -n 1
}

is_in() { # FILE NAME: of /etc/passwd or /etc/group
    grep -q "^$2:" "$ROOT/etc/$1" 2>/dev/null
}

# note KEY: its value as it was noted.
note() {
    sed -n "s/^$1 //p" "$noted" 2>/dev/null
}

# is_noted INSTANCE: wholly, and of this very host: an image brings the note of the host that it was made of.
is_noted() {
    [ "$(tail -n 1 "$noted" 2>/dev/null)" = end ] && [ "$(note instance)" = "$1" ]
}

# hold: one at a time. Where no link can be made (read-only, no inode left) the lock would be waited for until
# this is killed: ln says why.
hold() {
    mkdir -p "$lock" && ln -sf probe "$lock/probe.$$" || exit 5
    rm -f "$lock/probe.$$"
    take_lock
    trap release_lock EXIT
}
