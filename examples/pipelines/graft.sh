#!/usr/bin/env bash
# Graft what tuning taught BASE onto INSTRUCT, by a pipe, and check the result.
#
#   graft.sh base/ instruct/ tuned/ grafted/
set -euo pipefail

base=$1 instruct=$2 tuned=$3 out=$4

weightsmith delta "$base" "$tuned" | weightsmith graft "$base" "$instruct" -o "$out"

# Every byte is sound, and the record names the three models it was made from.
weightsmith verify "$out"
for input in "$base" "$instruct" "$tuned"; do
    weightsmith verify "$input" --input-of "$out"
done
weightsmith inspect "$out"
