# shellcheck shell=sh
# shellcheck disable=SC2154 # HALTUUN_ID, HALTUUN_PLACE and HALTUUN_UNINSTALLED are put before it
# Follows discover's common.sh, host/process.sh, host/lock.sh and agent.sh. The way back: the host becomes what it
# was by its own note (note.sh), on the right box only. Its last line says how far it came: BACK, UNINSTALL (the
# package goes first, by the SSM agent, which keeps account of it; then this again), or LEFT: and what stays.
# Killed anywhere, it goes on when it is run again: the note goes last.
metadata_begin
id=$(metadata meta-data/instance-id) || {
    echo "NO_METADATA: the instance metadata does not say which host this is (${METADATA_V2:-})" >&2
    exit 3
}
document=$(metadata dynamic/instance-identity/document)
field() { printf '%s\n' "$document" | sed -n "s/.*\"$1\" *: *\"\([a-z0-9-]*\)\".*/\1/p"; }
place="$(field accountId) $(field region)"
if [ "$id" != "$HALTUUN_ID" ] || [ "$place" != "$HALTUUN_PLACE" ]; then
    echo "WRONG_BOX: this is $id in $place" >&2
    exit 4
fi
umask 077
left=

# stays TEXT: what does not go back, and why.
stays() { left="$left${left:+; }$1"; }

# must CODE COMMAND…: what it prints is told only where it fails.
must() {
    code=$1
    shift
    if ! said=$("$@" 2>&1 </dev/null); then
        printf '%s\n' "$said"
        echo "$code: $(printf '%s\n' "$said" | sed '/^ *$/d' | tail -n 1)" >&2
        exit 6
    fi
}

# others: configurations that are not Haltuun's.
others() {
    for file in "$etc/amazon-cloudwatch-agent.json" "$etc"/amazon-cloudwatch-agent.d/*; do
        case ${file##*/} in
            ssm_AmazonCloudWatch-haltuun-* | *.tmp) ;;
            *) if [ -s "$file" ]; then echo "${file##*/}"; fi ;;
        esac
    done
}

# Haltuun's configurations go; the agent goes on with what others gave it, or stops: started without any it would
# take a default one.
unconfigure() {
    for file in "$etc"/amazon-cloudwatch-agent.d/ssm_AmazonCloudWatch-haltuun-*; do
        case $file in
            *.tmp) rm -f "$file" ;;
            *) if [ -e "$file" ] && [ -x "$ctl" ]; then
                must NOT_REMOVED "$ctl" -a remove-config -m ec2 -c "ssm:${file##*/ssm_}"
            else rm -f "$file"; fi ;;
        esac
    done
    if [ -x "$ctl" ]; then must NOT_STOPPED "$ctl" -a stop; fi
    if [ "$1" = go-on ] && agent_is_configured; then go_on; fi
}

# remove-config takes the toml away where the folder is empty then, though amazon-cloudwatch-agent.json is read,
# too. Its control would then start the agent with a default configuration and delete that file; the service makes
# the toml anew (cmd/start-amazon-cloudwatch-agent in aws/amazon-cloudwatch-agent).
go_on() {
    if [ -s "$etc/amazon-cloudwatch-agent.toml" ]; then
        must NOT_STARTED "$ctl" -a start
    elif have systemctl; then
        must NOT_STARTED systemctl start "$unit.service"
    else
        must NOT_STARTED start "$unit"
    fi
}

# So that no package manager takes an empty folder away that was there before.
keep_folders() {
    note folder | while read -r folder; do
        if [ -d "$ROOT$folder" ]; then : >"$ROOT$folder/.haltuun-stays"; fi
    done
}

free_folders() {
    note folder | while read -r folder; do
        rm -f "$ROOT$folder/.haltuun-stays"
    done
}

# drop FOLDER: what is in it and was not before, and it itself.
drop() {
    find "$1" -depth 2>/dev/null | while read -r path; do
        if grep -qxF "path $path" "$noted"; then continue; fi
        if [ -d "$path" ] && [ ! -h "$path" ]; then rmdir "$path" 2>/dev/null; else rm -f "$path"; fi
    done
}

