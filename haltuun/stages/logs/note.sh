# shellcheck shell=sh
# shellcheck disable=SC2154 # package is put before it
# Follows discover's common.sh, host/process.sh, host/lock.sh and agent.sh. The first step of the document: before
# anything is changed the host notes how it was, once, so that the way back (back.sh) need not guess.
if [ "$package" != Install ]; then exit 0; fi
umask 077
hold
metadata_begin
id=$(metadata meta-data/instance-id) || {
    echo "NO_METADATA: the instance metadata does not say which host this is (${METADATA_V2:-})" >&2
    exit 3
}
if is_noted "$id"; then exit 0; fi

tell_all() {
    echo "instance $id"
    echo "package $(package_state)"
    for kind in passwd group; do
        if is_in $kind cwagent; then echo "$kind there"; fi
    done
    for folder in $FOLDERS; do
        if [ -d "$ROOT$folder" ]; then echo "folder $folder"; fi
    done
    if agent_is_there; then tell_agent; else
        echo "agent none"
        find "$home" 2>/dev/null | sed 's/^/path /'
    fi
    echo end
}

tell_agent() {
    echo "agent $(agent_version)"
    echo "starts $(agent_starts)"
    if agent_is_configured; then echo "configured yes"; fi
    if agent_runs; then echo "running yes"; fi
    # Of one that works, its log and its places in the files move by themselves.
    if ! agent_is_configured && ! agent_runs; then
        find "$home/logs" "$home/var" "$etc" 2>/dev/null | sed 's/^/path /'
    fi
}

tell_all >"$noted.new" && mv -f "$noted.new" "$noted" || exit 5
