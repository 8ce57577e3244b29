#!/bin/sh
# What probe.sh and repair.sh share; sent in front of either, after haltuun/host/metadata.sh. POSIX sh with
# coreutils, awk and sed.
# shellcheck disable=SC2034 # the variables are used by the script that follows
set -u
umask 077
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin
LC_ALL=C
export PATH LC_ALL

STATE=/var/lib/amazon/ssm
KEY_FILE=$STATE/Vault/Store/RegistrationKey
FINGERPRINT_FILE=$STATE/Vault/Store/InstanceFingerprint
MANIFEST=$STATE/Vault/Manifest
IDENTITY_CONFIG=$STATE/runtimeconfig/identity_config.json
AGENT_LOG=/var/log/amazon/ssm/amazon-ssm-agent.log
UPSTART_LOG=/var/log/upstart/amazon-ssm-agent.log
CREDENTIALS=/root/.aws/credentials
CONFIG=/etc/amazon/ssm/amazon-ssm-agent.json
HALTUUN=/var/lib/haltuun
UNIT=amazon-ssm-agent
SNAP_UNIT=snap.amazon-ssm-agent.amazon-ssm-agent

say() {
    printf '%s=%s\n' "$1" "$2"
}

yes_no() {
    if "$@" >/dev/null 2>&1; then echo yes; else echo no; fi
}

# What may be a password never leaves the host: all up to the last @ of a proxy's line, of a URL and of
# user:password@, however it is written; nor do key ids.
redact() {
    sed -e 's#\([Pp][Rr][Oo][Xx][Yy][=:][[:space:]]*\)\([A-Za-z0-9]*://\)\{0,1\}.*@#\1\2***@#' \
        -e 's#://[^[:space:]"]*@#://***@#g' \
        -e 's#[^[:space:]"=/:]*:[^/[:space:]"][^[:space:]"]*@#***@#g' \
        -e 's/\(A[KS]IA\)[0-9A-Z]\{12,\}/\1***/g'
}

# numbered NAME: of lines "number<tab>text" those that may be shown, as "NAMEnumber:text". A colon before the text
# would make the number a user and the text a password; and a password that is cut in two is not known for one.
numbered() {
    redact | cut -c 1-700 | awk -v name="$1" '{ number = $1; sub(/^[0-9]+\t/, ""); print name number ":" $0 }'
}

init_system() {
    if [ -d /run/systemd/system ] || [ "$(cat /proc/1/comm 2>/dev/null)" = systemd ]; then
        echo systemd
    elif [ "$(cat /proc/1/comm 2>/dev/null)" = init ] && have initctl; then
        echo upstart
    else
        echo sysv
    fi
}

agent_binary() {
    if have amazon-ssm-agent; then
        command -v amazon-ssm-agent
    elif [ -x /snap/amazon-ssm-agent/current/amazon-ssm-agent ]; then
        echo /snap/amazon-ssm-agent/current/amazon-ssm-agent
    fi
}

deb_version() {
    have dpkg-query || return 0
    dpkg-query -W -f '${Status} ${Version}\n' amazon-ssm-agent 2>/dev/null |
        sed -n 's/^install ok installed //p;s/^hold ok installed //p'
}

# Something of the deb is there, be it half.
deb_is_unpacked() {
    case $(dpkg-query -W -f '${Status}' amazon-ssm-agent 2>/dev/null) in
        '' | *not-installed | *config-files) return 1 ;;
    esac
}

# What Haltuun itself laid where none was, and did not bring to its end. Its mark stays after a good installation:
# a deb that was configured before was an agent in use, be it Haltuun's or somebody's, and is nobody's to remove.
deb_is_begun() {
    deb_is_unpacked && [ -z "$(deb_version)" ] && [ -e "$HALTUUN/installed/$UNIT" ] &&
        [ -z "$(dpkg-query -W -f '${Config-Version}' "$UNIT" 2>/dev/null)" ]
}

