#!/bin/sh
# What pairs.py puts a host into its first state with; the words of a case follow it.
# shellcheck disable=SC2317,SC2329 # called by what follows
set -u
cd / || exit 1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
agent=amazon-ssm-agent
state=/var/lib/amazon/ssm
log=/var/log/amazon/ssm/$agent.log
saved=/var/cache/pairs.tar

is_systemd() {
    [ "$(cat /proc/1/comm)" = systemd ]
}

service() {
    if is_systemd; then systemctl "$1" $agent; else initctl "$1" $agent; fi >/dev/null 2>&1
}

down() {
    service stop
    pkill -KILL ssm-agen
    while pgrep ssm-agen >/dev/null; do sleep 0.1; done
}

be_enabled() {
    if is_systemd; then systemctl enable $agent >/dev/null 2>&1; else rm -f /etc/init/$agent.override; fi
}

be_disabled() {
    if is_systemd; then
        systemctl disable $agent >/dev/null 2>&1
    else
        printf '# not now\nmanual\n# ops\n' >/etc/init/$agent.override
    fi
}

cleared() {
    $agent -register -clear >/dev/null
}

as_itself() {
    cleared
    rm -rf /root/.aws $state/registration $state/mi-*
}

# The copied credentials have run out, else they are taken without a look at the machine.
on_another_machine() {
    rm -rf $state/runtimeconfig
    sed -i 's/"machine-id":"/&other/' $state/Vault/Store/InstanceFingerprint
}

# The registration stands in the agent's configuration as well.
named_twice() {
    id=$(sed 's/.*"instanceID": *"\([^"]*\)".*/\1/' $state/Vault/Store/RegistrationKey)
    printf '{"Identity": {"CustomIdentities": [{"InstanceID": "%s", "Region": "eu-west-1"}]}}' "$id" \
        >/etc/amazon/ssm/$agent.json
    chmod 640 /etc/amazon/ssm/$agent.json
}

# A program that lacks the word for it: the registration stays.
does_not_clear() {
    mv /usr/bin/$agent /usr/bin/$agent.real
    cat >/usr/bin/$agent <<'END'
#!/bin/sh
[ "$1" = -register ] && exit 1
exec /usr/bin/amazon-ssm-agent.real "$@"
END
    chmod 755 /usr/bin/$agent
}

without_package() {
    dpkg --remove $agent >/dev/null 2>&1
}

# Killed, and not started again: its worker stays.
orphaned() {
    pkill -KILL -x amazon-ssm-agen
    service stop
}

up() {
    service start
    tries=0
    until grep -q -e 'Set up control channel' -e 'Retrieve credentials produced error' $log; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || exit 7
        sleep 0.1
    done
}

# As the host was at first, with the agent down.
again() {
    down
    if [ -e /usr/bin/$agent.real ]; then mv /usr/bin/$agent.real /usr/bin/$agent; fi
    if [ -e $saved ]; then
        rm -rf $state /root/.aws /etc/amazon /var/lib/haltuun
        tar -xpf $saved
    else
        tar -cf $saved var/lib/amazon root/.aws etc/amazon
    fi
    if [ ! -x /usr/bin/$agent ]; then
        dpkg --force-unsafe-io -i /var/cache/agent.deb >/dev/null 2>&1 || exit 8
        down
    fi
    be_enabled
    : >$log
}
