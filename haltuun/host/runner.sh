# Runs one job apart from every connection: runner.sh ROOT JOB FENCE, under setsid.
# shellcheck shell=sh
umask 077
trap '' HUP
root=$1
job=$2
fence=$3
run=$job/.run
lock=$root/lock

# A link comes into being whole, and only once: the lock and who holds it in one step.
ln -s "$(identity_of $$)" "$run/started" 2>/dev/null || exit 0

mkdir -p "$lock/fence"
while ! ln -s "$(identity_of $$)" "$lock/held" 2>/dev/null; do
    holder=$(readlink "$lock/held")
    if alive "$holder"; then
        sleep 1
    elif mv "$lock/held" "$lock/dead.$$" 2>/dev/null; then
        rm -f "$lock/dead.$$"
    fi
done

release() {
    [ "$(readlink "$lock/held")" = "$(identity_of $$)" ] && rm -f "$lock/held"
}

# The lease's number: the highest ever seen stays as a folder, a lower one is refused.
if [ -n "$fence" ]; then
    mkdir "$lock/fence/$fence" 2>/dev/null
    for path in "$lock/fence"/*; do
        seen=${path##*/}
        if [ "$seen" -gt "$fence" ]; then
            rmdir "$lock/fence/$fence"
            echo "$seen" >"$run/refused"
            release
            exit 75
        fi
        [ "$seen" -ge "$fence" ] || rmdir "$path"
    done
fi

(
    # Packages and units that the script installs have to be readable by others.
    umask 022
    cd "$job" || exit 1
    JOB_DIR=$job
    export JOB_DIR
    # shellcheck disable=SC1091 # laid by haltuun/jobs.py
    . "$run/env"
    exec sh "$run/script.sh"
) </dev/null >"$run/stdout" 2>"$run/stderr"
echo "$?" >"$run/exit.part"

# What was sent can be sent again; what the script made stays.
rm -f "$run/env"
while read -r _ _ name; do
    case $name in
        haltuun:*) ;;
        *) rm -f "$job/$name" ;;
    esac
done <"$run/sums"
mv "$run/exit.part" "$run/exit"
release
