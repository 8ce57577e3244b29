# Put before job.sh and runner.sh by haltuun/jobs.py.
# shellcheck shell=sh
# Who a process is: pid, start, boot (pids come again, and so do starts after a reboot). Start is field 22 of proc(5)'s stat, 20 after the name; Z has ended.
identity_of() {
    set -- "$1" "$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null)"
    case $2 in
        '' | Z*) return 1 ;;
    esac
    echo "$1:$(echo "$2" | cut -d' ' -f20):$(cat /proc/sys/kernel/random/boot_id)"
}
alive() {
    [ -n "$1" ] && [ "$(identity_of "${1%%:*}")" = "$1" ]
}
