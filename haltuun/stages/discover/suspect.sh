# The strong signs of compromise, printed as `suspect KIND WHERE`; never the content of a file, which
# may hold secrets. Needs common.sh before it; called by probe.sh.
# shellcheck shell=sh
# shellcheck disable=SC2154,SC2317,SC2329 # ROOT is of common.sh; the functions are for probe.sh

# Executables running from where anybody may write.
suspect_executables() {
    # shellcheck disable=SC2012 # of /proc, and nothing else prints all links in one process
    ls -l "$ROOT"/proc/[0-9]*/exe 2>/dev/null | awk '
        {
            at = index($0, " -> "); if (!at) next
            exe = substr($0, at + 4)
            pid = substr($0, 1, at - 1); sub(/\/exe$/, "", pid); sub(/.*\//, "", pid)
            if (exe ~ /^\/(tmp|dev\/shm|var\/tmp)\//) print "suspect\trunning\t" exe " (pid " pid ")"
        }'
    say "done" suspect.running
}

# md5_of FILE: with what is there; dpkg keeps MD5 sums and no others.
if have md5sum; then
    md5_of() { md5sum <"$1" | cut -d ' ' -f 1; }
elif have openssl; then
    md5_of() { openssl md5 <"$1" | sed 's/.* //'; }
elif have perl && perl -MDigest::MD5 -e 1 2>/dev/null; then
    md5_of() { perl -MDigest::MD5 -e 'print Digest::MD5->new->addfile(*STDIN)->hexdigest' <"$1"; }
elif have busybox && busybox md5sum </dev/null >/dev/null 2>&1; then
    md5_of() { busybox md5sum <"$1" | cut -d ' ' -f 1; }
fi

# Programs that intruders replace, against the package's own checksums.
suspect_checksums() {
    programs='sshd|sudo|login|ps|ss'
    if [ -d "$ROOT/var/lib/dpkg/info" ]; then
        have md5_of || {
            say cannot suspect.checksum 'there is no md5sum, openssl, perl or busybox to compare checksums with'
            return
        }
        grep -hE "  (usr/)?s?bin/($programs)\$" /dev/null "$ROOT"/var/lib/dpkg/info/*.md5sums 2>/dev/null |
            while read -r sum path; do
                [ -f "$ROOT/$path" ] || continue
                # A diversion is an administrator's doing, and dpkg then keeps the original elsewhere.
                grep -qsxF "/$path" "$ROOT/var/lib/dpkg/diversions" && continue
                is=$(md5_of "$ROOT/$path")
                [ "$is" = "$sum" ] || say suspect checksum "/$path"
            done
        say "done" suspect.checksum
    elif have rpm; then
        for path in /usr/sbin/sshd /usr/bin/sudo /bin/login /bin/ps /usr/sbin/ss; do
            [ -f "$ROOT$path" ] || continue
            # The third character of a verify line is 5 when the digest differs (rpm(8)).
            bounded 10 rpm -V --nodeps --nomtime -f "$path" 2>/dev/null |
                awk -v p="$path" 'substr($1, 3, 1) == "5" && $NF == p { print "suspect\tchecksum\t" p }'
        done
        say "done" suspect.checksum
    else
        say cannot suspect.checksum 'no package database'
    fi
}

# Cron tables, units and boot scripts that pipe a download into a shell.
suspect_pipes() {
    shell='(/usr)?(/bin/)?(env +)?(ba|da|z|k|a)?sh'
    pattern="(curl|wget|lwp-download)[^|#]*[|] *(sudo +)?$shell([^a-z0-9_./-]|\$)"
    pattern="$pattern|$shell +(-c +)?[\"']?([\$][(]|<[(]|\`) *(curl|wget) "
    pattern="$pattern|base64 +(-d|-D|--decode)[^|#]*[|] *$shell([^a-z0-9_./-]|\$)"
    {
        for dir in etc/cron.d etc/cron.hourly etc/cron.daily etc/cron.weekly etc/cron.monthly var/spool/cron \
            etc/systemd/system lib/systemd/system usr/lib/systemd/system etc/init root/.config/systemd; do
            [ -d "$ROOT/$dir" ] && grep -rEn -e "$pattern" "$ROOT/$dir" /dev/null 2>/dev/null
        done
        for file in etc/crontab etc/rc.local etc/anacrontab; do
            [ -f "$ROOT/$file" ] && grep -En -e "$pattern" "$ROOT/$file" /dev/null 2>/dev/null
        done
    } | awk -v root="$ROOT" '
        {
            split($0, part, ":"); text = $0
            sub(/^[^:]*:[0-9]*:/, "", text)
            if (text ~ /^[[:space:]]*#/) next
            file = substr(part[1], length(root) + 1)
            # merged /usr shows the same file twice
            sub(/^\/usr\/lib\//, "/lib/", file)
            if (!seen[file ":" part[2]]++) print "suspect\tpipe\t" file ":" part[2]
        }'
    say "done" suspect.pipe
}

# True when a PHP file holds code beyond the guards that plugins put into upload folders.
php_code() {
    rest=$(head -c 65536 "$1" | tr -d '\000' | awk '
        {
            line = $0
            while (1) {
                if (comment) {
                    at = index(line, "*/")
                    if (!at) { line = ""; break }
                    line = substr(line, at + 2); comment = 0
                }
                at = index(line, "/*")
                if (!at) break
                printf "%s", substr(line, 1, at - 1)
                line = substr(line, at + 2); comment = 1
            }
            sub(/(^|[[:space:]])\/\/.*/, "", line); sub(/^[[:space:]]*#.*/, "", line)
            printf "%s\n", line
        }' | tr -d '[:space:]' | sed -e 's/<?php//g' -e 's/?>//g' -e 's/\(exit\|die\)\(()\)\{0,1\};//g' \
        -e "s/defined(.ABSPATH.)||//g" -e "s/if(!defined(.ABSPATH.))//g" -e 's/http_response_code(403);//g' \
        -e 's/[{}]//g')
    case $(head -c 65536 "$1" | tr -d '\000') in
        *'<?'*) [ -n "$rest" ] ;;
        *) false ;;
    esac
}

