#!/bin/sh
# Changes the agent, one ACTION a job: restart, clear, aside, install, credentials, state, restore,
# remove. Every action may be run again after it was killed at any moment.
# Needs host.sh, job.sh, service.sh and saved.sh before it.
# shellcheck disable=SC2034,SC2153 # shared with the scripts before it
#
# Given by the environment: JOB_DIR (of the transport), ACTION, CHANGE_ID, RUN_ID, TARGET_INSTANCE_ID,
# TARGET_ACCOUNT, TARGET_REGION, and by action EXPECT_VAULT, FOREIGN, PACKAGE_*, SAVED_FROM, WANT_*.
# Prints key=value lines; the last is result=… and the exit code says the same.

: "${JOB_DIR:?}" "${ACTION:?}" "${RUN_ID:?}" "${TARGET_INSTANCE_ID:?}" "${TARGET_ACCOUNT:?}" "${TARGET_REGION:?}"

conclude() {
    await_proof
    case $? in
        0)
            if [ "${MOVE_TOKEN:-no}" = yes ] && token_is_the_agents; then move_aside "$CREDENTIALS"; fi
            finish 'done' 0
            ;;
        1) finish not_taken 20 ;;
        *)
            [ "${1:-}" = give_back ] && give_back
            finish not_proven 21
            ;;
    esac
}

# Nothing but [default], and in it a temporary key: what the hybrid agent shares, and no person's.
token_is_the_agents() {
    [ "$(grep -c '^[[:space:]]*\[' "$CREDENTIALS" 2>/dev/null)" = 1 ] &&
        grep -q '^[[:space:]]*\[[[:space:]]*default' "$CREDENTIALS" &&
        grep -q -e '^[[:space:]]*aws_access_key_id[[:space:]]*=[[:space:]]*ASIA' \
            -e '^[[:space:]]*aws_session_token[[:space:]]*=' "$CREDENTIALS"
}

# The registration is still the planned one, or this very run has already taken it away.
expect_registration() {
    registered=$(vault_value instanceID)
    [ "$registered" = "$EXPECT_VAULT" ] && return 0
    [ -z "$registered" ] && [ -e "$SAVED/COMPLETE" ] && [ "$(cat "$SAVED/run")" = "$RUN_ID" ] && return 0
    finish stale 33 "the vault holds '$registered', planned was '$EXPECT_VAULT'"
}

save_registration() {
    save "$STATE $CREDENTIALS /etc/amazon/ssm" "$KEY_FILE" "$MANIFEST" "$FINGERPRINT_FILE"
}

do_restart() {
    remember_service
    stop_agent || failed "processes of the agent do not end"
    start_agent
    conclude
}

do_clear() {
    expect_registration
    remember_service
    stop_agent || failed "processes of the agent do not end"
    save_registration
    binary=$(agent_binary)
    bounded 60 "$binary" -register -clear >"$JOB_DIR/clear.out" 2>&1 </dev/null
    if [ -n "$(vault_value instanceID)" ]; then
        REASON="-register -clear left the registration: $(tail -n 1 "$JOB_DIR/clear.out")"
        service_as_before "$NOTES"
        finish not_taken 20
    fi
    start_agent
    conclude give_back
}

do_aside() {
    expect_registration
    remember_service
    stop_agent || failed "processes of the agent do not end"
    save_registration
    for file in "$KEY_FILE" "$MANIFEST" "$FINGERPRINT_FILE"; do
        move_aside "$file"
    done
    if [ -z "$(agent_binary)" ]; then
        finish 'done' 0
    fi
    start_agent
    conclude give_back
}

check_package() {
    [ "$(sha256sum <"$1" | cut -d' ' -f1)" = "$PACKAGE_SHA256" ] || failed "the package's sha256 is not the pinned one"
    [ "$(dpkg-deb -f "$1" Package)" = amazon-ssm-agent ] || failed "the package is not amazon-ssm-agent"
    version=$(dpkg-deb -f "$1" Version)
    [ "${version%%-*}" = "$PACKAGE_VERSION" ] || failed "the package holds version $version, pinned is $PACKAGE_VERSION"
    architecture=$(dpkg-deb -f "$1" Architecture)
    case $architecture in
        all | "$(dpkg --print-architecture)") ;;
        *) failed "the package is for $architecture" ;;
    esac
}

