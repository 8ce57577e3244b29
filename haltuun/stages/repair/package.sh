#!/bin/sh
# The agent's package as deb, rpm or snap: checked, installed, and removed again.
# deb was proven with real dpkg. rpm and snap were tried against recorded output only (tests/cases/repair/).
# Needs host.sh, job.sh, service.sh and saved.sh before it.
# shellcheck disable=SC2034,SC2153 # shared with the scripts before and after it
#
# PACKAGE_FORMAT, and to install PACKAGE_SHA256, PACKAGE_VERSION, LOCK_WAIT_S.

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

check_package() {
    [ "$(sha256sum <"$1" | cut -d' ' -f1)" = "$PACKAGE_SHA256" ] || failed "the package's sha256 is not the pinned one"
    about=$(about_package "$1")
    [ "${about%% *}" = "$UNIT" ] || failed "the package is not $UNIT"
    architecture=${about##* }
    version=${about#* }
    version=${version%% *}
    [ "${version%%-*}" = "$PACKAGE_VERSION" ] || failed "the package holds version $version, pinned is $PACKAGE_VERSION"
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

# once_unlocked COMMAND…: a package manager that works is never killed.
once_unlocked() {
    last=$(($(date +%s) + ${LOCK_WAIT_S:-600}))
    while ! "$@" >"$JOB_DIR/package.out" 2>&1 </dev/null; do
        package_is_locked || return 1
        [ "$(date +%s)" -lt "$last" ] || return 1
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
    if [ "$PACKAGE_FORMAT" != deb ]; then
        [ -n "$(package_version)" ]
        return
    fi
    case $(dpkg-query -W -f '${Status}' "$UNIT" 2>/dev/null) in
        '' | *not-installed | *config-files) return 1 ;;
    esac
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
    if [ ! -e "$SAVED/COMPLETE" ] || [ -e "$SAVED/ENDED" ]; then return 0; fi
    restore_files "$SAVED" || failed "the state saved in $SAVED could not be put back"
    saved_has_ended
}

do_install() {
    package=$JOB_DIR/$PACKAGE_FILE
    check_package "$package"
    name_of "$PACKAGE_FORMAT"
    remember_service
    OFFSET=$(wc -c <"$AGENT_LOG" 2>/dev/null || echo 0)
    if ! is_whole; then
        fresh=no
        if [ -z "$(package_version)" ]; then fresh=yes; fi
        if [ "$fresh$PACKAGE_FORMAT" != yesdeb ]; then room_for_registration; fi
        if [ "$fresh" = no ]; then stop_agent || failed "processes of the agent do not end"; fi
        if [ "$fresh$PACKAGE_FORMAT" != yesdeb ]; then save_registration; fi
        if [ "$fresh" = yes ]; then
            mkdir -p "$HALTUUN/installed"
            echo "$PACKAGE_SHA256 $PACKAGE_FORMAT" >"$INSTALLED"
        fi
        # What the package's scripts make has to be readable by others.
        umask 022
        install_package "$package"
        installed=$?
        umask 077
        if [ "$installed" != 0 ] || ! is_whole; then
            REASON=$(package_error)
            if [ "$PACKAGE_FORMAT" = deb ]; then say hint dpkg; fi
            if [ "$fresh" = yes ]; then
                if is_unpacked; then
                    CHANGED=yes
                    remove_package
                fi
                rm -f "$INSTALLED"
            fi
            registration_as_saved
            finish failed 40
        fi
        CHANGED=yes
    fi
    registration_as_saved
    if [ "${WANT_RUNNING:-yes}" = no ]; then
        STOPPED=no
        finish 'done' 0
    fi
    enable_service
    core_runs || service start
    STOPPED=no
    # An undo gives back what was there; that it came up is not asked of it.
    if [ -n "${UNDOES:-}" ]; then finish 'done' 0; fi
    conclude
}

do_remove() {
    [ -e "$INSTALLED" ] || finish stale 33 "Haltuun did not install the agent here"
    read -r _ PACKAGE_FORMAT <"$INSTALLED"
    name_of "$PACKAGE_FORMAT"
    remember_service
    if [ "$PACKAGE_FORMAT" != deb ]; then room_for_registration; fi
    stop_agent
    if [ "$PACKAGE_FORMAT" != deb ]; then save_registration; fi
    if is_unpacked && ! remove_package; then failed "$(package_error)"; fi
    registration_as_saved
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

# Of two packages one is stopped and kept from starting; both stay installed. The other, where it is named as
# running, is restarted: both wrote into one state folder.
do_service() {
    remember_service
    if ! set_services "${DEB_SERVICE:-}" "${SNAP_SERVICE:-}"; then
        lost=$NAME
        set_services "${WAS_DEB:-}" "${WAS_SNAP:-}"
        failed "the service $lost did not become what it was to be"
    fi
    kept=''
    case ${DEB_SERVICE:-} in running*) kept=deb ;; esac
    case ${SNAP_SERVICE:-} in running*) kept=${kept}snap ;; esac
    if [ -n "${UNDOES:-}" ] || [ -z "$kept" ]; then finish 'done' 0; fi
    name_of "$kept"
    stop_agent || failed "processes of the agent do not end"
    start_agent
    if await_proof; then finish 'done' 0; fi
    new_lines >"$JOB_DIR/unproven.log"
    if set_services "${WAS_DEB:-}" "${WAS_SNAP:-}"; then say restored services; else say restored failed; fi
    finish not_proven 21
}
