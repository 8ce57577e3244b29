#!/bin/sh
# The agent's package as deb, rpm or snap: checked, installed, and removed again.
# deb was proven with real dpkg. rpm and snap were tried against recorded output only (tests/cases/repair/).
# Needs host.sh, job.sh, service.sh and saved.sh before it.
# shellcheck disable=SC2034,SC2153 # shared with the scripts before and after it
#
# PACKAGE_FORMAT, and to install PACKAGE_FILE, PACKAGE_SHA256, PACKAGE_VERSION, LOCK_WAIT_S; FORMER_* of the
# package that is replaced, where it was sent along.

INSTALLED=$HALTUUN/installed/$UNIT

package_version() {
    case $PACKAGE_FORMAT in
        deb) deb_version ;;
        rpm) rpm_version ;;
        snap) snap_version ;;
    esac
}

# Prints "name version architecture" of a package's file; a snap does not say its own, and snapd refuses another.
about_package() {
    case $PACKAGE_FORMAT in
        deb) echo "$(dpkg-deb -f "$1" Package) $(dpkg-deb -f "$1" Version) $(dpkg-deb -f "$1" Architecture)" ;;
        rpm) rpm -qp --qf '%{NAME} %{VERSION} %{ARCH}\n' "$1" 2>"$JOB_DIR/package.out" ;;
        snap)
            bounded 60 snap info "$1" 2>"$JOB_DIR/package.out" </dev/null |
                awk '$1 == "name:" { name = $2 } $1 == "version:" { version = $2 } END { print name, version, "any" }'
            ;;
    esac
}

own_architecture() {
    case $PACKAGE_FORMAT in
        deb) dpkg --print-architecture ;;
        rpm) rpm --eval '%{_arch}' ;;
    esac
}

# check_package FILE SHA256 VERSION
check_package() {
    [ "$(sha256sum <"$1" | cut -d' ' -f1)" = "$2" ] || failed "the package's sha256 is not the pinned one"
    about=$(about_package "$1")
    [ "${about%% *}" = "$UNIT" ] || failed "the package is not $UNIT"
    architecture=${about##* }
    version=${about#* }
    version=${version%% *}
    [ "${version%%-*}" = "$3" ] || failed "the package holds version $version, pinned is $3"
    case $architecture in
        all | any | noarch | "$(own_architecture)") ;;
        *) failed "the package is for $architecture" ;;
    esac
}

# Another one (unattended-upgrades, yum) may hold the package manager's lock for a while. The words are of
# dpkg's lib/dpkg/file.c, "is" in older versions, of rpm's lib/rpmlock.c, and of snapd's conflicting changes.
package_is_locked() {
    grep -q -e '^dpkg: error: .* \(is\|was\) locked by another process' -e 'create transaction lock' \
        -e 'has ".*" change in progress' "$JOB_DIR/package.out"
}

# Asked while the agent still runs, and no more than asked: whether a transaction holds the lock. snapd has
# no file that would tell.
lock_is_held() {
    for lock in /var/lib/dpkg/lock /var/lib/dpkg/lock-frontend /var/lib/rpm/.rpm.lock \
        /usr/lib/sysimage/rpm/.rpm.lock; do
        [ -e "$lock" ] || continue
        if grep -q " WRITE .*:$(stat -c %i "$lock") " /proc/locks 2>/dev/null; then return 0; fi
    done
    return 1
}

# lock_wait_is_over: one wait for all that a job does.
lock_wait_is_over() {
    LOCK_WAIT_ENDS=${LOCK_WAIT_ENDS:-$(($(date +%s) + ${LOCK_WAIT_S:-600}))}
    [ "$(date +%s)" -ge "$LOCK_WAIT_ENDS" ]
}

await_lock() {
    while lock_is_held; do
        if lock_wait_is_over; then failed "another package manager holds the lock"; fi
        sleep 5
    done
}

# once_unlocked COMMAND…: a package manager that works is never killed.
once_unlocked() {
    while ! "$@" >"$JOB_DIR/package.out" 2>&1 </dev/null; do
        package_is_locked || return 1
        if lock_wait_is_over; then return 1; fi
        sleep 5
    done
}

# The pinned version, be it older than what is there, and be it there and broken. A snap without its store's
# assertion is "dangerous": it is checked by its sha256 in its place, and snapd does not refresh it.
install_package() {
    case $PACKAGE_FORMAT in
        deb) once_unlocked env DEBIAN_FRONTEND=noninteractive dpkg -i --force-confold "$1" ;;
        rpm) once_unlocked rpm -U --oldpackage --replacepkgs "$1" ;;
        snap) once_unlocked snap install --dangerous --classic "$1" ;;
    esac
}

