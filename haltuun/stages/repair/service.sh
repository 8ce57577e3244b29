#!/bin/sh
# The agent's service under systemd, upstart or snap, and the proof that it came up rightly.
# Needs host.sh and job.sh before it.
# shellcheck disable=SC2034,SC2153 # shared with the scripts before and after it

# Blocked egress is silent for about 128 s (the kernel's SYN retries), so less proves nothing.
LOG_WAIT_S=${LOG_WAIT_S:-180}
CHANNEL_WAIT_S=45
STOP_WAIT_S=${STOP_WAIT_S:-30}
# A role just attached takes seconds to reach IMDS, and an agent that was refused sleeps 25 minutes: it
# is started again after 5, 10, 20 and 40 s.
RETRY_PAUSE_S=${RETRY_PAUSE_S:-5}
RETRIES=4

core_runs() {
    agent_processes | grep -q '^amazon-ssm-agen '
}

service() {
    CHANGED=yes
    case $INIT in
        systemd)
            if [ "$NAME" = "$SNAP_UNIT" ]; then
                bounded 90 snap "$1" amazon-ssm-agent
            else
                bounded 90 systemctl "$1" "$UNIT"
            fi
            ;;
        upstart) bounded 90 initctl "$1" "$UNIT" ;;
        *) return 1 ;;
    esac >>"$JOB_DIR/service.out" 2>&1 </dev/null
}

# What a person wrote there goes back as it was, where nobody has changed the rest of it since.
OVERRIDE=/etc/init/$UNIT.override
is_manual() {
    grep -q '^[[:space:]]*manual' "$OVERRIDE" 2>/dev/null
}

without_manual() {
    [ ! -e "$1" ] || sed '/^[[:space:]]*manual/d' "$1"
}

enable_service() {
    CHANGED=yes
    case $INIT in
        systemd)
            if [ "$NAME" = "$SNAP_UNIT" ]; then
                bounded 90 snap start --enable amazon-ssm-agent
            else
                bounded 60 systemctl enable "$UNIT"
            fi >>"$JOB_DIR/service.out" 2>&1 </dev/null
            ;;
        upstart)
            is_manual || return 0
            cp -p "$OVERRIDE" "$HALTUUN/override.new" && mv -f "$HALTUUN/override.new" "$HALTUUN/override"
            without_manual "$OVERRIDE" >"$JOB_DIR/override" || return 0
            if [ -s "$JOB_DIR/override" ]; then
                replace_file "$OVERRIDE" <"$JOB_DIR/override"
            else
                rm -f "$OVERRIDE"
            fi
            ;;
    esac
}

disable_service() {
    CHANGED=yes
    case $INIT in
        systemd)
            if [ "$NAME" = "$SNAP_UNIT" ]; then
                bounded 90 snap stop --disable amazon-ssm-agent
            else
                bounded 60 systemctl disable "$UNIT"
            fi >>"$JOB_DIR/service.out" 2>&1 </dev/null
            ;;
        upstart)
            if [ ! -e "/etc/init/$UNIT.conf" ] || is_manual; then return 0; fi
            if [ "$(without_manual "$HALTUUN/override")" = "$(without_manual "$OVERRIDE")" ] &&
                [ -e "$HALTUUN/override" ]; then
                cp -p "$HALTUUN/override" "$OVERRIDE.haltuun" && mv -f "$OVERRIDE.haltuun" "$OVERRIDE"
            else
                (umask 022 && echo manual >>"$OVERRIDE")
            fi
            ;;
    esac
}