suspect_uploads() {
    places=
    for dir in var/www srv home opt usr/share/nginx usr/share/wordpress var/lib/wordpress; do
        [ -d "$ROOT/$dir" ] && places="$places $ROOT/$dir"
    done
    if [ -n "$places" ]; then
        # shellcheck disable=SC2086 # none of them holds a blank
        found=$(bounded 30 find $places -xdev -type f \( -name '*.php' -o -name '*.php[3457]' -o -name '*.phtml' \
            -o -name '*.phar' \) \( -path '*/wp-content/uploads/*' -o -path '*/sites/*/files/*' \
            -o -path '*/pub/media/*' \) 2>/dev/null)
        code=$?
        # What was found until then is looked at all the same.
        printf '%s\n' "$found" | head -n 200 | while IFS= read -r file; do
            [ -f "$file" ] && php_code "$file" && say suspect upload "${file#"$ROOT"}"
        done
        # 143: killed by the busybox of old
        if [ "$code" = 124 ] || [ "$code" = 143 ]; then
            say cannot suspect.upload 'the web folders are too large to be searched in 30 s'
            return
        fi
    fi
    say "done" suspect.upload
}

# Weaker: worth a person's look, holds nothing.
weak_signs() {
    [ -s "$ROOT/etc/ld.so.preload" ] && say weak ld.so.preload "$(tr '\n' ' ' <"$ROOT/etc/ld.so.preload")"
    awk -F : '$3 == 0 && $1 != "root" { print "weak\tuid 0\t" $1 }' "$ROOT/etc/passwd" 2>/dev/null
    say "done" weak
}
