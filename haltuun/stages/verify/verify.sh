# Looks from the host at what its agent needs: metadata, clock, proxy, names, TCP, TLS. Read only.
# Needs common.sh before it. Environment: NAMES (host names of the services), WAIT_REACH_S and
# WAIT_ROLE_S (how long the services, and the role in the metadata, may take to appear).
# shellcheck shell=sh
# shellcheck disable=SC2154 # METADATA_… are of common.sh
# shellcheck disable=SC2030,SC2031 # the proxy is exported to one command only, on purpose

BEGUN=$(date -u +%s)
# early SECONDS: not yet so long after the beginning.
early() { [ $(($(date -u +%s) - BEGUN)) -lt "${1:-0}" ]; }

# The agent's proxy is an environment variable and nothing else (amazon-ssm-agent proxy_unix.go:22-26):
# that of its process, else what its unit or job would give it.
agent_environment() {
    for dir in "$ROOT"/proc/[0-9]*; do
        read -r comm 2>/dev/null <"$dir/comm" || continue
        case $comm in
            amazon-ssm-agen*)
                tr '\000' '\n' <"$dir/environ" 2>/dev/null
                return
                ;;
        esac
    done
    cat "$ROOT"/etc/systemd/system/amazon-ssm-agent.service.d/*.conf \
        "$ROOT"/etc/systemd/system/snap.amazon-ssm-agent.amazon-ssm-agent.service.d/*.conf 2>/dev/null |
        sed -n 's/^[[:space:]]*Environment=//p' | tr -d "\"'" | tr ' ' '\n'
    cat "$ROOT/etc/init/amazon-ssm-agent.conf" "$ROOT/etc/init/amazon-ssm-agent.override" 2>/dev/null |
        sed -n 's/^[[:space:]]*env[[:space:]]\{1,\}//p' | tr -d "\"'"
}

variable() {
    printf '%s\n' "$ENVIRONMENT" | sed -n "s/^$1=//p" | tail -n 1
}

look_proxy() {
    ENVIRONMENT=$(agent_environment)
    PROXY=$(variable https_proxy)
    [ -n "$PROXY" ] || PROXY=$(variable HTTPS_PROXY)
    plain_proxy=$(variable http_proxy)
    [ -n "$plain_proxy" ] || plain_proxy=$(variable HTTP_PROXY)
    exceptions=$(variable no_proxy)
    [ -n "$exceptions" ] || exceptions=$(variable NO_PROXY)
    # What stands before @ is a password: it stays on the host.
    say proxy "$(printf '%s' "${PROXY:-$plain_proxy}" | sed 's#//.*@#//***@#; s#^[^/]*@#***@#')"
    say proxy.except "$exceptions"
    # Metadata is plain HTTP, so http_proxy is what catches it.
    say proxy.http "$([ -n "$plain_proxy" ] && echo yes || echo no)"
    ENVIRONMENT=
    say "done" proxy
}

# resolve NAME: prints addresses; 2: cannot, 1: there is no such name.
resolve() {
    case $1 in
        *[!0-9.]*) ;;
        *)
            printf '%s\n' "$1"
            return 0
            ;;
    esac
    if have getent; then
        found=$(bounded 10 getent ahostsv4 "$1" 2>/dev/null || bounded 10 getent hosts "$1" 2>/dev/null)
        printf '%s\n' "$found" | awk 'NF && !seen[$1]++ { print $1 }'
        [ -n "$found" ]
    elif have nslookup; then
        found=$(bounded 10 nslookup "$1" 2>/dev/null | awk '/^Name:/ { on = 1 } on && /^Address/ { print $NF }')
        printf '%s\n' "$found"
        [ -n "$found" ]
    else
        return 2
    fi
}

# connect ADDRESS PORT: prints open, refused, timeout, failed WHY, or cannot.
connect() {
    if have bash; then
        # shellcheck disable=SC2016 # for bash to expand
        said=$(bounded 5 bash -c 'exec 3<>"/dev/tcp/$1/$2"' connect "$1" "$2" 2>&1)
        code=$?
    elif have perl; then
        # shellcheck disable=SC2016 # for perl to expand
        said=$(bounded 6 perl -MIO::Socket::INET -e 'IO::Socket::INET->new(PeerAddr => $ARGV[0],
            PeerPort => $ARGV[1], Timeout => 5) or die "$@\n"' "$1" "$2" 2>&1)
        code=$?
    elif have curl; then
        said=$(curl -q -s -S --noproxy '*' -o /dev/null --connect-timeout 5 -m 6 "http://$1:$2/" 2>&1)
        case $? in
            7)
                code=1
                # It says the same of a refusal whatever its version, but names what has no route.
                case $said in
                    *[Uu]nreachable* | *'No route'*) ;;
                    *) said=refused ;;
                esac
                ;;
            28) code=124 ;;
            *) code=0 ;; # whatever else went wrong, a connection stood
        esac
    else
        echo cannot
        return
    fi
    case $code:$said in
        0:*) echo open ;;
        *[Rr]efused*) echo refused ;;
        124:* | 143:* | *'timed out'* | *[Tt]imeout*) echo timeout ;;
        *) echo "failed $(printf '%s' "$said" | tail -n 1 | cut -c 1-160)" ;;
    esac
}

# tls NAME: prints ok, untrusted WHY, failed WHY, or cannot. Through the agent's proxy where it has one.
tls() {
    if have curl; then
        said=$(
            export https_proxy="$PROXY" HTTPS_PROXY="$PROXY"
            bounded 20 curl -q -s -S -o /dev/null --connect-timeout 6 -m 15 "https://$1/" 2>&1
        )
        case $? in
            0) echo ok ;;
            51 | 60 | 77) echo "untrusted $(printf '%s' "$said" | head -n 1 | cut -c 1-160)" ;;
            *) echo "failed $(printf '%s' "$said" | head -n 1 | sed 's#//[^/ ]*@#//***@#' | cut -c 1-160)" ;;
        esac
    elif wget --version 2>/dev/null | grep -q GNU; then
        said=$(
            export https_proxy="$PROXY"
            bounded 20 wget -nv -O /dev/null -T 10 -t 1 "https://$1/" 2>&1
        )
        case $? in
            0 | 8) echo ok ;;
            5) echo "untrusted $(printf '%s' "$said" | head -n 1 | cut -c 1-160)" ;;
            *) echo "failed $(printf '%s' "$said" | head -n 1 | cut -c 1-160)" ;;
        esac
    elif [ -n "$PROXY" ]; then
        echo cannot
    elif have openssl; then
        said=$(bounded 15 openssl s_client -connect "$1:443" -servername "$1" </dev/null 2>&1)
        case $said in
            *'Verify return code: 0 '*) echo ok ;;
            *'Verify return code: '*)
                echo "untrusted $(printf '%s\n' "$said" | sed -n 's/^ *Verify return code: //p' | tail -n 1)"
                ;;
            *) echo "failed $(printf '%s\n' "$said" | tail -n 1 | cut -c 1-160)" ;;
        esac
    elif have python3; then
        said=$(bounded 15 python3 -c 'import socket, ssl, sys
s = socket.create_connection((sys.argv[1], 443), 10)
ssl.create_default_context().wrap_socket(s, server_hostname=sys.argv[1]).close()' "$1" 2>&1)
        case $?:$said in
            0:*) echo ok ;;
            *CERTIFICATE_VERIFY_FAILED*) echo "untrusted $(printf '%s\n' "$said" | tail -n 1 | cut -c 1-160)" ;;
            *) echo "failed $(printf '%s\n' "$said" | tail -n 1 | cut -c 1-160)" ;;
        esac
    else
        echo cannot
    fi
}

# One service, or the proxy that stands for it. One printf, so that lines of parallel looks stay whole.
look_name() {
    target=$1 port=443
    if [ -n "$PROXY" ]; then
        target=$(printf '%s' "$PROXY" | sed 's#^[a-z]*://##; s#.*@##; s#/.*##')
        case $target in
            *:*) port=${target##*:} target=${target%:*} ;;
            *) port=3128 ;;
        esac
    fi
    addresses=$(resolve "$target")
    case $? in
        0) dns=ok ;;
        2) dns=cannot ;;
        *) dns=fail ;;
    esac
    state=no-address
    if [ "$dns" != fail ]; then
        state=$(connect "$target" "$port")
        while [ "$state" != open ] && [ "$state" != cannot ] && early "${WAIT_REACH_S:-0}"; do
            sleep 1
            state=$(connect "$target" "$port")
        done
    fi
    trust='closed'
    case $state in
        open | cannot) trust=$(tls "$1") ;;
    esac
    printf 'dns\t%s\t%s\t%s\ntcp\t%s\t%s\ntls\t%s\t%s\n' "$1" "$dns" \
        "$(printf '%s' "$addresses" | tr '\n' ' ')" "$1" "$state" "$1" "$(printf '%s' "$trust" | tr '\t\n' '  ')"
}

say verify 1
say epoch "$BEGUN"
say_metadata
while [ -n "$METADATA_ID" ] && [ -z "$METADATA_ROLE" ] && early "${WAIT_ROLE_S:-0}"; do
    sleep 1
    METADATA_ROLE=$(metadata meta-data/iam/security-credentials/ | head -n 1)
done
say role "$METADATA_ROLE"
answer=$(http GET /latest/meta-data/instance-id) && say imds.v1 "$(status_of "$answer")"
look_proxy
BEGUN=$(date -u +%s)
for name in $NAMES; do
    look_name "$name" &
done
wait
say end verify
