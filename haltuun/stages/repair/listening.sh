#!/bin/sh
# What listens on the host's TCP ports is none of a repair's business: it listens afterwards as before.
# Needs host.sh and job.sh before it.
# shellcheck disable=SC2034,SC2153,SC2154 # shared with the scripts before and after it

# Ports in hexadecimal, one a line; state 0A is LISTEN (Linux, net/tcp_states.h).
listening() {
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
        awk '$4 == "0A" { sub(/.*:/, "", $2); print $2 }' | sort -u
}

# Those that listened when the repair began, and do not now.
silenced() {
    [ -s "$NOTES/listening" ] || return 0
    listening >"$JOB_DIR/listening"
    while read -r port; do
        grep -qx "$port" "$JOB_DIR/listening" || printf '%d ' "0x$port"
    done <"$NOTES/listening"
}

# As silenced, once what comes back by itself has come back.
still_silenced() {
    last=$(($(date +%s) + LISTEN_WAIT_S))
    while lost=$(silenced) && [ -n "$lost" ] && [ "$(date +%s)" -lt "$last" ]; do
        sleep 1
    done
    printf '%s' "${lost% }"
}

# give_back_for_them PORTS…: the repair is taken back as far as that can be done, which may bring them back.
give_back_for_them() {
    say silenced "$*"
    case $ACTION in
        clear | aside) give_back ;;
        restart) [ -z "$UNFINISHED" ] || give_back ;;
        install) take_install_back ;;
        service) services_as_before ;;
    esac
    say still_silenced "$(still_silenced)"
}
