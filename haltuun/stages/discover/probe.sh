# Looks at one host and prints what it sees, a line a fact: key, tab, fields. Changes nothing, writes
# no file. `done NAME` says that a list is whole, `cannot NAME WHY` that it could not be made.
# Needs common.sh and suspect.sh before it.
# shellcheck shell=sh
# shellcheck disable=SC2154 # ROOT, TAB and NL are of common.sh

look_system() {
    say uid "$(id -u)"
    say hostname "$(cat "$ROOT/proc/sys/kernel/hostname" 2>/dev/null || uname -n)"
    say kernel "$(uname -r)"
    say arch "$(uname -m)"
    say epoch "$(date -u +%s)"
    for file in /etc/os-release /usr/lib/os-release; do
        [ -r "$ROOT$file" ] || continue
        sed -n "s/^[A-Z_]*=.*/os-release$TAB&/p" "$ROOT$file"
        break
    done
    [ -r "$ROOT/etc/lsb-release" ] && sed -n "s/^[A-Z_]*=.*/lsb-release$TAB&/p" "$ROOT/etc/lsb-release"
    for file in /etc/system-release /etc/redhat-release; do
        [ -r "$ROOT$file" ] && say release "$(head -n 1 "$ROOT$file")" && break
    done
    [ -r "$ROOT/etc/debian_version" ] && say debian "$(head -n 1 "$ROOT/etc/debian_version")"
    awk '/32 host LOCAL/ { print "address\t" last } { last = $2 }' "$ROOT/proc/net/fib_trie" 2>/dev/null |
        sort -u
}

look_init() {
    comm=$(cat "$ROOT/proc/1/comm" 2>/dev/null)
    say init.comm "$comm"
    if [ "$comm" = systemd ] || [ -d "$ROOT/run/systemd/system" ]; then
        INIT=systemd
    elif [ -x "$ROOT/sbin/initctl" ] || [ -x "$ROOT/usr/sbin/initctl" ]; then
        INIT=upstart
    else
        INIT=sysv
    fi
    say init "$INIT"
}

# dpkg's own file, so that it works without dpkg and never locks it.
deb_version() {
    awk -v name="$1" '
        $1 == "Package:" { hit = ($2 == name) }
        hit && $1 == "Status:" { installed = ($NF == "installed") }
        hit && $1 == "Version:" { if (installed) print $2; exit }' "$ROOT/var/lib/dpkg/status" 2>/dev/null
}

look_agent() {
    service=amazon-ssm-agent
    if [ -e "$ROOT/snap/amazon-ssm-agent/current" ]; then
        say agent.package snap "$(sed -n 's/^version: *//p' \
            "$ROOT/snap/amazon-ssm-agent/current/meta/snap.yaml" 2>/dev/null | tr -d "'\"")"
        service=snap.amazon-ssm-agent.amazon-ssm-agent
    fi
    version=$(deb_version amazon-ssm-agent)
    [ -n "$version" ] && say agent.package deb "$version"
    if have rpm && [ -z "$version" ]; then
        version=$(bounded 10 rpm -q --qf '%{VERSION}-%{RELEASE}' amazon-ssm-agent 2>/dev/null) &&
            say agent.package rpm "$version"
    fi
    for dir in "$ROOT"/proc/[0-9]*; do
        read -r comm 2>/dev/null <"$dir/comm" || continue
        case $comm in
            amazon-ssm-agen* | ssm-agent-worke* | ssm-document-w* | ssm-session-wo*)
                say agent.process "${dir##*/}" "$comm"
                ;;
        esac
    done
    case $INIT in
        systemd) say agent.enabled "$(bounded 10 systemctl is-enabled $service 2>/dev/null | head -n 1)" ;;
        upstart)
            if [ ! -r "$ROOT/etc/init/amazon-ssm-agent.conf" ]; then
                say agent.enabled absent
            elif grep -qs '^manual' "$ROOT/etc/init/amazon-ssm-agent.override" ||
                ! grep -qs '^start on' "$ROOT/etc/init/amazon-ssm-agent.conf"; then
                say agent.enabled disabled
            else
                say agent.enabled enabled
            fi
            ;;
    esac
    say "done" agent
}

