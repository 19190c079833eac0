#!/usr/bin/env bash
# Keep a tuned model as the compressed difference from its base, and bring it back bit for bit.
#
#   archive.sh pack base/ tuned/ tuned.delta.gz
#   archive.sh unpack base/ tuned.delta.gz restored/ [SIDECARS]
#
# A delta holds weights only: SIDECARS is a directory with TUNED's config and tokenizer (default: BASE).
set -euo pipefail

case ${1:-} in
pack)
    base=$2 tuned=$3 archive=$4
    # --sidecars none: no path of this machine goes into the archive.
    weightsmith delta "$base" "$tuned" --lossless --sidecars none | gzip >"$archive"
    # What comes back must have the fingerprint of TUNED.
    fingerprint=$(weightsmith inspect "$tuned" | awk '/^  fingerprint/ {print $2}')
    restored=$(mktemp -d)
    trap 'rm -rf "$restored"' EXIT
    gzip -dc "$archive" | weightsmith graft "$base" "$base" -q -o "$restored/model.safetensors"
    weightsmith verify "$restored/model.safetensors" --allow-nonfinite --fingerprint "$fingerprint"
    ;;
unpack)
    base=$2 archive=$3 out=$4 sidecars=${5:-$2}
    gzip -dc "$archive" | weightsmith graft "$base" "$base" --sidecars "$sidecars" -o "$out"
    ;;
*)
    echo "usage: archive.sh pack BASE TUNED ARCHIVE | unpack BASE ARCHIVE OUT [SIDECARS]" >&2
    exit 2
    ;;
esac
