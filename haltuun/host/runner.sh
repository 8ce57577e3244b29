# Runs one job apart from every connection: runner.sh ROOT JOB FENCE LAID, under setsid.
# shellcheck shell=sh
umask 077
trap '' HUP
root=$1
job=$2
fence=$3
laid=$4
run=$job/.run
lock=$root/lock

# This job may be started once, of those that were laid at the same time.
if ! ln -s "$(identity_of $$)" "$run/started" 2>/dev/null; then
    rm -rf "$laid"
    exit 0
fi
mv "$laid"/own/* "$laid/sums" "$run/"
for file in "$laid"/files/*; do
    if [ -e "$file" ]; then mv "$file" "$job/"; fi
done
rm -rf "$laid"

mkdir -p "$lock"
take_lock

# The lease's number, of one ledger: the highest ever seen stays as a folder, a lower one is refused. Those
# of another ledger (another clone, a colleague's) say nothing about it.
if [ -n "$fence" ]; then
    number=${fence##*:}
    seen_here=$lock/fence
    [ "$number" = "$fence" ] || seen_here=$lock/fence.${fence%:*}
    mkdir -p "$seen_here/$number"
    for path in "$seen_here"/*; do
        seen=${path##*/}
        if [ "$seen" -gt "$number" ]; then
            rmdir "$seen_here/$number"
            echo "$seen" >"$run/refused"
            release_lock
            exit 75
        fi
        [ "$seen" -ge "$number" ] || rmdir "$path"
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
release_lock
