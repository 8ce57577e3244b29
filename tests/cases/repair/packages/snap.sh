#!/bin/sh
# Stands in for snap(8): one classic snap with one service, in $ROOT/snap.
# `snap info FILE` was recorded with snap 2.57.6 (Debian 12) over a snap made for it. What needs snapd itself
# was not run by us: the words of install, start, stop and remove are those of snap's own client.
echo "snap $*" >>"$ROOT/calls"
unit=snap.amazon-ssm-agent.amazon-ssm-agent
there=$ROOT/snap/amazon-ssm-agent/current
for last; do :; done
case "$*" in
    info\ *)
        if ! grep -q '^amazon-ssm-agent ' "$last"; then
            echo "error: no snap found for \"$last\"" >&2
            exit 1
        fi
        printf 'path:    "%s"\n' "$last"
        cat <<'RECORDED'
name:    amazon-ssm-agent
summary: Agent to enable remote management of your Amazon EC2 instance
  configuration
RECORDED
        printf 'version: %s classic\n' "$(cut -d' ' -f2 "$last")"
        cat <<'RECORDED'
license: unset
description: |
  x
services:
  amazon-ssm-agent: simple, disabled, inactive
RECORDED
        ;;
    install\ --dangerous\ --classic\ *)
        if [ -e "$ROOT/locked" ]; then
            rm "$ROOT/locked"
            echo 'error: snap "amazon-ssm-agent" has "auto-refresh" change in progress' >&2
            exit 1
        fi
        version=$(cut -d' ' -f2 "$last")
        mkdir -p "$there/meta"
        printf "name: amazon-ssm-agent\nversion: '%s'\nconfinement: classic\n" "$version" >"$there/meta/snap.yaml"
        printf '#!/bin/sh\n' >"$there/amazon-ssm-agent"
        chmod 755 "$there/amazon-ssm-agent"
        "$ROOT/bin/systemctl" enable "$unit"
        "$ROOT/bin/systemctl" start "$unit"
        echo "amazon-ssm-agent $version installed"
        ;;
    'start amazon-ssm-agent' | 'start --enable amazon-ssm-agent')
        [ "$2" != --enable ] || "$ROOT/bin/systemctl" enable "$unit"
        "$ROOT/bin/systemctl" start "$unit"
        echo Started.
        ;;
    'stop amazon-ssm-agent' | 'stop --disable amazon-ssm-agent')
        [ "$2" != --disable ] || "$ROOT/bin/systemctl" disable "$unit"
        "$ROOT/bin/systemctl" stop "$unit"
        echo Stopped.
        ;;
    'remove amazon-ssm-agent')
        "$ROOT/bin/systemctl" stop "$unit"
        "$ROOT/bin/systemctl" disable "$unit"
        if [ -e "$ROOT/takes-state" ]; then
            rm -rf "$ROOT/var/lib/amazon/ssm/Vault"
            echo 'took the state' >>"$ROOT/calls"
        fi
        rm -rf "$ROOT/snap/amazon-ssm-agent"
        echo 'amazon-ssm-agent removed'
        ;;
    *)
        echo "snap: not recorded: $*" >&2
        exit 99
        ;;
esac
