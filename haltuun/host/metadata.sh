# Who this machine is, by its metadata service; put before whatever may be laid or done only on one instance.
# shellcheck shell=sh
# shellcheck disable=SC2034 # the variables are used by the script that follows

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
    # No here-document: some shells keep those in a file.
    "$python" -c '
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
sys.exit(0 if answer.status == 200 else 1)' "$1" "$2" "${3:-}" 2>/dev/null
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
