#!/bin/sh
# Stands in for systemctl(1): a unit is a folder with `active` and `enabled` in $ROOT/units. A unit that is
# started is a process in $ROOT/proc, and writes into the agent's log what a healthy agent writes.
# The words of is-active and is-enabled, and their exit codes, are those of systemd 252.
echo "systemctl $*" >>"$ROOT/calls"
unit=$ROOT/units/${2%.service}
mkdir -p "$unit"
case $2 in snap.*) pid=99999002 ;; *) pid=99999001 ;; esac
case $1 in
    is-active) if [ -e "$unit/active" ]; then echo active; else echo inactive; exit 3; fi ;;
    is-enabled) if [ -e "$unit/enabled" ]; then echo enabled; else echo disabled; exit 1; fi ;;
    enable) : >"$unit/enabled" ;;
    disable) [ -e "$ROOT/stuck" ] || rm -f "$unit/enabled" ;;
    start)
        [ ! -e "$unit/active" ] || exit 0
        : >"$unit/active"
        if [ -e "$ROOT/silences" ]; then rm -f "$ROOT/proc/net/tcp"; fi
        mkdir -p "$ROOT/proc/$pid"
        echo amazon-ssm-agen >"$ROOT/proc/$pid/comm"
        echo "$pid (amazon-ssm-agen) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5000 0" >"$ROOT/proc/$pid/stat"
        sed "s/^/$(date '+%Y-%m-%d %H:%M:%S').0000 INFO /" "$ROOT/start.log" >>"$ROOT/var/log/amazon/ssm/amazon-ssm-agent.log"
        ;;
    stop)
        rm -rf "$unit/active" "$ROOT/proc/$pid"
        ;;
    *)
        echo "systemctl: not recorded: $*" >&2
        exit 99
        ;;
esac
