# Opens, starts or polls a job; see haltuun/jobs.py. Prints its state in one line, and when it is over
# its output after that.
# shellcheck shell=sh
# shellcheck disable=SC2154 # haltuun_verb, _job, _lay, _fence, _wait_s and _target are set before
umask 077
root=${HALTUUN_ROOT:-}/var/lib/haltuun
job=$root/jobs/$haltuun_job
run=$job/.run
# What this caller brings over, apart from what another does at the same time.
lay=$run/lay.$haltuun_lay

# The runner's children outlive it when it alone is killed: the job is running as long as one is.
session_lives() {
    cat /proc/[0-9]*/stat 2>/dev/null |
        awk -v session="$1" '{ sub(/.*\) /, "") } $4 == session && $1 != "Z" { found = 1 } END { exit !found }'
}

state() {
    if [ -e "$run/refused" ]; then
        echo "refused $(cat "$run/refused")"
    elif [ -e "$run/exit" ]; then
        echo "done $(cat "$run/exit")"
    elif [ -h "$run/started" ]; then
        runner=$(readlink "$run/started")
        if alive "$runner"; then
            echo running
        elif [ "${runner##*:}" = "$(cat /proc/sys/kernel/random/boot_id)" ] &&
            session_lives "${runner%%:*}"; then
            echo running
        elif [ -e "$run/exit" ]; then
            echo "done $(cat "$run/exit")"
        else
            echo interrupted
        fi
    else
        echo new
    fi
}

# Before the first byte is written, over this very connection: addresses come again, and routes change.
prove_right_box() {
    [ -n "$haltuun_target" ] || return 0
    look_at_imds
    if [ "$IMDS_ID $IMDS_ACCOUNT $IMDS_REGION" != "$haltuun_target" ]; then
        echo "elsewhere ${IMDS_ID:-none} ${IMDS_ACCOUNT:-none} ${IMDS_REGION:-none}"
        exit 0
    fi
}

# What is over for a week; what was saved of a host is never removed here.
sweep() {
    find "$root/jobs" "$root/notes" -mindepth 1 -maxdepth 1 -type d -mtime +7 2>/dev/null | while read -r old; do
        [ "$old" != "$job" ] || continue
        if [ -e "$old/.run/exit" ] || [ -e "$old/.run/refused" ] || [ -e "$old/ended" ]; then
            rm -rf "$old"
        fi
    done
}

open_job() {
    prove_right_box
    mkdir -p "$run" || exit 1
    chmod 700 "$root" "$root/jobs" "$job" "$run"
    # Nothing ran: with a newer number it may.
    if [ -e "$run/refused" ]; then
        rm -rf "$run/refused" "$run/exit" "$run/started"
    fi
    if [ "$(state)" = new ]; then mkdir -p "$lay/parts" "$lay/own" "$lay/files" || exit 1; fi
    sweep
}

# Joins the parts of each file and checks the whole against its sum.
assemble() {
    [ -e "$lay/sums" ] || return 1
    while read -r sum parts name; do
        case $name in
            haltuun:*) file=$lay/own/${name#haltuun:} ;;
            *) file=$lay/files/$name ;;
        esac
        if [ -e "$lay/parts/$name.000000" ]; then
            index=0
            while [ "$index" -lt "$parts" ]; do
                cat "$lay/parts/$name.$(printf %06d "$index")" || return 1
                index=$((index + 1))
            done >"$lay/whole"
            mv -f "$lay/whole" "$file" || return 1
        fi
        [ "$(sha256sum <"$file" | cut -d' ' -f1)" = "$sum" ] || return 1
        rm -f "$lay/parts/$name."*
    done <"$lay/sums"
}

start_job() {
    if [ "$(state)" != new ]; then
        rm -rf "$lay"
        return 0
    fi
    if ! assemble; then
        echo incomplete
        exit 0
    fi
    setsid sh "$lay/own/runner.sh" "$root" "$job" "$haltuun_fence" "$lay" </dev/null >/dev/null 2>&1 &
    tries=0
    while [ ! -h "$run/started" ] && [ "$tries" -lt 50 ]; do
        nap
        tries=$((tries + 1))
    done
}

nap() {
    sleep 0.1 2>/dev/null || sleep 1
}

wait_for_end() {
    tries=0
    while [ "$(state)" = running ] && [ "$tries" -lt "$1" ]; do
        if [ "$tries" -lt 10 ]; then nap; else sleep 1; fi
        tries=$((tries + 1))
    done
}

case $haltuun_verb in
    open) open_job ;;
    start) start_job ;;
esac
wait_for_end "$haltuun_wait_s"
now=$(state)
echo "$now"
case $now in
    done* | interrupted)
        cat "$run/stdout" 2>/dev/null
        cat "$run/stderr" >&2 2>/dev/null
        ;;
esac
exit 0
