#!/bin/sh
# Runs the benchmarks of a build folder, one at a time, and prints their figures: bench.sh DIR
set -eu
cd "$(dirname "$0")/.."
image/make-guest
exec meson test -C "$1" --no-rebuild --benchmark --verbose --num-processes 1
