#!/bin/sh
# Runs each fuzz target of a build folder on N random inputs from a new seed: fuzz.sh DIR N
set -u
dir=$1 n=$2 seed=$(date +%s) failed=0
for target in $(find "$dir" -type f -name '*_fuzz' -perm -u+x | sort); do
    printf 'fuzz: %s, %s inputs from seed %s\n' "${target##*/}" "$n" "$seed"
    "$target" -n "$n" -s "$seed" || {
        echo "fuzz: FAILED: $target -n $n -s $seed"
        failed=1
    }
done
exit $failed
