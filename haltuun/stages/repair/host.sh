#!/bin/sh
# What probe.sh and repair.sh share; sent in front of either. POSIX sh with coreutils, awk and sed.
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
CREDENTIALS=/root/.aws/credentials
HALTUUN=/var/lib/haltuun
UNIT=amazon-ssm-agent
SNAP_UNIT=snap.amazon-ssm-agent.amazon-ssm-agent

say() {
    printf '%s=%s\n' "$1" "$2"
}

yes_no() {
    if "$@" >/dev/null 2>&1; then echo yes; else echo no; fi
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# Bounded where the host has timeout(1); a hanging service manager must not hang the job for ever.
bounded() {
    limit=$1
    shift
    if have timeout; then timeout "$limit" "$@"; else "$@"; fi
}

# The first string under a key of a JSON file. Enough for the flat files of the agent.
json_string() {
    sed -n "s/.*\"$2\"[[:space:]]*:[[:space:]]*\"\([^\"]*\)\".*/\1/p" "$1" 2>/dev/null | head -n 1
}

# Users and passwords in URLs, and key ids, never leave the host.
redact() {
    sed -e 's#://[^/@[:space:]]*@#://***@#g' -e 's/\(A[KS]IA\)[0-9A-Z]\{12,\}/\1***/g'
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

service_enabled() {
    case $(init_system) in
        systemd)
            name=$UNIT
            [ -n "$(snap_version)" ] && [ -z "$(deb_version)" ] && name=$SNAP_UNIT
            case $(bounded 20 systemctl is-enabled "$name" 2>/dev/null) in enabled*) echo yes ;; *) echo no ;; esac
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

# fetch METHOD PATH [HEADER]: one call to the metadata service with whatever the host has, past any
# proxy. Prints the body; fails unless the answer is 200.
fetch() {
    if have curl; then
        curl -s -f -m 4 --noproxy '*' -X "$1" ${3:+-H "$3"} "http://169.254.169.254$2"
    elif have wget && { [ "$1" = GET ] || wget --help 2>&1 | grep -q -e '--method'; }; then
        fetch_wget "$@"
    elif have python3 || have python; then
        fetch_python "$@"
    elif have perl; then
        fetch_perl "$@"
    elif have bash; then
        fetch_bash "$@"
    else
        return 9
    fi
}

fetch_wget() {
    if wget --help 2>&1 | grep -q -e '--method'; then
        wget -q -O - -T 4 -t 1 --no-proxy --method="$1" ${3:+--header="$3"} "http://169.254.169.254$2"
    else
        env -u http_proxy wget -q -O - -T 4 ${3:+--header "$3"} "http://169.254.169.254$2"
    fi 2>/dev/null
}

fetch_python() {
    python=python3
    have python3 || python=python
    "$python" - "$1" "$2" "${3:-}" 2>/dev/null <<'PY'
import sys
try:
    from http.client import HTTPConnection
except ImportError:
    from httplib import HTTPConnection
method, path, header = sys.argv[1:4]
connection = HTTPConnection("169.254.169.254", 80, timeout=4)
connection.request(method, path, headers=dict([header.split(": ", 1)]) if header else {})
answer = connection.getresponse()
sys.stdout.write(answer.read().decode("utf-8", "replace"))
sys.exit(0 if answer.status == 200 else 1)
PY
}

fetch_perl() {
    perl -e '
        use IO::Socket::INET;
        my ($method, $path, $header) = @ARGV;
        alarm 5;
        my $s = IO::Socket::INET->new(PeerAddr => "169.254.169.254", PeerPort => 80, Timeout => 4) or exit 2;
        print $s "$method $path HTTP/1.0\r\nHost: 169.254.169.254\r\nContent-Length: 0\r\n",
            ($header ? "$header\r\n" : ""), "\r\n";
        local $/;
        my $answer = <$s>;
        exit 1 unless $answer =~ m{^HTTP/\S+ 200};
        $answer =~ s/^.*?\r?\n\r?\n//s;
        print $answer;
    ' "$1" "$2" "${3:-}" 2>/dev/null
}

fetch_bash() {
    # shellcheck disable=SC2016 # expanded by the inner bash
    bounded 5 bash -c '
        exec 3<>/dev/tcp/169.254.169.254/80 || exit 2
        printf "%s %s HTTP/1.0\r\nHost: 169.254.169.254\r\nContent-Length: 0\r\n%s\r\n" "$1" "$2" "${3:+$3
}" >&3
        cat <&3
    ' bash "$1" "$2" "${3:-}" 2>/dev/null | awk '
        NR == 1 && $2 != 200 { bad = 1; exit }
        body { print; next }
        /^\r?$/ { body = 1 }
        END { exit bad || NR == 0 }
    '
}

# Sets IMDS_ID, IMDS_ACCOUNT, IMDS_REGION and IMDS_WAY (v2, v1 or none) from the identity document.
look_at_imds() {
    IMDS_ID='' IMDS_ACCOUNT='' IMDS_REGION='' IMDS_WAY=none
    token=$(fetch PUT /latest/api/token 'X-aws-ec2-metadata-token-ttl-seconds: 60')
    header=${token:+X-aws-ec2-metadata-token: $token}
    document=$(fetch GET /latest/dynamic/instance-identity/document "$header") || document=''
    IMDS_ID=$(printf '%s\n' "$document" | json_string - instanceId)
    IMDS_ACCOUNT=$(printf '%s\n' "$document" | json_string - accountId)
    IMDS_REGION=$(printf '%s\n' "$document" | json_string - region)
    if [ -n "$IMDS_ID" ]; then
        IMDS_WAY=v1
        [ -n "$token" ] && IMDS_WAY=v2
    fi
}

vault_value() {
    json_string "$KEY_FILE" "$1"
}
