#!/bin/sh
# State is saved, root only and with checksums, before anything of it is changed; and given back.
# Needs host.sh, job.sh and service.sh before it, and token.sh after it.
# shellcheck disable=SC2034,SC2153 # shared with the scripts before it

saved_by_this_run() {
    [ -e "$SAVED/COMPLETE" ] && [ "$(cat "$SAVED/run" 2>/dev/null)" = "$RUN_ID" ]
}

# room_to_save WHAT…: asked before the agent is stopped for it.
room_to_save() {
    saved_by_this_run && return 0
    need=2048
    for path; do
        [ ! -e "$path" ] || need=$((need + $(du -sk "$path" | cut -f1)))
    done
    free=$(df -Pk "${HALTUUN%/*}" | awk 'NR == 2 {print $4}')
    [ "$free" -gt "$need" ] || failed "not enough room in $HALTUUN to save the agent's state ($free of $need KiB)"
}

# folder_as_in FROM TO FOLDER: makes TO/FOLDER, and what is missing above it, with the owner and the mode that
# it has in FROM. With five digits chmod takes away what a folder has of the one above, too.
folder_as_in() {
    if [ -d "$2$3" ]; then return 0; fi
    folder_as_in "$1" "$2" "${3%/*}" && mkdir "$2$3" || return 1
    [ ! -d "$1$3" ] || { chown "$(stat -L -c %u:%g "$1$3")" "$2$3" && chmod "00$(stat -L -c %a "$1$3")" "$2$3"; }
}

# save "WHAT TO COPY…" PATH…: the paths are those that giving back restores.
save() {
    saved_by_this_run && return 0
    # An earlier attempt's copy is kept beside this one, which takes its place.
    if [ -e "$SAVED" ]; then
        : >"$SAVED/ENDED"
        mv "$SAVED" "$SAVED.$(date +%s).$$"
    fi
    mkdir -p "$SAVED/files" || failed "no folder $SAVED"
    chmod 700 "$HALTUUN/saved" "$SAVED"
    for path in $1; do
        [ -e "$path" ] || continue
        if ! { folder_as_in '' "$SAVED/files" "${path%/*}" && cp -a "$path" "$SAVED/files${path%/*}/"; }; then
            failed "$path could not be saved"
        fi
    done
    shift
    printf '%s\n' "$@" >"$SAVED/restore"
    cp "$NOTES/was_running" "$NOTES/was_enabled" "$SAVED/"
    echo "${FOREIGN:-no}" >"$SAVED/foreign"
    if ! (cd "$SAVED" && find files -type f -exec sha256sum {} + >SHA256SUMS); then
        failed "the saved files could not be summed"
    fi
    verify_saved "$SAVED" || failed "the saved files do not match their checksums"
    echo "$RUN_ID" >"$SAVED/run"
    : >"$SAVED/COMPLETE"
    sync
}

# However it ended, nobody has to end it any more. Without this mark the next run takes it up.
saved_has_ended() {
    for ended in "$SAVED" "${UNFINISHED:+$HALTUUN/saved/$UNFINISHED}"; do
        if [ -e "$ended/COMPLETE" ]; then : >"$ended/ENDED"; fi
    done
}

# move_aside PATH [SAVED]: moves a saved path out of the way; giving back then restores it, too.
move_aside() {
    [ -e "$1" ] || return 0
    into=${2:-$SAVED}
    mkdir -p "$into/moved"
    grep -qxF "$1" "$into/restore" || echo "$1" >>"$into/restore"
    CHANGED=yes
    mv "$1" "$into/moved/"
}

# move_the_rest SAVED: a repair that was killed while it moved a registration aside may have taken the key alone.
# The rest goes the same way, as it would have gone then: the undo of that repair gives all of it back.
move_the_rest() {
    if [ -e "$KEY_FILE" ] || [ ! -e "$1/moved/${KEY_FILE##*/}" ] || [ -e "$1/ENDED" ]; then return 0; fi
    move_aside "$MANIFEST" "$1" && move_aside "$FINGERPRINT_FILE" "$1"
}

# Without a sum nothing was there to be saved; a link that was copied for what it leads to is not nothing.
verify_saved() {
    [ -e "$1/SHA256SUMS" ] || return 1
    if [ -s "$1/SHA256SUMS" ]; then
        (cd "$1" && sha256sum -c SHA256SUMS >/dev/null 2>&1)
    else
        [ -z "$(find "$1/files" -type l | head -n 1)" ]
    fi
}

same_file() {
    [ -f "$1" ] && [ -f "$2" ] && [ "$(sha256sum <"$1")" = "$(sha256sum <"$2")" ]
}

# Puts the noted paths back as they were saved; what stands there now is kept, too. The registration comes last:
# where it is back, whoever looks takes the files for being back.
restore_files() {
    verify_saved "$1" && [ -s "$1/restore" ] || return 1
    kept=$1/replaced.$(date +%s).$$
    CHANGED=yes
    {
        grep -vxF "$KEY_FILE" "$1/restore"
        grep -xF "$KEY_FILE" "$1/restore"
    } >"$1/restore.order"
    while read -r path; do
        rm -f "$path.haltuun" # of one who was killed in put_file
        # What never was moved need not be movable, either.
        same_file "$path" "$1/files$path" && continue
        if [ "$path" = "$CREDENTIALS" ] && ! credentials_as_left "$1"; then
            say kept "The token is not put back: $CREDENTIALS was changed since it was taken out."
            continue
        fi
        if [ -e "$path" ]; then
            mkdir -p "$kept${path%/*}" && cp -a "$path" "$kept$path" || return 1
        fi
        if [ -e "$1/files$path" ]; then
            folder_as_in "$1/files" '' "${path%/*}" && put_file "$1/files$path" "$path" || return 1
        else
            rm -f "$path" || return 1
        fi
    done <"$1/restore.order"
    sync # before anybody writes that it has ended
}

# At no moment is it gone: who is killed here and looks again would take that for another's doing.
put_file() {
    if cp -a "$1" "$2.haltuun" && mv -f "$2.haltuun" "$2"; then return 0; fi
    rm -f "$2.haltuun"
    return 1
}

# After a repair without proof. Another account's registration stays off: its owner could run
# commands here as root.
give_back() {
    new_lines >"$JOB_DIR/unproven.log"
    from=$SAVED
    if [ -n "$UNFINISHED" ]; then from=$HALTUUN/saved/$UNFINISHED; fi
    if [ "$(cat "$from/foreign" 2>/dev/null)" = yes ]; then
        say restored foreign
        saved_has_ended
        return 0
    fi
    put_back "$from"
}

put_back() {
    stop_agent
    disable_as_before "$NOTES"
    if restore_files "$1"; then
        say restored yes
        saved_has_ended
        service_as_before "$NOTES"
    else
        say restored failed
        service start
    fi
    STOPPED=no
}