# How it was, noted once a run: what is run again after a kill must not note its own doing. Neither must
# the next run: where an earlier one was killed, its notes tell how it was.
remember_service() {
    [ -e "$NOTES/was_enabled" ] && return 0
    mkdir -p "$NOTES"
    for notes in "$HALTUUN"/notes/*; do
        if [ "$notes" != "$NOTES" ] && [ -e "$notes/was_enabled" ] && [ ! -e "$notes/ended" ]; then
            if [ -e "$notes/listening" ]; then cp "$notes/listening" "$NOTES/"; fi
            cp "$notes/was_running" "$NOTES/" && cp "$notes/was_enabled" "$NOTES/was_enabled.new" &&
                mv "$NOTES/was_enabled.new" "$NOTES/was_enabled" && : >"$notes/ended"
            return 0
        fi
    done
    listening >"$NOTES/listening"
    if core_runs; then echo yes; else echo no; fi >"$NOTES/was_running"
    service_enabled >"$NOTES/was_enabled.new" && mv "$NOTES/was_enabled.new" "$NOTES/was_enabled"
}

# Where the agent's log ended before this run's work: what is run again after a kill has to see all that an
# agent which came up meanwhile has said.
remember_log() {
    if [ ! -e "$NOTES/offset" ]; then
        { wc -c <"$AGENT_LOG" 2>/dev/null || echo 0; } >"$NOTES/offset.new" && mv "$NOTES/offset.new" "$NOTES/offset"
    fi
    OFFSET=$(cat "$NOTES/offset")
}

await_end() {
    waited=0
    while [ -n "$(agent_processes)" ] && [ "$waited" -lt "$1" ]; do
        sleep 1
        waited=$((waited + 1))
    done
    [ -z "$(agent_processes)" ]
}

end_processes() {
    agent_processes | while read -r comm pid started; do
        # The pid may have been given to another process in between.
        [ "$(started_at "$pid")" = "$started" ] || continue
        say ended "$comm $pid"
        kill "-$1" "$pid" 2>/dev/null
    done
}

# The unit has KillMode=process: a worker outlives a killed core and keeps its old identity.
stop_agent() {
    STOPPED=yes
    CHANGED=yes
    service stop
    await_end "$STOP_WAIT_S" && return 0
    end_processes TERM
    await_end 10 && return 0
    end_processes KILL
    await_end 5
}

start_agent() {
    OFFSET=$(wc -c <"$AGENT_LOG" 2>/dev/null || echo 0)
    enable_service
    service start
    STOPPED=no
}

# Before its state is put back: a host that starts anew in between would have the agent come up with it.
disable_as_before() {
    if [ "$(cat "$1/was_enabled" 2>/dev/null)" = no ]; then disable_service; fi
}

service_as_before() {
    disable_as_before "$1"
    if [ "$(cat "$1/was_running" 2>/dev/null)" = yes ]; then
        service start
    else
        stop_agent
    fi
    STOPPED=no
}

new_lines() {
    if [ -z "$OFFSET" ] || [ ! -e "$AGENT_LOG" ]; then return 0; fi
    # A log that became shorter was rotated.
    [ "$(wc -c <"$AGENT_LOG")" -lt "$OFFSET" ] && OFFSET=0
    tail -c "+$((OFFSET + 1))" "$AGENT_LOG"
}

# What the core took since the start; agents before 3.0 say it only as [instanceID=…].
identity_taken() {
    taken=$(grep -v ssm-agent-worker "$JOB_DIR/new.log" |
        sed -n 's/^.* Agent will take identity from \([A-Za-z0-9]*\).*/\1/p' | tail -n 1)
    if [ -z "$taken" ] && grep -q "instanceID=$TARGET_INSTANCE_ID" "$JOB_DIR/new.log"; then taken=EC2; fi
    if [ -z "$taken" ] && grep -q 'instanceID=mi-' "$JOB_DIR/new.log"; then taken=OnPrem; fi
    echo "$taken"
}

channel_is_open() {
    grep -q -e 'Set up control channel successfully' -e 'SSM Connection channel status is set to' \
        -e 'Successfully opened websocket' "$JOB_DIR/new.log"
}

# Without ssmmessages an agent works through ec2messages and says nothing of a channel: that Systems
# Manager took its credentials has to do then.
credentials_are_taken() {
    [ "$(date +%s)" -ge $((begun + CHANNEL_WAIT_S)) ] &&
        grep -q 'EC2RoleProvider Successfully connected with' "$JOB_DIR/new.log" &&
        ! grep -q 'Entering SSM Agent hibernate' "$JOB_DIR/new.log"
}

config_names_target() {
    [ ! -e "$IDENTITY_CONFIG" ] || [ "$(json_string "$IDENTITY_CONFIG" InstanceId)" = "$TARGET_INSTANCE_ID" ]
}

# 0: new log lines show the EC2 identity and a way to Systems Manager. 1: another identity. 2: not in time.
await_proof() {
    begun=$(date +%s)
    deadline=$((begun + LOG_WAIT_S))
    tries=0
    pause=$RETRY_PAUSE_S
    while :; do
        new_lines >"$JOB_DIR/new.log"
        taken=$(identity_taken)
        case $taken in
            '' | EC2) ;;
            *)
                REASON="the agent takes its identity from $taken"
                return 1
                ;;
        esac
        if [ "$taken" = EC2 ] && core_runs && config_names_target; then
            if channel_is_open || credentials_are_taken; then return 0; fi
        fi
        if [ "$(date +%s)" -ge "$deadline" ]; then
            REASON="no open channel as $TARGET_INSTANCE_ID within $LOG_WAIT_S s"
            return 2
        fi
        if [ "$tries" -lt "$RETRIES" ] &&
            grep -q -e 'Sleeping for [0-9]*[mh]' -e 'Entering SSM Agent hibernate' "$JOB_DIR/new.log"; then
            tries=$((tries + 1))
            sleep "$pause"
            pause=$((pause * 2))
            stop_agent
            start_agent
        fi
        sleep 1
    done
}
