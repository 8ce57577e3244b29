#!/bin/sh
# Stands in for rpm(8): keeps one package in $ROOT/rpmdb and says what rpm says.
# Recorded with rpm 4.18.0 (Debian 12) over packages built for it, in a root of their own; no RHEL, Amazon
# Linux or SUSE was at hand. The agent's own scripts enable and start it each time it is laid (%posttrans), and
# stop and disable it before it goes (%preun).
db=$ROOT/rpmdb
binary=$ROOT/usr/bin/amazon-ssm-agent
installed() { cat "$db" 2>/dev/null; }

for last; do :; done
echo "rpm $*" >>"$ROOT/calls"
case "$*" in
    '--eval %{_arch}') echo x86_64 ;;
    -qp\ --qf\ *)
        if ! grep -q '^amazon-ssm-agent ' "$last"; then
            echo "error: $last: not an rpm package (or package manifest)" >&2
            exit 1
        fi
        head -n 1 "$last"
        ;;
    -q\ --qf\ *)
        if [ -z "$(installed)" ]; then
            echo 'package amazon-ssm-agent is not installed'
            exit 1
        fi
        installed
        ;;
    -V\ *)
        if [ ! -e "$binary" ]; then
            echo 'missing     /usr/bin/amazon-ssm-agent'
            exit 1
        fi
        ;;
    -U\ *)
        if [ -e "$ROOT/locked" ]; then
            rm "$ROOT/locked"
            echo "error: can't create transaction lock on /var/lib/rpm/.rpm.lock (Resource temporarily unavailable)" >&2
            exit 1
        fi
        new=$(awk 'NR == 1 { print $2 "-1" }' "$last")
        case "$*" in
            *--replacepkgs*) ;;
            *)
                if [ "$(installed)" = "$new" ]; then
                    printf '\tpackage amazon-ssm-agent-%s.x86_64 is already installed\n' "$new" >&2
                    exit 2
                fi
                ;;
        esac
        if [ -e "$ROOT/takes-state" ]; then
            rm -rf "$ROOT/var/lib/amazon/ssm/Vault"
            echo 'took the state' >>"$ROOT/calls"
        fi
        echo "$new" >"$db"
        if [ -e "$ROOT/half" ]; then exit 0; fi
        printf '#!/bin/sh\n' >"$binary"
        chmod 755 "$binary"
        "$ROOT/bin/systemctl" enable amazon-ssm-agent
        "$ROOT/bin/systemctl" start amazon-ssm-agent
        ;;
    -e\ *)
        if [ -z "$(installed)" ]; then
            echo 'error: package amazon-ssm-agent is not installed' >&2
            exit 1
        fi
        if [ -e "$ROOT/takes-state" ]; then
            rm -rf "$ROOT/var/lib/amazon/ssm/Vault"
            echo 'took the state' >>"$ROOT/calls"
        fi
        "$ROOT/bin/systemctl" stop amazon-ssm-agent
        "$ROOT/bin/systemctl" disable amazon-ssm-agent
        rm -f "$db" "$binary"
        ;;
    *)
        echo "rpm: not recorded: $*" >&2
        exit 99
        ;;
esac
