#!/usr/bin/env bash
# Blend two models at several values of lambda, each into a directory of its own.
#
#   sweep.sh instruct/ thinking/ sweep/ 0.2 0.4 0.6 0.8
#
# An interrupted sweep goes on where it stopped: what is finished is kept, the rest is resumed.
set -euo pipefail

a=$1 b=$2 out=$3
shift 3

mkdir -p "$out"
for lambda in "$@"; do
    target=$out/lambda-$lambda
    if [ ! -e "$target" ]; then
        weightsmith interpolate "$a" "$b" --lambda "$lambda" --resume -o "$target"
    fi
    weightsmith verify "$target"
done
