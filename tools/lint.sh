#!/bin/sh
# The lints: lint.sh all | format | reformat | layers | lengths | words | cppcheck | tidy
# Exit status 77: the tool is not installed.
set -u
cd "$(dirname "$0")/.."

sources() {
    git ls-files 'src/*.c' 'src/*.h' 'tests/*.c' 'tests/*.h' 'tools/*.c' 'bench/*.c' 'bench/*.h'
}

need() {
    command -v "$1" >/dev/null || {
        echo "lint: $1 is not installed"
        exit 77
    }
}

compile_commands() {
    [ -f build/compile_commands.json ] || make -s build/build.ninja || exit 1
}

case ${1:-all} in
format)
    need clang-format
    bad=$(sources | xargs clang-format --dry-run -Werror 2>&1 |
        sed -n 's/^\([^:]*\):[0-9]*:[0-9]*: error:.*/\1/p' | sort -u)
    [ -z "$bad" ] && exit 0
    printf '%s\nlint-format: run `make format`\n' "$bad"
    exit 1
    ;;
reformat)
    need clang-format
    sources | xargs clang-format -i
    ;;
layers | lengths | words) exec "tools/lint-$1" ;;
cppcheck)
    need cppcheck
    compile_commands
    # What it says about style is a matter of taste; faults are not.
    mkdir -p build/cppcheck
    exec cppcheck --quiet --error-exitcode=1 --enable=warning,portability --inline-suppr \
        --suppressions-list=tools/cppcheck.suppress --cppcheck-build-dir=build/cppcheck \
        --std=c11 --library=posix --max-configs=1 -j "$(nproc)" \
        -D__x86_64__ -D_GNU_SOURCE -I src $(git ls-files 'src/*.c' | grep -v -e _test.c -e _fuzz.c)
    ;;
tidy)
    need clang-tidy
    compile_commands
    git ls-files 'src/*.c' | xargs -P "$(nproc)" -n 8 clang-tidy -p build --quiet 2>/dev/null
    ;;
all)
    status=0
    for lint in format layers lengths words cppcheck tidy; do
        echo "lint: $lint"
        "$0" "$lint" || status=1
    done
    exit $status
    ;;
*)
    sed -n '2,3s/^# //p' "$0"
    exit 2
    ;;
esac
