#!/bin/sh
# Changes the agent, one ACTION a job: restart, clear, aside, install, credentials, config, state,
# service, restore, remove. Every action may be run again after it was killed at any moment.
# Needs metadata.sh, host.sh, job.sh, service.sh, saved.sh, package.sh and token.sh before it.
# shellcheck disable=SC2034,SC2153 # shared with the scripts before it
#
# Given by the environment: JOB_DIR (of the transport), ACTION, CHANGE_ID, RUN_ID, TARGET_INSTANCE_ID,
# TARGET_ACCOUNT, TARGET_REGION, WAY, UNDOES, and by action EXPECT_VAULT, FOREIGN, MOVE_TOKEN, UNFINISHED,
# PACKAGE_*, FORMER_*, LOCK_WAIT_S, SAVED_FROM, WANT_*, CREDENTIALS_SUM, CONFIG_SUM, DEB_SERVICE, SNAP_SERVICE,
# WAS_*, PROOF_LATER.
# Prints key=value lines; the last is result=… and the exit code says the same.

: "${JOB_DIR:?}" "${ACTION:?}" "${RUN_ID:?}" "${TARGET_INSTANCE_ID:?}" "${TARGET_ACCOUNT:?}" "${TARGET_REGION:?}"

# conclude [FUNCTION]: what takes the repair back where the proof does not come.
conclude() {
    await_proof
    case $? in
        0)
            move_token
            saved_has_ended
            finish 'done' 0
            ;;
        1)
            # The next rung was planned on the state that this one found.
            [ -z "${1:-}" ] || "$1"
            finish not_taken 20
            ;;
        *)
            [ -z "${1:-}" ] || "$1"
            finish not_proven 21
            ;;
    esac
}

move_token() {
    if [ "${MOVE_TOKEN:-no}" = yes ] && token_is_the_agents; then
        take_token_out || REASON="the token could not be taken out of $CREDENTIALS"
    fi
}

# The registration is still the planned one, or this very run has already taken it away.
expect_registration() {
    registered=$(vault_value instanceID)
    [ "$registered" = "$EXPECT_VAULT" ] && return 0
    [ -z "$registered" ] && [ -e "$SAVED/COMPLETE" ] && [ "$(cat "$SAVED/run")" = "$RUN_ID" ] && return 0
    finish stale 33 "the vault holds '$registered', planned was '$EXPECT_VAULT'"
}

# Of a link the copy would be the link alone, and what it leads to is what is changed.
room_for_registration() {
    for path in "$STATE" "$STATE/Vault" "$STATE/Vault/Store" "$KEY_FILE" "$MANIFEST" "$FINGERPRINT_FILE"; do
        [ ! -L "$path" ] || failed "$path is a link: what it leads to could not be given back"
    done
    room_to_save "$STATE" "$CREDENTIALS" /etc/amazon/ssm
}

save_registration() {
    save "$STATE $CREDENTIALS /etc/amazon/ssm" "$KEY_FILE" "$MANIFEST" "$FINGERPRINT_FILE"
}

# A snap's service takes its whole control group with it, and with Run Command this job is in it.
refuse_to_end_itself() {
    [ "$NAME" = "$SNAP_UNIT" ] || return 0
    if [ "${WAY:-}" = run-command ] || grep -q "$SNAP_UNIT" /proc/self/cgroup 2>/dev/null; then
        finish refused 34 "stopping the snap's service would end this job, which its agent runs"
    fi
}

do_restart() {
    if [ -n "$UNFINISHED" ] && { [ ! -e "$HALTUUN/saved/$UNFINISHED/COMPLETE" ] ||
        [ -e "$HALTUUN/saved/$UNFINISHED/ENDED" ]; }; then
        finish stale 33 "the interrupted repair $UNFINISHED has ended"
    fi
    remember_service
    stop_agent || failed "processes of the agent do not end"
    if [ -n "$UNFINISHED" ] && ! move_the_rest "$HALTUUN/saved/$UNFINISHED"; then
        give_back
        failed "what is left of the registration could not be moved aside"
    fi
    start_agent
    conclude "${UNFINISHED:+give_back}"
}

do_clear() {
    expect_registration
    room_for_registration
    remember_service
    stop_agent || failed "processes of the agent do not end"
    save_registration
    binary=$(agent_binary)
    bounded 60 "$binary" -register -clear >"$JOB_DIR/clear.out" 2>&1 </dev/null
    if [ -n "$(vault_value instanceID)" ]; then
        REASON="-register -clear left the registration: $(tail -n 1 "$JOB_DIR/clear.out")"
        # It empties the fingerprint before the registration.
        put_back "$SAVED"
        finish not_taken 20
    fi
    start_agent
    conclude give_back
}

do_aside() {
    expect_registration
    room_for_registration
    remember_service
    stop_agent || failed "processes of the agent do not end"
    save_registration
    for file in "$KEY_FILE" "$MANIFEST" "$FINGERPRINT_FILE"; do
        if ! move_aside "$file"; then
            give_back
            failed "$file could not be moved aside"
        fi
    done
    if [ -z "$(agent_binary)" ]; then
        move_token
        saved_has_ended
        finish 'done' 0
    fi
    start_agent
    conclude give_back
}