# Another dpkg (unattended-upgrades) may hold the lock for a while.
install_package() {
    for _ in 1 2 3 4 5 6; do
        DEBIAN_FRONTEND=noninteractive bounded 300 dpkg -i "$1" >"$JOB_DIR/dpkg.out" 2>&1 </dev/null && return 0
        grep -q 'lock' "$JOB_DIR/dpkg.out" || return 1
        sleep 10
    done
    return 1
}

do_install() {
    package=$JOB_DIR/$PACKAGE_FILE
    check_package "$package"
    remember_service
    OFFSET=$(wc -c <"$AGENT_LOG" 2>/dev/null || echo 0)
    if [ -z "$(deb_version)" ]; then
        mkdir -p "$HALTUUN/installed"
        # What the package's scripts make has to be readable by others.
        umask 022
        echo "$PACKAGE_SHA256" >"$HALTUUN/installed/$UNIT"
        if ! install_package "$package"; then
            REASON="dpkg: $(grep -v '^$' "$JOB_DIR/dpkg.out" | tail -n 2)"
            bounded 120 dpkg --remove "$UNIT" >>"$JOB_DIR/dpkg.out" 2>&1 </dev/null
            rm -f "$HALTUUN/installed/$UNIT"
            finish failed 40
        fi
    fi
    NAME=$UNIT
    enable_service
    core_runs || service start
    conclude
}

do_remove() {
    [ -e "$HALTUUN/installed/$UNIT" ] || finish stale 33 "Haltuun did not install the agent here"
    remember_service
    stop_agent
    bounded 300 dpkg --remove "$UNIT" >"$JOB_DIR/dpkg.out" 2>&1 </dev/null || failed "dpkg --remove: $(tail -n 1 "$JOB_DIR/dpkg.out")"
    rm -f "$HALTUUN/installed/$UNIT"
    STOPPED=no
    finish 'done' 0
}

do_credentials() {
    [ -e "$CREDENTIALS" ] || finish 'done' 0
    remember_service
    [ "$(json_string "$IDENTITY_CONFIG" IdentityType)" = EC2 ] || finish not_taken 20 "the agent has not the EC2 identity"
    token_is_the_agents || finish stale 33 "$CREDENTIALS holds more than a temporary [default]"
    save "$CREDENTIALS" "$CREDENTIALS"
    move_aside "$CREDENTIALS"
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

do_restore() {
    case ${SAVED_FROM:?} in
        "$HALTUUN"/saved/*..*) failed "not a saved state: $SAVED_FROM" ;;
        "$HALTUUN"/saved/*) ;;
        *) failed "not a saved state: $SAVED_FROM" ;;
    esac
    remember_service
    if [ "$(cat "$SAVED_FROM/restore" 2>/dev/null)" = "$CREDENTIALS" ]; then
        restore_files "$SAVED_FROM" || failed "$SAVED_FROM does not match its checksums"
        finish 'done' 0
    fi
    verify_saved "$SAVED_FROM" || failed "$SAVED_FROM does not match its checksums"
    stop_agent || failed "processes of the agent do not end"
    restore_files "$SAVED_FROM" || failed "$SAVED_FROM could not be put back"
    service_as_before "$SAVED_FROM"
    finish 'done' 0
}

prove_right_box
INIT=$(init_system)
NAME=$UNIT
if [ -n "$(snap_version)" ] && [ -z "$(deb_version)" ]; then NAME=$SNAP_UNIT; fi
if [ "$INIT" = sysv ]; then failed "no service manager that is known here"; fi
case $ACTION in
    restart) do_restart ;;
    clear) do_clear ;;
    aside) do_aside ;;
    install) do_install ;;
    remove) do_remove ;;
    credentials) do_credentials ;;
    state) do_state ;;
    restore) do_restore ;;
    *) failed "no such action: $ACTION" ;;
esac
