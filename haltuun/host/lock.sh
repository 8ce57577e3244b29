# Put before runner.sh by haltuun/jobs.py, and before logs' configure.sh by its document; needs process.sh.
# shellcheck shell=sh
# shellcheck disable=SC2154 # lock is set by what follows
# $lock/held is a link to who holds the host. A link comes into being whole, and only once: the lock and its
# holder in one step.
take_lock() {
    while ! ln -s "$(identity_of $$)" "$lock/held" 2>/dev/null; do
        holder=$(readlink "$lock/held")
        if alive "$holder"; then
            sleep 1
        elif [ -n "$holder" ]; then
            bury "$holder"
        else
            # Nobody holds it: its folder went with who held it, or no link can be made (read-only, no inode left).
            mkdir -p "$lock" 2>/dev/null
            sleep 1
        fi
    done
}

# bury HOLDER: removes a dead holder's lock. Only the one heir of HOLDER (or of its dead heir) may: two that
# both saw it dead would else remove, after each other, the lock of the first to come.
bury() {
    last=$1
    graves=$lock/heir.$last
    while heir=$(readlink "$lock/heir.$last"); do
        if alive "$heir"; then
            sleep 1
            return 0
        fi
        last=$heir
        graves="$graves $lock/heir.$last"
    done
    ln -s "$(identity_of $$)" "$lock/heir.$last" 2>/dev/null || return 0
    if [ "$(readlink "$lock/held")" = "$1" ]; then
        rm -f "$lock/held"
    fi
    # shellcheck disable=SC2086 # a list of names without blanks
    rm -f $graves
}

release_lock() {
    [ "$(readlink "$lock/held")" = "$(identity_of $$)" ] && rm -f "$lock/held"
}
