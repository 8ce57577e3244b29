# shellcheck shell=sh
# shellcheck disable=SC2154 # HALTUUN_IDS, HALTUUN_PLACE and HALTUUN_MARKER are put before it
# Follows discover's common.sh. Writes one line that the CloudWatch agent ships, on the right box only.
metadata_begin
id=$(metadata meta-data/instance-id) || {
    echo "NO_METADATA: the instance metadata does not say which host this is (${METADATA_V2:-})" >&2
    exit 3
}
document=$(metadata dynamic/instance-identity/document)
field() { printf '%s\n' "$document" | sed -n "s/.*\"$1\" *: *\"\([a-z0-9-]*\)\".*/\1/p"; }
place="$(field accountId) $(field region)"
case " $HALTUUN_IDS " in
    *" $id "*) [ "$place" = "$HALTUUN_PLACE" ] && right=yes ;;
esac
if [ -z "${right:-}" ]; then
    echo "WRONG_BOX: this is $id in $place" >&2
    exit 4
fi
umask 022
mkdir -p "$ROOT/var/log/haltuun" || exit 5
printf '%s %s\n' "$HALTUUN_MARKER" "$id" >>"$ROOT/var/log/haltuun/marker.log" || exit 5