snap_version() {
    [ -e /snap/amazon-ssm-agent/current ] || return 0
    version=$(sed -n "s/^version:[[:space:]]*'\{0,1\}\([^']*\)'\{0,1\}$/\1/p" \
        /snap/amazon-ssm-agent/current/meta/snap.yaml 2>/dev/null | head -n 1)
    echo "${version:-unknown}"
}

rpm_version() {
    have rpm || return 0
    rpm -q --qf '%{VERSION}-%{RELEASE}\n' amazon-ssm-agent 2>/dev/null | grep -v 'not installed' | head -n 1
}

# unit_starts UNIT: at the next boot. Under systemd; 2 where that does not answer. Of a unit that is not there
# it tells on stderr, with the words that it has for a bus that is not there, too; from 253 on "not-found".
unit_starts() {
    case $(bounded 20 systemctl is-enabled "$1" 2>&1 | tail -n 1) in
        enabled*) return 0 ;;
        *'unit file state'*'No such file'* | not-found) return 1 ;;
        '' | *' '*) return 2 ;;
        *) return 1 ;;
    esac
}

# The unit of the agent in use: where deb and snap are, the deb's unless only the snap's starts.
unit_in_use() {
    if [ -z "$(snap_version)" ]; then
        echo "$UNIT"
    elif [ -z "$(deb_version)" ]; then
        echo "$SNAP_UNIT"
    else
        unit_starts "$UNIT"
        if [ $? = 1 ] && unit_starts "$SNAP_UNIT"; then echo "$SNAP_UNIT"; else echo "$UNIT"; fi
    fi
}

# unit_state UNIT: "running, enabled", "stopped, disabled", …; nothing where systemd does not answer.
unit_state() {
    case $(bounded 20 systemctl is-active "$1" 2>/dev/null) in
        active | activating | reloading) runs=running ;;
        inactive | failed | deactivating) runs=stopped ;;
        *) return 1 ;;
    esac
    unit_starts "$1"
    case $? in
        0) echo "$runs, enabled" ;;
        1) echo "$runs, disabled" ;;
        *) return 1 ;;
    esac
}

service_enabled() {
    case $(init_system) in
        systemd)
            unit_starts "$(unit_in_use)"
            case $? in
                0) echo yes ;;
                1) echo no ;;
                *) echo unknown ;;
            esac
            ;;
        upstart)
            if [ ! -e /etc/init/$UNIT.conf ]; then
                echo no
            elif grep -q '^[[:space:]]*manual' /etc/init/$UNIT.override 2>/dev/null; then
                echo no
            else
                yes_no grep -q '^[[:space:]]*start on' /etc/init/$UNIT.conf
            fi
            ;;
        *) echo unknown ;;
    esac
}

# "comm pid start" of the agent's own processes; those of containers are in other pid namespaces.
# Names are cut to 15 characters by the kernel.
agent_processes() {
    here=$(readlink /proc/self/ns/pid 2>/dev/null)
    for dir in /proc/[0-9]*; do
        { read -r comm <"$dir/comm"; } 2>/dev/null || continue
        case $comm in
            amazon-ssm-agen | ssm-agent-worke | ssm-document-w* | ssm-session-w*) ;;
            *) continue ;;
        esac
        there=$(readlink "$dir/ns/pid" 2>/dev/null)
        if [ -n "$here" ] && [ -n "$there" ] && [ "$here" != "$there" ]; then continue; fi
        about=$(sed 's/^.*) //' "$dir/stat" 2>/dev/null | awk '{print $1, $20}')
        case $about in
            Z* | X* | '') continue ;;
        esac
        echo "$comm ${dir#/proc/} ${about#* }"
    done
}

# file_sum FILE: its sha256, or none.
file_sum() {
    if [ -f "$1" ]; then sha256sum <"$1" | cut -d' ' -f1; else echo none; fi
}

vault_value() {
    json_string "$KEY_FILE" "$1"
}