remove_package() {
    case $PACKAGE_FORMAT in
        deb) once_unlocked dpkg --remove "$UNIT" ;;
        rpm) once_unlocked rpm -e "$UNIT" ;;
        snap) once_unlocked snap remove "$UNIT" ;;
    esac
}

package_error() {
    echo "$PACKAGE_FORMAT: $({ grep -i error "$JOB_DIR/package.out" || tail -n 2 "$JOB_DIR/package.out"; } | head -n 2)"
}

# Something of the package is there, be it half.
is_unpacked() {
    if [ "$PACKAGE_FORMAT" = deb ]; then deb_is_unpacked; else [ -n "$(package_version)" ]; fi
}

# Noted once a run: what a killed attempt left half, in this run or an earlier one, is none that was there before
# Haltuun.
remember_fresh() {
    [ -e "$NOTES/fresh" ] && return 0
    fresh=yes
    if is_unpacked && { [ "$PACKAGE_FORMAT" != deb ] || ! deb_is_begun; }; then fresh=no; fi
    echo "$fresh" >"$NOTES/fresh.new" && mv "$NOTES/fresh.new" "$NOTES/fresh"
}

is_fresh() {
    [ "$(cat "$NOTES/fresh" 2>/dev/null)" = yes ]
}

# What the package manager says it installed is what lies there.
is_whole() {
    version=$(package_version)
    [ "${version%%-*}" = "$PACKAGE_VERSION" ] || return 1
    if [ "$PACKAGE_FORMAT" = rpm ] && rpm -V "$UNIT" 2>/dev/null | grep '^missing' >"$JOB_DIR/package.out"; then
        return 1
    fi
    [ -n "$(agent_binary)" ]
}

# rpm owns the state's folder, and what a snap's removal takes is not known: what is of the registration
# is as it was before.
registration_as_saved() {
    [ -e "$SAVED/COMPLETE" ] || return 0
    if [ -e "$SAVED/ENDED" ] && ! saved_by_this_run; then return 0; fi
    restore_files "$SAVED" && saved_has_ended
}

give_registration_back() {
    registration_as_saved || failed "the state saved in $SAVED could not be put back"
}

# lay_package FILE: whether it is there then, whole.
lay_package() {
    # What the package's scripts make has to be readable by others.
    umask 022
    install_package "$1"
    laid=$?
    umask 077
    [ "$laid" = 0 ] && is_whole
}

# What Haltuun installed where nothing was.
take_package_away() {
    new_lines >"$JOB_DIR/unproven.log"
    CHANGED=yes
    stop_agent
    STOPPED=no
    if { ! is_unpacked || remove_package; } && registration_as_saved; then
        rm -f "$INSTALLED"
        say restored removed
    else
        say restored failed
    fi
}

# The package that was replaced, its registration and its service.
give_former_back() {
    new_lines >"$JOB_DIR/unproven.log"
    stop_agent
    PACKAGE_VERSION=$FORMER_VERSION
    if { is_whole || lay_package "$JOB_DIR/$FORMER_FILE"; } && registration_as_saved; then
        say restored former
        service_as_before "$NOTES"
    else
        say restored failed
        service start
    fi
    STOPPED=no
}

# An installation that did not come to its end, or not to the right one. Where nothing was, nothing is left;
# somebody else's agent, installed meanwhile, stays.
take_install_back() {
    if is_fresh; then
        if [ -e "$INSTALLED" ]; then take_package_away; fi
    elif [ -n "${FORMER_FILE:-}" ]; then
        give_former_back
    fi
}

# Where no agent is that could be restarted, a move that was cut off is ended before there is one.
end_moving() {
    for complete in "$HALTUUN"/saved/*/COMPLETE; do
        saved=${complete%/*}
        move_the_rest "$saved" || failed "what is left of the registration could not be moved aside"
        if [ -e "$saved/moved/${KEY_FILE##*/}" ]; then : >"$saved/ENDED"; fi
    done
}

