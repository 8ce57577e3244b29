#!/bin/sh
# Looks at the agent; changes nothing. Prints key=value lines; of key files only named fields.
# Needs metadata.sh, host.sh and token.sh before it. BUSY_WAIT_S: how long to wait for a job of Haltuun that is still at work.

look_at_identity_config() {
    if [ -e "$IDENTITY_CONFIG" ]; then
        say identity_config yes
        for field in IdentityType InstanceId CredentialSource CredentialsExpiresAt ShareFile; do
            say "identity_config.$field" "$(json_string "$IDENTITY_CONFIG" "$field")"
        done
    else
        say identity_config no
    fi
}

look_at_vault() {
    say vault_manifest "$(yes_no grep -q '"RegistrationKey"' "$MANIFEST")"
    say vault_key_file "$(yes_no test -e "$KEY_FILE")"
    say vault_instance_id "$(vault_value instanceID)"
    say vault_region "$(vault_value region)"
    say vault_private_key "$(yes_no grep -q '"privateKey"[[:space:]]*:[[:space:]]*"[^"]' "$KEY_FILE")"
    say fingerprint_file "$(yes_no test -e "$FINGERPRINT_FILE")"
    say fingerprint_threshold "$(sed -n \
        's/.*"similarityThreshold"[[:space:]]*:[[:space:]]*\(-\{0,1\}[0-9]*\).*/\1/p' "$FINGERPRINT_FILE" 2>/dev/null)"
    say registration_file "$(yes_no test -e "$STATE/registration")"
    for dir in "$STATE"/mi-*; do
        [ -d "$dir" ] && say hybrid_dir "${dir##*/}"
    done
}

look_at_config() {
    say config_file "$(yes_no test -e "$CONFIG")"
    say config_sum "$(file_sum "$CONFIG")"
    [ -e "$CONFIG" ] || return 0
    head -c 65536 "$CONFIG" | redact | sed \
        -e 's/\("[^"]*[Pp]rivate[Kk]ey[^"]*"[[:space:]]*:[[:space:]]*\)"[^"]*"/\1"***"/g' \
        -e 's/\("[^"]*[Ss]ecret[^"]*"[[:space:]]*:[[:space:]]*\)"[^"]*"/\1"***"/g' \
        -e 's/\("[^"]*[Tt]oken[^"]*"[[:space:]]*:[[:space:]]*\)"[^"]*"/\1"***"/g' \
        -e 's/\("[^"]*[Pp]assword[^"]*"[[:space:]]*:[[:space:]]*\)"[^"]*"/\1"***"/g' |
        tr -d '\r' | awk '{ print "config=" $0 }' # also where the last line has no end
}

look_at_credentials() {
    say credentials_file "$(yes_no test -e "$CREDENTIALS")"
    say credentials_others "$(others_sum)"
    [ -e "$CREDENTIALS" ] || return 0
    tr -d '\r' <"$CREDENTIALS" | awk '
        /^[ \t]*\[/ {
            gsub(/^[ \t]*\[[ \t]*|[ \t]*\].*$/, "")
            section = $0
            print "credentials_section=" section
        }
        section == "default" && /^[ \t]*aws_access_key_id[ \t]*=/ {
            sub(/^[^=]*=[ \t]*/, "")
            key = 1
            if ($0 ~ /^ASIA/) temporary = 1
        }
        section == "default" && /^[ \t]*aws_session_token[ \t]*=[ \t]*[^ \t]/ { temporary = 1 }
        END { print "credentials_default=" (key ? (temporary ? "temporary" : "long-term") : "none") }
    '
    say credentials_of_agent "$(yes_no token_is_the_agents)"
    say credentials_sum "$(file_sum "$CREDENTIALS")"
}

# Two packages of the agent: which of them runs, and which would at the next boot.
look_at_services() {
    if [ -z "$(deb_version)" ] || [ -z "$(snap_version)" ]; then return 0; fi
    how=$(unit_state "$UNIT") && say service "deb $how"
    how=$(unit_state "$SNAP_UNIT") && say service "snap $how"
}

# dpkg was interrupted over the agent that was there.
deb_is_half() {
    deb_is_unpacked && [ -z "$(deb_version)" ] && ! deb_is_begun
}

# dpkg is to be had on other systems, too, as a tool: it is this system's own where Debian's base is its.
is_debian() {
    [ "$(dpkg-query -W -f '${Status}' base-files 2>/dev/null)" = 'install ok installed' ]
}

# What a package manager has no access to is not none: dpkg-query says 1 for none and 2 for an error, rpm that
# nothing is installed for either, and before that what is wrong. As a tool on Debian it has no database to read.
look_at_packages() {
    deb=$(deb_version)
    rpm=$(rpm_version)
    say deb "$deb"
    say snap "$(snap_version)"
    say rpm "$rpm"
    if [ -z "$deb$rpm" ]; then
        if have dpkg-query; then
            dpkg-query -W "$UNIT" >/dev/null 2>&1
            [ $? -le 1 ] || return 0
        fi
        if ! is_debian && have rpm && rpm -q --qf '%{VERSION}\n' "$UNIT" 2>&1 | grep -q '^error:'; then return 0; fi
    fi
    say packages read
}

look_at_processes() {
    [ ! -d /proc/1 ] || say processes read
    say up_s "$(cut -d. -f1 /proc/uptime 2>/dev/null)"
    agent_processes | while read -r comm pid started; do
        say process "$comm $pid $started"
        [ "$comm" = amazon-ssm-agen ] || continue
        tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -i '^[a-z]*_proxy=.' | redact | sed 's/^/proxy=/'
    done
}

# Where the agent's unit sets a proxy: "path:line:text".
look_at_proxy_files() {
    units=/etc/systemd/system
    for file in "$units/$UNIT.service" "$units/$UNIT.service.d"/*.conf "$units/$SNAP_UNIT.service.d"/*.conf \
        "/etc/init/$UNIT.conf" "/etc/init/$UNIT.override"; do
        [ -f "$file" ] || continue
        awk 'tolower($0) ~ /^[^#]*[a-z]_proxy=/ { print NR "\t" $0 }' "$file" | numbered "proxy_file=$file:"
    done
}

# The last start and what follows it, and at least the newest 400 lines.
look_at_log() {
    say log_file "$(yes_no test -e "$AGENT_LOG")"
    [ -e "$AGENT_LOG" ] || return 0
    total=$(awk 'END { print NR }' "$AGENT_LOG" 2>/dev/null) && say log_read yes
    start=$(grep -a -n -e 'Proxy environment variables:' -e 'Starting Agent: amazon-ssm-agent' \
        -e 'INFO Create new startup processor' "$AGENT_LOG" |
        tail -n 1 | cut -d: -f1)
    awk -v start="${start:-0}" -v tail_from=$((total - 399)) '
        NR >= tail_from || (start && NR >= start && NR < start + 250) {
            print NR "\t" substr($0, 1, 8000)
        }' "$AGENT_LOG" | numbered "log="
}

newest_of_journal() {
    case $journal in
        /*) tail -n 2000 "$journal" ;;
        *) have journalctl && bounded 20 journalctl -u "${journal##* }" -q --no-pager -n 2000 -o short-iso ;;
    esac 2>/dev/null
}

# What the agent printed, and what systemd says of it: the words with which the runtime dies are in no file of the
# agent's. The newest lines, and the last start's first; not what continues an entry (people's words, traces).
# Where nothing is kept, or nothing may be read, nobody knows how it ended.
look_at_journal() {
    case $(init_system) in
        systemd) journal="journalctl -u $(unit_in_use)" ;;
        upstart) journal=$UPSTART_LOG ;;
        *) return 0 ;;
    esac
    whole=--haltuun-read-it-whole
    { newest_of_journal && echo "$whole"; } | redact | awk -v whole="$whole" -v from="$journal" '
        $0 == whole { read = 1; next }
        {
            said = $0
            matters = sub(/^[^ ]+T[^ ]+ [^ ]+ systemd[^ ]*: /, "", said)
            if (!matters) sub(/^[^ ]+T[^ ]+ [^ ]+ [^ ]+: /, "", said)
            dies = said ~ /^panic: |^fatal error: /
            if (dies) trace = 0
            if (said ~ /^goroutine |^runtime stack:/) matters = !trace++
        }
        matters || dies || said ~ /^[0-9]+-[0-9]+-[0-9]+ [0-9]/ {
            line[++n] = substr($0, 1, 400)
            if (said ~ /INFO (Proxy environment variables:|Create new startup processor|Starting Agent: )/) start = n
        }
        END {
            if (read && n) print "journal_read=" from
            for (i = 1; i <= n; i++)
                if (i > n - 100 || (start && i >= start && i < start + 5)) print "journal=" i ":" line[i]
        }'
}

# Changes whose job began to change this host and was killed; no other job runs while this one looks.
look_at_cut_off() {
    for notes in "$HALTUUN"/notes/*; do
        [ -d "$notes" ] && [ ! -e "$notes/ended" ] || continue
        notes=${notes##*/}
        say cut_off "${notes%%-*}"
    done
}

# State that was saved by a repair which was killed, and not ended since: "change foreign saved-at mi-…".
look_at_unfinished() {
    for complete in "$HALTUUN"/saved/*/COMPLETE; do
        saved=${complete%/*}
        if [ ! -e "$complete" ] || [ -e "$saved/ENDED" ]; then continue; fi
        grep -qxF "$KEY_FILE" "$saved/restore" || continue
        saved_at=$(date -r "$complete" '+%Y-%m-%d %H:%M:%S')
        say unfinished "${saved##*/} $(cat "$saved/foreign" 2>/dev/null || echo no) $saved_at $(
            json_string "$saved/files$KEY_FILE" instanceID
        )"
    done
}

