#!/bin/sh
# A job that changes a host: the right box first, and an end that says how it went. The lock and the
# lease's number are the runner's (haltuun/host/runner.sh).
# Needs metadata.sh and host.sh before it.
# shellcheck disable=SC2034,SC2153 # shared with the scripts before and after it

SAVED=$HALTUUN/saved/$CHANGE_ID
# What one attempt leaves for the next of the same run, when it was killed.
NOTES=$HALTUUN/notes/$CHANGE_ID-$RUN_ID
REASON=''
OFFSET=''
STOPPED=no
CHANGED=no
# An attempt that was cut off has done nobody knows what.
if [ -e "$NOTES/was_enabled" ] && [ ! -e "$NOTES/ended" ]; then CHANGED=yes; fi
# The saved state of a repair that was killed in an earlier run, as far as this one was planned to end it.
UNFINISHED=${UNFINISHED:-}

finish() {
    if [ "$1" = 'done' ] && lost=$(still_silenced) && [ -n "$lost" ]; then
        give_back_for_them "$lost"
        set -- silenced 22
    fi
    [ -n "${3:-}" ] && REASON=$3
    say changed "$CHANGED"
    say identity "$(json_string "$IDENTITY_CONFIG" IdentityType)"
    say instance_id "$(json_string "$IDENTITY_CONFIG" InstanceId)"
    say vault "$(vault_value instanceID)"
    say running "$(core_runs && echo yes || echo no)"
    say clock "$(date '+%Y-%m-%d %H:%M:%S')"
    [ -d "$SAVED" ] && say saved "$SAVED"
    [ -n "$REASON" ] && say reason "$(printf '%s' "$REASON" | tr '\n' ' ' | redact)"
    if [ -e "$JOB_DIR/unproven.log" ]; then cat "$JOB_DIR/unproven.log"; else new_lines; fi |
        head -n 200 | cut -c1-8000 | redact | cut -c1-700 | awk '{print "log=" NR ":" $0}'
    say result "$1"
    if [ -d "$NOTES" ]; then : >"$NOTES/ended"; fi
    exit "$2"
}

failed() {
    finish failed 40 "$1"
}

# However the job ends, the agent is not left stopped that was running.
# shellcheck disable=SC2329 # by trap
leave() {
    code=$?
    trap - EXIT
    if [ "$STOPPED" = yes ] && [ "$(cat "$NOTES/was_running" 2>/dev/null)" = yes ] && ! core_runs; then
        service start
    fi
    exit "$code"
}

prove_right_box() {
    look_at_imds
    if [ "$IMDS_ID $IMDS_ACCOUNT $IMDS_REGION" != "$TARGET_INSTANCE_ID $TARGET_ACCOUNT $TARGET_REGION" ]; then
        say box "${IMDS_ID:-none} ${IMDS_ACCOUNT:-none} ${IMDS_REGION:-none}"
        say result wrong_box
        exit 30
    fi
}

# replace_file FILE: what comes in takes its place, whole or not at all, with the owner and the mode that it has.
replace_file() {
    if cp -a "$1" "$1.haltuun" && cat >"$1.haltuun" && mv -f "$1.haltuun" "$1"; then return 0; fi
    rm -f "$1.haltuun"
    return 1
}

started_at() {
    sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null | awk '{print $20}'
}

trap leave EXIT
trap 'exit 143' HUP INT TERM
