# Opens, starts or polls a job; see haltuun/jobs.py. Prints its state in one line, and when it is over
# its output after that.
# shellcheck shell=sh
# shellcheck disable=SC2154 # haltuun_verb, haltuun_job, haltuun_fence, haltuun_wait_s are set before
umask 077
root=${HALTUUN_ROOT:-}/var/lib/haltuun
job=$root/jobs/$haltuun_job
run=$job/.run

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

open_job() {
    mkdir -p "$run/parts" || exit 1
    chmod 700 "$root" "$root/jobs" "$job" "$run"
    # Nothing ran: with a newer number it may.
    if [ -e "$run/refused" ]; then
        rm -rf "$run/refused" "$run/exit" "$run/started"
    fi
}

# Joins the parts of each file, as many as $run/sums says (an earlier attempt may have left more), and
# checks the whole against it.
assemble() {
    [ -e "$run/sums" ] || return 1
    while read -r sum parts name; do
        case $name in
            haltuun:*) file=$run/${name#haltuun:} ;;
            *) file=$job/$name ;;
        esac
        if [ -e "$run/parts/$name.000000" ]; then
            index=0
            while [ "$index" -lt "$parts" ]; do
                cat "$run/parts/$name.$(printf %06d "$index")" || return 1
                index=$((index + 1))
            done >"$run/whole"
            mv -f "$run/whole" "$file" || return 1
        fi
        [ "$(sha256sum <"$file" | cut -d' ' -f1)" = "$sum" ] || return 1
        rm -f "$run/parts/$name."*
    done <"$run/sums"
}

start_job() {
    [ "$(state)" = new ] || return 0
    if ! assemble; then
        echo incomplete
        exit 0
    fi
    setsid sh "$run/runner.sh" "$root" "$job" "$haltuun_fence" </dev/null >/dev/null 2>&1 &
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
