#!/bin/sh
# State is saved, root only and with checksums, before anything of it is changed; and given back.
# Needs host.sh, job.sh and service.sh before it.
# shellcheck disable=SC2034,SC2153 # shared with the scripts before it

# save "WHAT TO COPY…" PATH…: the paths are those that giving back restores.
save() {
    [ -e "$SAVED/COMPLETE" ] && [ "$(cat "$SAVED/run" 2>/dev/null)" = "$RUN_ID" ] && return 0
    # An earlier attempt's copy is kept beside this one.
    [ -e "$SAVED" ] && mv "$SAVED" "$SAVED.$(date +%s).$$"
    mkdir -p "$SAVED/files" || failed "no folder $SAVED"
    chmod 700 "$HALTUUN/saved" "$SAVED"
    for path in $1; do
        [ -e "$path" ] || continue
        need=$(du -sk "$path" | cut -f1)
        free=$(df -Pk "$HALTUUN" | awk 'NR == 2 {print $4}')
        [ "$free" -gt $((need + 2048)) ] || failed "not enough room in $HALTUUN to save $path"
        mkdir -p "$SAVED/files${path%/*}"
        cp -a "$path" "$SAVED/files${path%/*}/" || failed "$path could not be saved"
    done
    shift
    printf '%s\n' "$@" >"$SAVED/restore"
    cp "$NOTES/was_running" "$NOTES/was_enabled" "$SAVED/"
    if ! (cd "$SAVED" && find files -type f -exec sha256sum {} + >SHA256SUMS); then
        failed "the saved files could not be summed"
    fi
    verify_saved "$SAVED" || failed "the saved files do not match their checksums"
    echo "$RUN_ID" >"$SAVED/run"
    : >"$SAVED/COMPLETE"
    sync
}

# Moves a saved path out of the way; giving back then restores it, too.
move_aside() {
    [ -e "$1" ] || return 0
    mkdir -p "$SAVED/moved"
    grep -qxF "$1" "$SAVED/restore" || echo "$1" >>"$SAVED/restore"
    mv "$1" "$SAVED/moved/" || failed "$1 could not be moved aside"
}

verify_saved() {
    [ -e "$1/SHA256SUMS" ] || return 1
    [ ! -s "$1/SHA256SUMS" ] || (cd "$1" && sha256sum -c SHA256SUMS >/dev/null 2>&1)
}

# Puts the noted paths back as they were saved; what stands there now is kept, too.
restore_files() {
    verify_saved "$1" || return 1
    kept=$1/replaced.$(date +%s).$$
    while read -r path; do
        if [ -e "$path" ]; then
            mkdir -p "$kept${path%/*}"
            mv "$path" "$kept$path" || return 1
        fi
        if [ -e "$1/files$path" ]; then
            mkdir -p "${path%/*}"
            cp -a "$1/files$path" "$path" || return 1
        fi
    done <"$1/restore"
}

# After a repair without proof. Another account's registration stays off: its owner could run
# commands here as root.
give_back() {
    new_lines >"$JOB_DIR/unproven.log"
    if [ "${FOREIGN:-no}" = yes ]; then
        say restored foreign
        return 0
    fi
    stop_agent
    if restore_files "$SAVED"; then
        say restored yes
        service_as_before "$NOTES"
    else
        say restored failed
        service start
    fi
    STOPPED=no
}
