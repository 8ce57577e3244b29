#!/bin/sh
# The hybrid agent's token in root's AWS credentials: known as the agent's own, and taken out of the file.
# Needs host.sh before it; to take it out also job.sh and saved.sh.
# shellcheck disable=SC2034,SC2153 # shared with the scripts before and after it

# [default] as the agent writes it (go-ini pads a section's keys to one width) and as hardly anybody else does: a
# temporary key, its secret and its token, and nothing beside them. Comments after them belong to what follows.
token_is_the_agents() {
    [ -f "$CREDENTIALS" ] && [ ! -L "$CREDENTIALS" ] && [ -z "$(tail -c 1 "$CREDENTIALS")" ] && awk '
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
        move_aside "$CREDENTIALS" || return 1
    else
        CHANGED=yes
        grep -qxF "$CREDENTIALS" "$SAVED/restore" || echo "$CREDENTIALS" >>"$SAVED/restore"
        new=$CREDENTIALS.haltuun
        # With the owner and the mode that it has.
        if ! { cp -a "$CREDENTIALS" "$new" && without_token >"$new.part" && cat "$new.part" >"$new" &&
            mv -f "$new" "$CREDENTIALS"; }; then
            rm -f "$new" "$new.part"
            return 1
        fi
        rm -f "$new.part"
    fi
    file_sum "$CREDENTIALS" >"$SAVED/left"
}

# Nobody has written into the file since it was taken out, so that nothing of theirs goes when it is given back.
credentials_as_left() {
    [ ! -e "$1/left" ] || [ "$(file_sum "$CREDENTIALS")" = "$(cat "$1/left")" ]
}
