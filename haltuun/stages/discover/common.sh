# What the scripts that look at a host share: bounded commands, metadata and TCP with the tools that
# are there. It is put before them. POSIX sh; writes no file (so no here-documents, which
# some shells keep in /tmp).
# shellcheck shell=sh
# shellcheck disable=SC2034,SC2317,SC2329 # used by the script that follows

set -u
# HALTUUN_ROOT and HALTUUN_METADATA are for tests; on a host both are unset.
ROOT=${HALTUUN_ROOT:-}
TAB=$(printf '\t')
NL='
'
METADATA=${HALTUUN_METADATA:-169.254.169.254:80}

have() { command -v "$1" >/dev/null 2>&1; }

# bounded SECONDS COMMAND...: exit 124 when it takes longer. Old busybox wants -t; some hosts have none.
if timeout 5 true >/dev/null 2>&1; then
    bounded() { timeout "$@"; }
elif timeout -t 5 true >/dev/null 2>&1; then
    bounded() { timeout -t "$@"; }
else
    bounded() {
        shift
        "$@"
    }
fi

# say KEY FIELD...: one line, fields apart by tabs; tabs and line ends inside a field become spaces.
say() {
    line=$1
    shift
    for field in "$@"; do
        case $field in
            *"$TAB"* | *"$NL"*) field=$(printf '%s' "$field" | tr '\t\n' '  ') ;;
        esac
        line=$line$TAB$field
    done
    printf '%s\n' "$line"
}

# http METHOD PATH [HEADER]: asks the metadata service, never through a proxy. Prints the body, then a
# line with the status (000: no answer). Returns 3 when the host has no tool for this.
http() {
    if have curl; then
        body=$(bounded 4 curl -q -s --noproxy '*' -m 3 -X "$1" -H "${3:-Accept: */*}" \
            -w '\n%{http_code}' "http://$METADATA$2" 2>/dev/null)
        printf '%s\n' "${body:-000}"
    elif [ "$1" = GET ] && have wget || wget --help 2>&1 | grep -q -e '--method'; then
        method=
        [ "$1" = GET ] || method="--method=$1"
        body=$(
            export no_proxy='*' http_proxy=''
            # shellcheck disable=SC2086 # empty or one word
            bounded 4 wget -q -O - -T 3 $method --header "${3:-Accept: */*}" "http://$METADATA$2" 2>/dev/null
        )
        case $? in
            0) printf '%s\n200\n' "$body" ;;
            8) printf '400\n' ;; # GNU wget: the server answered with an error
            *) printf '000\n' ;;
        esac
    elif have bash; then
        # shellcheck disable=SC2016 # for bash to expand
        bounded 4 bash -c 'exec 3<>"/dev/tcp/$1/$2" || exit 1
            printf "%s %s HTTP/1.0\r\nHost: %s\r\n%s\r\n\r\n" "$3" "$4" "$1" "$5" >&3; cat <&3' \
            http "${METADATA%:*}" "${METADATA#*:}" "$1" "$2" "${3:-Accept: */*}" 2>/dev/null | http_answer
    elif have perl; then
        # shellcheck disable=SC2016 # for perl to expand
        bounded 4 perl -MIO::Socket::INET -e '
            $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], Timeout => 3) or exit 1;
            print $s "$ARGV[1] $ARGV[2] HTTP/1.0\r\nHost: metadata\r\n$ARGV[3]\r\n\r\n"; print <$s>;' \
            "$METADATA" "$1" "$2" "${3:-Accept: */*}" 2>/dev/null | http_answer
    else
        return 3
    fi
}

# A raw answer as http() prints it.
http_answer() {
    tr -d '\r' | awk '
        NR == 1 { status = $2; head = 1; next }
        head && $0 == "" { head = 0; next }
        !head { print }
        END { print status == "" ? "000" : status }'
}

status_of() { printf '%s\n' "$1" | tail -n 1; }
body_of() { printf '%s\n' "$1" | sed '$d'; }

# metadata PATH: prints the value and returns 0, or returns 1. With a session token where there is one.
metadata() {
    answer=$(http GET "/latest/$1" "X-aws-ec2-metadata-token: ${METADATA_TOKEN:-none}")
    [ "$(status_of "$answer")" = 200 ] || return 1
    body_of "$answer"
}

# Sets METADATA_TOKEN and METADATA_V2 (yes, no, or the reason why it is not known).
metadata_begin() {
    METADATA_TOKEN=
    answer=$(http PUT /latest/api/token 'X-aws-ec2-metadata-token-ttl-seconds: 300') || {
        METADATA_V2='no curl, wget, bash or perl to ask with'
        return
    }
    if [ "$(status_of "$answer")" = 200 ]; then
        METADATA_TOKEN=$(body_of "$answer")
        METADATA_V2=yes
    else
        METADATA_V2=no
    fi
}

# say_metadata: who this machine is, by its metadata. Sets METADATA_ID and METADATA_ROLE, "" without.
say_metadata() {
    metadata_begin
    say imds.v2 "$METADATA_V2"
    METADATA_ID=$(metadata meta-data/instance-id) && say imds.instance-id "$METADATA_ID"
    document=$(metadata dynamic/instance-identity/document) && {
        say imds.account "$(printf '%s\n' "$document" | sed -n 's/.*"accountId" *: *"\([0-9]*\)".*/\1/p')"
        say imds.region "$(printf '%s\n' "$document" | sed -n 's/.*"region" *: *"\([a-z0-9-]*\)".*/\1/p')"
    }
    METADATA_ROLE=
    if [ -n "$METADATA_ID" ]; then
        METADATA_ROLE=$(metadata meta-data/iam/security-credentials/ | head -n 1)
    fi
    # Nitro and Xen put the instance id into the firmware's tables too.
    asset=$(cat "$ROOT/sys/devices/virtual/dmi/id/board_asset_tag" 2>/dev/null)
    case $asset in
        i-*) say dmi.instance-id "$asset" ;;
    esac
}