# listener PROTOCOL ADDRESS PORT PID
listeners_ss() {
    lines=$(bounded 20 ss -lntup 2>/dev/null) || return 1
    printf '%s\n' "$lines" | awk '
        $1 ~ /^(tcp|udp)/ {
            pid = ""
            if (match($0, /pid=[0-9]+/)) pid = substr($0, RSTART + 4, RLENGTH - 4)
            else if (match($0, /",[0-9]+,/)) pid = substr($0, RSTART + 2, RLENGTH - 3)
            at = $5; port = at; sub(/.*:/, "", port)
            address = substr(at, 1, length(at) - length(port) - 1); sub(/%.*/, "", address)
            gsub(/[][]/, "", address)
            if (port ~ /^[0-9]+$/) printf "listener\t%s\t%s\t%s\t%s\n", substr($1, 1, 3), address, port, pid
        }'
}

listeners_netstat() {
    lines=$(bounded 20 netstat -lntup 2>/dev/null) || return 1
    printf '%s\n' "$lines" | awk '
        $1 ~ /^(tcp|udp)/ {
            pid = ""
            for (i = 6; i <= NF; i++) if ($i ~ /^[0-9]+\//) { pid = $i; sub(/\/.*/, "", pid); break }
            port = $4; sub(/.*:/, "", port)
            address = substr($4, 1, length($4) - length(port) - 1)
            if (port ~ /^[0-9]+$/) printf "listener\t%s\t%s\t%s\t%s\n", substr($1, 1, 3), address, port, pid
        }'
}

# State 0A is LISTEN; 07 is an unconnected UDP socket (Linux, net/tcp_states.h).
listeners_proc() {
    [ -r "$ROOT/proc/net/tcp" ] || return 1
    {
        # shellcheck disable=SC2012 # of /proc, and nothing else prints all links in one process
        ls -l "$ROOT"/proc/[0-9]*/fd 2>/dev/null
        for table in tcp tcp6 udp udp6; do
            [ -r "$ROOT/proc/net/$table" ] && printf '==%s\n' "$table" && cat "$ROOT/proc/net/$table"
        done
    } | awk '
        function decimal(hex,  i, value) {
            value = 0
            for (i = 1; i <= length(hex); i++) value = value * 16 + index("0123456789ABCDEF", substr(hex, i, 1)) - 1
            return value
        }
        /^==/ { table = substr($0, 3); next }
        table == "" && /\/proc\/[0-9]+\/fd:$/ { pid = $0; sub(/\/fd:$/, "", pid); sub(/.*\//, "", pid); next }
        table == "" && match($0, /socket:\[[0-9]+\]/) { owner[substr($0, RSTART + 8, RLENGTH - 9)] = pid; next }
        table ~ /^tcp/ && $4 == "0A" || table ~ /^udp/ && $4 == "07" {
            at = index($2, ":")
            printf "listener\t%s\thex:%s\t%d\t%s\n", substr(table, 1, 3), substr($2, 1, at - 1), \
                decimal(substr($2, at + 1)), owner[$10]
        }'
}

look_listeners() {
    if { have ss && found=$(listeners_ss); } || { have netstat && found=$(listeners_netstat); } ||
        found=$(listeners_proc); then
        [ -n "$found" ] && printf '%s\n' "$found"
        look_processes "$(printf '%s\n' "$found" | awk -F '\t' '$5 != "" { print $5 }' | sort -un)"
        say "done" listeners
    else
        say cannot listeners 'neither ss nor netstat works, and /proc/net/tcp cannot be read'
    fi
}

# process PID COMM EXE UNIT PARENT, for these pids; then which package owns each executable.
look_processes() {
    executables=
    for pid in $1; do
        dir=$ROOT/proc/$pid
        exe=$(readlink "$dir/exe" 2>/dev/null)
        exe=${exe%" (deleted)"}
        unit=$(awk -F / '{ for (i = NF; i > 0; i--) if ($i ~ /\.service$/) { print $i; exit } }' \
            "$dir/cgroup" 2>/dev/null)
        parent=$(sed -n 's/^PPid:[[:space:]]*//p' "$dir/status" 2>/dev/null)
        say process "$pid" "$(cat "$dir/comm" 2>/dev/null)" "$exe" "$unit" "$parent"
        case $NL$executables$NL in
            *"$NL$exe$NL"*) ;;
            *) [ -n "$exe" ] && executables="$executables${executables:+$NL}$exe" ;;
        esac
    done
    [ -n "$executables" ] || return 0
    if [ -d "$ROOT/var/lib/dpkg/info" ]; then
        # With merged /usr the package may list /bin/x for what runs as /usr/bin/x, and the reverse.
        names=$(printf '%s\n' "$executables" | sed -n 'p; s#^/usr\(/s\{0,1\}bin/\)#\1#p; s#^/\(s\{0,1\}bin/\)#/usr/\1#p')
        grep -xF -e "$names" /dev/null "$ROOT"/var/lib/dpkg/info/*.list 2>/dev/null |
            sed -n "s#^.*/info/\(.*\)\.list:\(/.*\)\$#owner$TAB\2$TAB\1#p"
    elif have rpm; then
        printf '%s\n' "$executables" | while IFS= read -r exe; do
            name=$(bounded 10 rpm -qf --qf '%{NAME}' "$exe" 2>/dev/null) && say owner "$exe" "$name"
        done
    fi
}

look_units() {
    case $INIT in
        systemd)
            lines=$(bounded 20 systemctl list-units --type=service --state=running \
                --no-legend --no-pager --plain 2>/dev/null) || {
                say cannot units 'systemctl list-units failed'
                return
            }
            names=$(printf '%s\n' "$lines" | awk '$1 ~ /\.service$/ { print $1 }')
            printf '%s\n' "$names" | sed -n "s/^..*/unit$TAB&/p"
            # shellcheck disable=SC2086 # names of units hold no blanks
            [ -n "$names" ] && bounded 20 systemctl show -p Id -p MainPID $names 2>/dev/null | awk -F = '
                $1 == "Id" { id = $2 } $1 == "MainPID" { pid = $2 }
                id != "" && pid != "" { print "unit.pid\t" id "\t" pid; id = ""; pid = "" }
                $0 == "" { id = ""; pid = "" }'
            say "done" units
            ;;
        upstart)
            lines=$(bounded 20 initctl list 2>/dev/null) || {
                say cannot units 'initctl list failed'
                return
            }
            printf '%s\n' "$lines" | awk '/start\/running/ {
                print "unit\t" $1
                if (match($0, /process [0-9]+/)) print "unit.pid\t" $1 "\t" substr($0, RSTART + 8, RLENGTH - 8)
            }'
            say "done" units
            ;;
        *) say cannot units 'System V init keeps no list of what runs' ;;
    esac
}