do_credentials() {
    if ! grep -q '^[[:space:]]*\[[[:space:]]*default[[:space:]]*\]' "$CREDENTIALS" 2>/dev/null; then
        saved_has_ended
        finish 'done' 0
    fi
    remember_service
    [ "$(json_string "$IDENTITY_CONFIG" IdentityType)" = EC2 ] || finish not_taken 20 "the agent has not the EC2 identity"
    token_is_the_agents || finish stale 33 "[default] in $CREDENTIALS is not as the agent writes it"
    if [ -n "$CREDENTIALS_SUM" ] && [ "$(file_sum "$CREDENTIALS")" != "$CREDENTIALS_SUM" ]; then
        finish stale 33 "$CREDENTIALS was changed since it was planned"
    fi
    [ ! -L "$CREDENTIALS" ] || failed "$CREDENTIALS is a link"
    room_to_save "$CREDENTIALS"
    save "$CREDENTIALS" "$CREDENTIALS"
    take_token_out || failed "the token could not be taken out of $CREDENTIALS"
    saved_has_ended
    finish 'done' 0
}

# The agent's configuration as it was planned, laid beside this script; the agent reads it at its next start.
do_config() {
    now=$(file_sum "$CONFIG")
    if [ "$now" != "$WANT_SUM" ]; then
        [ "$now" = "$CONFIG_SUM" ] || finish stale 33 "$CONFIG was changed since it was planned"
        wanted=$JOB_DIR/${CONFIG##*/}
        [ "$(file_sum "$wanted")" = "$WANT_SUM" ] || failed "what was sent is not what was planned"
        [ ! -L "$CONFIG" ] || failed "$CONFIG is a link"
        remember_service
        room_to_save "$CONFIG"
        save "$CONFIG" "$CONFIG"
        CHANGED=yes
        replace_file "$CONFIG" <"$wanted" || failed "$CONFIG could not be written"
    fi
    saved_has_ended
    finish 'done' 0
}

do_state() {
    remember_service
    if [ "${WANT_ENABLED:-}" = yes ]; then enable_service; fi
    if [ "${WANT_ENABLED:-}" = no ]; then disable_service; fi
    if [ "${WANT_RUNNING:-}" = yes ] && ! core_runs; then service start; fi
    if [ "${WANT_RUNNING:-}" = no ]; then
        stop_agent || failed "processes of the agent do not end"
        STOPPED=no
    fi
    finish 'done' 0
}

# What the agent need not be stopped for.
give_files_back() {
    restore_files "$SAVED_FROM" || failed "$SAVED_FROM does not match its checksums"
    finish 'done' 0
}

do_restore() {
    case ${SAVED_FROM:?} in
        "$HALTUUN"/saved/*..*) failed "not a saved state: $SAVED_FROM" ;;
        "$HALTUUN"/saved/*) ;;
        *) failed "not a saved state: $SAVED_FROM" ;;
    esac
    remember_service
    case $(cat "$SAVED_FROM/restore" 2>/dev/null) in
        "$CREDENTIALS")
            if ! credentials_as_left "$SAVED_FROM" && ! same_file "$CREDENTIALS" "$SAVED_FROM/files$CREDENTIALS"; then
                finish stale 33 "$CREDENTIALS was changed since the token was taken out"
            fi
            give_files_back
            ;;
        "$CONFIG") give_files_back ;;
    esac
    verify_saved "$SAVED_FROM" || failed "$SAVED_FROM does not match its checksums"
    stop_agent || failed "processes of the agent do not end"
    disable_as_before "$SAVED_FROM"
    if ! restore_files "$SAVED_FROM"; then
        if [ "$(cat "$SAVED_FROM/was_enabled") $(cat "$NOTES/was_enabled")" = 'no yes' ]; then enable_service; fi
        failed "$SAVED_FROM could not be put back"
    fi
    service_as_before "$SAVED_FROM"
    finish 'done' 0
}

prove_right_box
INIT=$(init_system)
if [ "$INIT" = systemd ]; then NAME=$(unit_in_use); else NAME=$UNIT; fi
if [ "$INIT" = sysv ]; then failed "no service manager that is known here"; fi
case $ACTION in
    restart | clear | aside | restore | install | remove) refuse_to_end_itself ;;
    state) [ "${WANT_RUNNING:-}" != no ] || refuse_to_end_itself ;;
    service)
        NAME=$SNAP_UNIT
        refuse_to_end_itself
        ;;
esac
case $ACTION in
    restart) do_restart ;;
    clear) do_clear ;;
    aside) do_aside ;;
    install) do_install ;;
    remove) do_remove ;;
    credentials) do_credentials ;;
    config) do_config ;;
    state) do_state ;;
    service) do_service ;;
    restore) do_restore ;;
    *) failed "no such action: $ACTION" ;;
esac