do_install() {
    package=$JOB_DIR/$PACKAGE_FILE
    check_package "$package" "$PACKAGE_SHA256" "$PACKAGE_VERSION"
    if [ -n "${FORMER_FILE:-}" ]; then
        check_package "$JOB_DIR/$FORMER_FILE" "$FORMER_SHA256" "$FORMER_VERSION"
    fi
    name_of "$PACKAGE_FORMAT"
    await_lock
    remember_service
    remember_fresh
    remember_log
    if ! is_whole; then
        if is_fresh; then
            end_moving
            if [ "$PACKAGE_FORMAT" != deb ]; then
                room_for_registration
                save_registration
            fi
            mkdir -p "$HALTUUN/installed"
            if ! { echo "$PACKAGE_SHA256 $PACKAGE_FORMAT" >"$INSTALLED.new" && mv "$INSTALLED.new" "$INSTALLED"; }; then
                failed "$INSTALLED could not be written"
            fi
        else
            room_for_registration
            stop_agent || failed "processes of the agent do not end"
            save_registration
        fi
        # What an agent that was there has said since this was begun proves nothing of the new one.
        rm -f "$NOTES/offset"
        remember_log
        if ! lay_package "$package"; then
            REASON=$(package_error)
            if [ "$PACKAGE_FORMAT" = deb ]; then say hint dpkg; fi
            if is_fresh && ! is_unpacked; then rm -f "$INSTALLED"; fi
            take_install_back
            give_registration_back
            finish failed 40
        fi
        CHANGED=yes
    fi
    give_registration_back
    # The package's own scripts enable it and start it.
    if [ "${WANT_ENABLED:-yes}" = no ]; then disable_service; else enable_service; fi
    if [ "${WANT_RUNNING:-yes}" = no ]; then
        stop_agent || failed "processes of the agent do not end"
        STOPPED=no
        finish 'done' 0
    fi
    core_runs || service start
    STOPPED=no
    # An undo gives back what was there; that it came up is not asked of it.
    if [ -n "${UNDOES:-}" ]; then finish 'done' 0; fi
    conclude take_install_back
}

# The format that was noted; an earlier Haltuun noted none.
installed_format() {
    read -r _ PACKAGE_FORMAT <"$INSTALLED"
    [ -n "$PACKAGE_FORMAT" ] || some_package
}

# Whoever laid it.
some_package() {
    for PACKAGE_FORMAT in deb rpm snap; do
        if is_unpacked; then return 0; fi
    done
    return 1
}

do_remove() {
    if [ ! -e "$INSTALLED" ]; then
        if some_package; then finish stale 33 "Haltuun did not install the agent here"; fi
        finish 'done' 0 # by one who was killed before he could say so
    fi
    installed_format
    name_of "$PACKAGE_FORMAT"
    await_lock
    remember_service
    if [ "$PACKAGE_FORMAT" != deb ]; then room_for_registration; fi
    stop_agent
    if [ "$PACKAGE_FORMAT" != deb ]; then save_registration; fi
    if is_unpacked && ! remove_package; then failed "$(package_error)"; fi
    if is_unpacked; then failed "the package is still there"; fi
    give_registration_back
    rm -f "$INSTALLED"
    STOPPED=no
    finish 'done' 0
}

# name_of deb|rpm|snap: its service.
name_of() {
    if [ "$1" = snap ]; then NAME=$SNAP_UNIT; else NAME=$UNIT; fi
}

# set_service deb|snap STATE: one of "running, enabled", "stopped, disabled", …
set_service() {
    name_of "$1"
    [ "$(unit_state "$NAME")" != "$2" ] || return 0
    case $2 in
        *' enabled') enable_service ;;
        *) disable_service ;;
    esac
    case $2 in
        running*) service start ;;
        *) service stop ;;
    esac
    [ "$(unit_state "$NAME")" = "$2" ]
}

# What is given of the two, the one that stops first.
set_services() {
    for kind in deb snap; do
        if [ "$kind" = deb ]; then wanted=$1; else wanted=$2; fi
        case $wanted in stopped*) set_service "$kind" "$wanted" || return 1 ;; esac
    done
    for kind in deb snap; do
        if [ "$kind" = deb ]; then wanted=$1; else wanted=$2; fi
        case $wanted in running*) set_service "$kind" "$wanted" || return 1 ;; esac
    done
}

services_as_before() {
    if set_services "${WAS_DEB:-}" "${WAS_SNAP:-}"; then say restored services; else say restored failed; fi
    STOPPED=no
}

# Of two packages one is stopped and kept from starting; both stay installed. The other, where it is named as
# running, is restarted: both wrote into one state folder.
do_service() {
    remember_service
    if ! set_services "${DEB_SERVICE:-}" "${SNAP_SERVICE:-}"; then
        lost=$NAME
        services_as_before
        failed "the service $lost did not become what it was to be"
    fi
    kept=''
    case ${DEB_SERVICE:-} in running*) kept=deb ;; esac
    case ${SNAP_SERVICE:-} in running*) kept=${kept}snap ;; esac
    if [ -n "${UNDOES:-}" ] || [ -z "$kept" ] || [ "${PROOF_LATER:-no}" = yes ]; then finish 'done' 0; fi
    name_of "$kept"
    if ! stop_agent; then
        services_as_before
        failed "processes of the agent do not end"
    fi
    start_agent
    if await_proof; then finish 'done' 0; fi
    new_lines >"$JOB_DIR/unproven.log"
    services_as_before
    finish not_proven 21
}
