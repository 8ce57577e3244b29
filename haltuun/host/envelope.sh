# The end of every text that a host's shell is given; see haltuun/envelope.py.
# shellcheck shell=sh
# shellcheck disable=SC2154 # haltuun_nonce, haltuun_script, haltuun_mode are set before
export LC_ALL=C
PATH=${PATH:-/usr/bin:/bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
haltuun_mark=--haltuun-$haltuun_nonce
if [ "$haltuun_mode" = packed ] && command -v gzip >/dev/null 2>&1 && command -v base64 >/dev/null 2>&1; then
    printf '%s begin %s packed\n' "$haltuun_mark" "$$"
    printf '%s begin %s\n' "$haltuun_mark" "$$" >&2
    exec 3>&1
    # The exit code goes round the pipe, over descriptor 4.
    haltuun_code=$({ { (eval "$haltuun_script") </dev/null 3>&- 4>&-; echo "$?" >&4; } |
        gzip -c 4>&- | base64 >&3 4>&-; } 4>&1)
    exec 3>&-
elif [ "$haltuun_mode" = merged ]; then
    printf '%s begin %s\n' "$haltuun_mark" "$$"
    exec 3>&1
    haltuun_errors=$( (eval "$haltuun_script") </dev/null 2>&1 >&3 3>&-)
    haltuun_code=$?
    printf '\n%s end %s\n' "$haltuun_mark" "$haltuun_code"
    haltuun_mark=$haltuun_mark-errors
    printf '%s begin %s\n%s\n%s end %s\n' "$haltuun_mark" "$$" "$haltuun_errors" "$haltuun_mark" "$haltuun_code"
    exit "$haltuun_code"
else
    printf '%s begin %s\n' "$haltuun_mark" "$$"
    printf '%s begin %s\n' "$haltuun_mark" "$$" >&2
    (eval "$haltuun_script") </dev/null
    haltuun_code=$?
fi
printf '\n%s end %s\n' "$haltuun_mark" "$haltuun_code"
printf '\n%s end %s\n' "$haltuun_mark" "$haltuun_code" >&2
exit "$haltuun_code"
