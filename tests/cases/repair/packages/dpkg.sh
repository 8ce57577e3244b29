#!/bin/sh
# Stands in for dpkg(1), dpkg-query(1) and dpkg-deb(1), by the name it is called with: keeps the agent's status and
# version in $ROOT/dpkg, and in $ROOT/configured the version that was configured before an attempt which did not come
# to its end. The words are those of dpkg 1.21 (Debian 12). `killed`: it ends half-way, with the script
# that called it; `broken`: the package's own script fails.
echo "${0##*/} $*" >>"$ROOT/calls"
db=$ROOT/dpkg
binary=$ROOT/usr/bin/amazon-ssm-agent
for last; do :; done
case "${0##*/} $*" in
    'dpkg-query '*' base-files') [ ! -e "$ROOT/debian" ] || printf 'install ok installed' ;;
    'dpkg-query '*Config-Version*) cat "$ROOT/configured" 2>/dev/null ;;
    'dpkg-query '*) cat "$db" 2>/dev/null ;;
    'dpkg-deb -f '*' Package') cut -d' ' -f1 "$2" ;;
    'dpkg-deb -f '*' Version') cut -d' ' -f2 "$2" ;;
    'dpkg-deb -f '*' Architecture') cut -d' ' -f3 "$2" ;;
    'dpkg --print-architecture') echo amd64 ;;
    'dpkg -i '*)
        new=$(cut -d' ' -f2 "$last")
        sed -n 's/^install ok installed //p' "$db" 2>/dev/null >"$ROOT/configured.new"
        if [ -s "$ROOT/configured.new" ]; then mv "$ROOT/configured.new" "$ROOT/configured"; fi
        echo "install reinstreq half-installed $new" >"$db"
        rm -f "$binary"
        if [ -e "$ROOT/killed" ]; then
            rm "$ROOT/killed"
            kill -9 "$PPID"
            exit 137
        fi
        if [ -e "$ROOT/broken" ]; then
            echo 'dpkg: error processing package amazon-ssm-agent (--install):' >&2
            exit 1
        fi
        printf '#!/bin/sh\n' >"$binary"
        chmod 755 "$binary"
        echo "install ok installed $new" >"$db"
        rm -f "$ROOT/configured"
        "$ROOT/bin/systemctl" enable amazon-ssm-agent
        "$ROOT/bin/systemctl" start amazon-ssm-agent
        ;;
    'dpkg --remove amazon-ssm-agent')
        "$ROOT/bin/systemctl" stop amazon-ssm-agent
        rm -f "$binary"
        echo 'deinstall ok config-files' >"$db"
        ;;
    *)
        echo "dpkg: not recorded: $*" >&2
        exit 99
        ;;
esac