# logs SERVICE PATH...: those that exist.
logs() {
    service=$1
    shift
    for file in "$@"; do
        [ -f "$file" ] && say log "${file#"$ROOT"}" "$service"
    done
}

look_logs() {
    l=$ROOT/var/log
    logs syslog "$l/syslog" "$l/messages"
    logs auth "$l/auth.log" "$l/secure"
    logs apache "$l"/apache2/*.log "$l"/httpd/*_log
    logs nginx "$l"/nginx/*.log
    logs lighttpd "$l"/lighttpd/*.log
    logs haproxy "$l/haproxy.log"
    logs squid "$l"/squid*/access.log
    logs mysql "$l"/mysql/*.log "$l/mysql.log" "$l/mysql.err" "$l/mysqld.log" "$l"/mariadb/*.log
    logs postgresql "$l"/postgresql/*.log "$ROOT"/var/lib/pgsql/data/pg_log/*.log
    logs mongodb "$l"/mongodb/*.log
    logs redis "$l"/redis/*.log
    logs rabbitmq "$l"/rabbitmq/*.log
    logs elasticsearch "$l"/elasticsearch/*.log
    logs php-fpm "$l"/php*-fpm.log "$l"/php-fpm/*.log
    logs tomcat "$l"/tomcat*/catalina.out "$ROOT"/opt/tomcat*/logs/catalina.out
    logs jenkins "$l"/jenkins/*.log
    logs mail "$l/mail.log" "$l/maillog"
    logs ftp "$l/vsftpd.log" "$l"/proftpd/*.log
    logs cron "$l/cron" "$l/cron.log"
    logs fail2ban "$l/fail2ban.log"
    logs docker "$l/docker.log" "$l"/upstart/docker.log
    logs cloud-init "$l/cloud-init.log"
    logs amazon-ssm-agent "$l/amazon/ssm/amazon-ssm-agent.log"
    say "done" logs
}

# What a predecessor's agent reads at its next start, whether it runs now or not. The package itself
# brings an empty amazon-cloudwatch-agent.d and common-config.toml.
look_cloudwatch() {
    etc=$ROOT/opt/aws/amazon-cloudwatch-agent/etc
    configured=no
    for file in "$etc/amazon-cloudwatch-agent.json" "$etc/amazon-cloudwatch-agent.toml" \
        "$etc"/amazon-cloudwatch-agent.d/*; do
        [ -s "$file" ] && configured=yes
    done
    say cloudwatch "$configured"
    say "done" cloudwatch
}

# Who puts the host's files back as they were: named with how it acts, or with its configuration alone.
look_config_management() {
    running=$(cat "$ROOT"/proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n' | sed -n 's#^.*/##; /^[a-z-]*$/p' | sort -u)
    for row in \
        'puppet puppet /etc/puppet/puppet.conf /etc/puppetlabs/puppet/puppet.conf' \
        'chef chef-client /etc/chef/client.rb /etc/cinc/client.rb' \
        'salt salt-minion /etc/salt/minion' \
        'cfengine cf-execd /var/cfengine/inputs/promises.cf' \
        'ansible ansible-pull'; do
        # shellcheck disable=SC2086 # words
        set -- $row
        tool=$1 program=$2
        shift 2
        case $NL$running$NL in
            *"$NL$program$NL"*) say config-management "$tool" "its process $program runs" ;;
        esac
        for file in "$ROOT"/etc/crontab "$ROOT"/etc/cron.d/* "$ROOT"/etc/cron.hourly/* "$ROOT"/etc/cron.daily/* \
            "$ROOT"/var/spool/cron/root "$ROOT"/var/spool/cron/crontabs/root; do
            grep -q "^[^#]*$program" "$file" 2>/dev/null &&
                say config-management "$tool" "${file#"$ROOT"} starts $program"
        done
        for file in "$@"; do
            [ -f "$ROOT$file" ] && say config-management "$tool" "$file is there"
        done
    done
    say "done" config-management
}

look_rest() {
    if have python3; then
        say python3 "$(bounded 10 python3 -V 2>&1 | sed -n 's/^Python //p')"
    else
        say python3 none
    fi
    for mount in / /var; do
        df -P -k "$ROOT$mount" 2>/dev/null | awk -v m="$mount" 'NR == 2 { print "disk\t" m "\t" $2 "\t" $4 }'
        df -P -i "$ROOT$mount" 2>/dev/null | awk -v m="$mount" 'NR == 2 { print "inodes\t" m "\t" $2 "\t" $4 }'
    done
    have ssh && say openssh "$(bounded 10 ssh -V 2>&1 | sed -n 's/^OpenSSH_\([0-9.]*\).*/\1/p')"
    # What VMware's own installer leaves; open-vm-tools is in cloud images too and says nothing.
    if [ -e "$ROOT/etc/vmware-tools/locations" ] || [ -d "$ROOT/usr/lib/vmware-tools" ]; then
        say lifted vmware-tools
    fi
    [ -e "$ROOT/usr/bin/cloud-init" ] || say lifted no-cloud-init
    say "done" lifted
}

say probe 1
look_system
look_init
say_metadata
look_agent
look_listeners
look_units
look_logs
look_cloudwatch
look_config_management
look_rest
suspect_executables
suspect_checksums
suspect_pipes
suspect_uploads
weak_signs
say end probe
