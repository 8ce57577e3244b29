# Ends the process group of a script that outlived its deadline.
# shellcheck shell=sh
# shellcheck disable=SC2154 # haltuun_pid is set before
# dash's kill knows no "--". After the command's name in parentheses: state, parent, process group (proc(5)).
group=$(sed 's/.*) //' "/proc/$haltuun_pid/stat" 2>/dev/null | cut -d' ' -f3)
case $group in
    '' | 0 | 1) exit 0 ;;
esac
kill -TERM "-$group" 2>/dev/null || exit 0
sleep 1
kill -KILL "-$group" 2>/dev/null
exit 0
