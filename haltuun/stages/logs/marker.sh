# shellcheck shell=sh
# shellcheck disable=SC2154 # HALTUUN_IDS, HALTUUN_PLACE, HALTUUN_MARKER and HALTUUN_WAIT_S are put before it
# Follows discover's common.sh. Writes one line that the CloudWatch agent ships, on the right box only, and
# only once the agent has the configuration that is to ship it. HALTUUN_IDS: INSTANCE=CONFIGURATION …
metadata_begin
id=$(metadata meta-data/instance-id) || {
    echo "NO_METADATA: the instance metadata does not say which host this is (${METADATA_V2:-})" >&2
    exit 3
}
document=$(metadata dynamic/instance-identity/document)
field() { printf '%s\n' "$document" | sed -n "s/.*\"$1\" *: *\"\([a-z0-9-]*\)\".*/\1/p"; }
place="$(field accountId) $(field region)"
wanted=
for pair in $HALTUUN_IDS; do
    [ "${pair%%=*}" = "$id" ] && wanted=${pair#*=}
done
if [ -z "$wanted" ] || [ "$place" != "$HALTUUN_PLACE" ]; then
    echo "WRONG_BOX: this is $id in $place" >&2
    exit 4
fi
waited=0
until [ "$(cat "$ROOT/var/lib/haltuun/logs/configuration" 2>/dev/null)" = "$wanted" ]; do
    if [ "$waited" -ge "$HALTUUN_WAIT_S" ]; then
        echo "NOT_CONFIGURED: the CloudWatch agent does not have $wanted" >&2
        exit 6
    fi
    sleep 1
    waited=$((waited + 1))
done
umask 022
mkdir -p "$ROOT/var/log/haltuun" || exit 5
printf '%s %s\n' "$HALTUUN_MARKER" "$id" >>"$ROOT/var/log/haltuun/marker.log" || exit 5