# The lock is a link to "pid:start:boot" of the job's runner (haltuun/host/runner.sh).
wait_for_job() {
    waited=0
    while [ "$waited" -lt "${BUSY_WAIT_S:-0}" ]; do
        holder=$(readlink "$HALTUUN/lock/held" 2>/dev/null) || return 0
        pid=${holder%%:*}
        started=$(sed 's/^.*) //' "/proc/$pid/stat" 2>/dev/null | awk '{print $20}')
        [ "$holder" = "$pid:$started:$(cat /proc/sys/kernel/random/boot_id)" ] || return 0
        sleep 2
        waited=$((waited + 2))
    done
}

wait_for_job
say root "$([ "$(id -u)" = 0 ] && echo yes || echo no)"
say clock "$(date '+%Y-%m-%d %H:%M:%S')"
say init "$(init_system)"
look_at_imds
say imds "$IMDS_WAY"
say imds_instance_id "$IMDS_ID"
say imds_account "$IMDS_ACCOUNT"
say imds_region "$IMDS_REGION"
look_at_packages
say binary "$(agent_binary)"
if is_debian; then say dpkg_arch "$(dpkg --print-architecture 2>/dev/null)"; fi
say deb_is_half "$(yes_no deb_is_half)"
say deb_is_begun "$(yes_no deb_is_begun)"
say rpm_arch "$(rpm --eval '%{_arch}' 2>/dev/null)"
say snap_arch "$(have snap && uname -m)"
look_at_services
look_at_processes
say enabled "$(service_enabled)"
look_at_vault
look_at_identity_config
look_at_config
look_at_credentials
look_at_proxy_files
say disk_free_kb "$(df -Pk /var/lib 2>/dev/null | awk 'NR == 2 {print $4}')"
# Some file systems have no fixed number of inodes, and say 0 of 0.
say inodes_free "$(df -Pi /var/lib 2>/dev/null | awk 'NR == 2 && $2 > 0 {print $4}')"
say state_kb "$(du -sk "$STATE" 2>/dev/null | cut -f1)"
look_at_unfinished
look_at_cut_off
look_at_log
look_at_journal
say end yes
