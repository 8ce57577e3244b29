#!/bin/sh
# The hybrid agent's token in root's AWS credentials: known as the agent's own, and taken out of the file.
# Needs host.sh before it; to take it out also job.sh and saved.sh.
# shellcheck disable=SC2034,SC2153 # shared with the scripts before and after it

# Whether the agent was a hybrid one when the file was written: an agent that is EC2 does not write it. The log
# tells when it became EC2 for good; what tells nothing is no yes.
written_as_onprem() {
    written=$(date -r "$CREDENTIALS" '+%Y-%m-%d %H:%M:%S') || return 1
    since=$(awk '
        function as(identity) { if (last != identity) { last = identity; since = substr($0, 1, 19) } }
        /ssm-agent-worker/ { next }
        match($0, /Agent will take identity from [A-Za-z0-9]+/) { said = 1; as(substr($0, RSTART + 30, RLENGTH - 30)) }
        !said && /instanceID=mi-/ { as("OnPrem") } # agents before 3.0
        !said && /instanceID=i-/ { as("EC2") }
        END { if (last == "EC2") print since; else print last }
    ' "$AGENT_LOG" 2>/dev/null)
    case $since in
        OnPrem) return 0 ;;
        '')
            # No log: a registration that is in its place is what the agent takes.
            [ "$(json_string "$IDENTITY_CONFIG" IdentityType)" = OnPrem ] ||
                { [ ! -e "$IDENTITY_CONFIG" ] && [ "$(vault_value instanceID | cut -c1-3)" = mi- ]; }
            ;;
        [12][0-9][0-9][0-9]-*) awk -v one="$written" -v other="$since" 'BEGIN { exit !(one "" <= other "") }' ;;
        *) return 1 ;;
    esac
}

# [default] as the agent writes it (go-ini pads a section's keys to one width), and written when it did: a
# temporary key, its secret and its token, and nothing beside them. Comments after them belong to what follows.
# Other programs with go-ini write the same form.
token_is_the_agents() {
    [ -f "$CREDENTIALS" ] && [ ! -L "$CREDENTIALS" ] && [ -z "$(tail -c 1 "$CREDENTIALS")" ] &&
        written_as_onprem && awk '
        /^[ \t]*\[/ { own = ($0 == "[default]"); if ($0 ~ /^[ \t]*\[[ \t]*default[ \t]*\]/) sections++; next }
        !own || /^$/ { next }
        /^aws_access_key_id     = ASIA[0-9A-Z]+$/ { ids++; next }
        /^aws_secret_access_key = ./ { secrets++; next }
        /^aws_session_token     = ./ { tokens++; next }
        /^[#;]/ && ids && secrets && tokens { next }
        { others++ }
        END { exit !(sections == 1 && ids == 1 && secrets == 1 && tokens == 1 && !others) }
    ' "$CREDENTIALS"
}

# The file without that section; everything else byte for byte.
without_token() {
    awk '
        /^[ \t]*\[/ { own = ($0 == "[default]"); if (own) next }
        own && (/^aws_/ || /^$/) { next }
        { print }
    ' "$CREDENTIALS"
}

# What is not the agent's in the file, as a sum: it stays the same, whatever is done with the token.
others_sum() {
    if [ -n "$(without_token 2>/dev/null | tr -d '[:space:]')" ]; then
        without_token | sha256sum | cut -d' ' -f1
    else
        echo none
    fi
}

# Out of the saved file: the whole of it where it holds nothing else.
take_token_out() {
    if [ -z "$(without_token | tr -d '[:space:]')" ]; then
        echo none >"$SAVED/left" && move_aside "$CREDENTIALS"
    else
        CHANGED=yes
        grep -qxF "$CREDENTIALS" "$SAVED/restore" || echo "$CREDENTIALS" >>"$SAVED/restore"
        new=$CREDENTIALS.haltuun
        rest=$JOB_DIR/credentials
        # With the owner and the mode that it has, and never with what goes; noted before it stands there.
        if ! { without_token >"$rest" && file_sum "$rest" >"$SAVED/left" && : >"$new" &&
            chown "$(stat -L -c %u:%g "$CREDENTIALS")" "$new" && chmod "$(stat -L -c %a "$CREDENTIALS")" "$new" &&
            cat "$rest" >"$new" && mv -f "$new" "$CREDENTIALS"; }; then
            rm -f "$new" "$rest" "$SAVED/left"
            return 1
        fi
        rm -f "$rest"
    fi
}

# Nobody has written into the file since it was taken out, so that nothing of theirs goes when it is given back.
credentials_as_left() {
    [ ! -e "$1/left" ] || [ "$(file_sum "$CREDENTIALS")" = "$(cat "$1/left")" ]
}