# What the agent makes of its configuration beside the file that it reads, and while it runs.
drop_made() {
    for path in "$home/logs" "$home/var" "$etc/env-config.json" "$etc/amazon-cloudwatch-agent.yaml"; do
        drop "$path"
    done
}

uninstall() {
    keep_folders
    if [ "$(package_state)" = installed ]; then
        # The SSM agent knows nothing of it: its own account of packages was emptied, or it never came so far.
        if have dpkg-query && dpkg-query -W "$unit" >/dev/null 2>&1; then
            must NOT_UNINSTALLED env DEBIAN_FRONTEND=noninteractive dpkg --remove "$unit"
        else
            must NOT_UNINSTALLED rpm -e "$unit"
        fi
    fi
    if [ "$(package_state)" = config-files ] && [ "$(note package)" != config-files ]; then
        must NOT_UNINSTALLED env DEBIAN_FRONTEND=noninteractive dpkg --purge "$unit"
    fi
    drop_made
    drop "$home/cwagent-otel-collector"
    drop "$etc/amazon-cloudwatch-agent.toml"
    rm -f "$etc"/amazon-cloudwatch-agent.d/ssm_AmazonCloudWatch-haltuun-*
    find "$home" -depth -type d 2>/dev/null | while read -r path; do
        if ! grep -qxF "path $path" "$noted"; then rmdir "$path" 2>/dev/null; fi
    done
    later=$(find "$home" -type f 2>/dev/null | while read -r path; do
        if ! grep -qxF "path $path" "$noted"; then echo "$path"; fi
    done | sed '6s/.*/and more/; 7,$d') # Systems Manager cuts off what is longer than 2500 characters
    if [ -n "$later" ]; then stays "files that neither the agent nor Haltuun made: $(echo "$later" | tr '\n' ' ')"; fi
    # Its package makes them and leaves them.
    if [ -z "$(note passwd)" ] && is_in passwd cwagent; then must NOT_UNINSTALLED userdel cwagent; fi
    if [ -z "$(note group)" ] && is_in group cwagent; then must NOT_UNINSTALLED groupdel cwagent; fi
    if have systemctl; then bounded 60 systemctl daemon-reload >/dev/null 2>&1; fi
    for folder in $FOLDERS; do
        if ! note folder | grep -qxF "$folder"; then rmdir "$ROOT$folder" 2>/dev/null; fi
    done
    free_folders
}

# The agent that was there before.
set_right() {
    if [ "$(note running)" = yes ]; then unconfigure go-on; else unconfigure stop; fi
    if [ -n "$(note starts)" ] && [ "$(note starts)" != enabled ] && [ "$(agent_starts)" = enabled ]; then
        must NOT_DISABLED bounded 60 systemctl disable "$unit.service"
    fi
    if [ "$(note configured)" = yes ]; then
        if ! agent_is_configured; then stays "the configuration that the agent had is not there any more"; fi
    elif [ "$(note running)" != yes ] && ! agent_is_configured; then
        drop_made
    fi
    if [ "$(agent_version)" != "$(note agent)" ]; then
        stays "the agent is $(agent_version) now, it was $(note agent)"
    fi
}

forget() {
    free_folders
    rm -f "$ROOT/var/log/haltuun/marker.log" "$lock/configuration" "$noted.new" "$lock"/heir.* "$lock"/probe.*
    rm -f "$noted"
    release_lock
    rmdir "$ROOT/var/log/haltuun" "$lock" "$ROOT/var/lib/haltuun" 2>/dev/null
    if [ -n "$left" ]; then echo "LEFT: $left"; else echo BACK; fi
    exit 0
}

hold
if ! is_noted "$id"; then
    if agent_is_there; then
        unconfigure go-on
        stays "the agent stays installed, for how the host was before is not noted there"
    fi
elif [ "$(note agent)" != none ]; then
    set_right
elif [ -n "$(others)" ]; then
    unconfigure go-on
    stays "the agent stays installed, for somebody gave it a configuration since: $(others | tr '\n' ' ')"
elif agent_is_there && [ "$HALTUUN_UNINSTALLED" != yes ]; then
    keep_folders
    echo UNINSTALL
    exit 0
else
    uninstall
fi
forget
