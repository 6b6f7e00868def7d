#!/bin/sh
# Installs the packages of the named groups of tools/packages.txt that are missing.
#
#     tools/setup.sh build run test ...
#
# Silent and quick when nothing is missing. As root it uses apt; otherwise it names the command.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

wanted=
for group; do
    found=$(sed -n "s/^$group \([a-z0-9.+-]*\)\$/\1/p" "$here/packages.txt")
    if [ -z "$found" ]; then
        echo "setup: no group $group in tools/packages.txt" >&2
        exit 2
    fi
    wanted="$wanted $found"
done

if ! command -v dpkg-query >/dev/null; then
    echo "setup: this is not a Debian system; these packages are needed (Debian's names):$wanted" |
        tr '\n' ' ' >&2
    echo >&2
    exit 0
fi

missing=
installed=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Provides}\n' | sed -n 's/^ii  *//p' |
    tr ', ' '\n\n' | sort -u)
for package in $wanted; do
    printf '%s\n' "$installed" | grep -qx "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "setup: packages are missing; install them with" >&2
    echo "    sudo apt-get install$missing" >&2
    exit 1
fi

echo "setup: installing$missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
install() {
    apt-get install -y -q --no-install-recommends $missing </dev/null >"$log" 2>&1
}
# Lists may be absent (a fresh system) or name packages that the mirror no longer has.
if ! install; then
    apt-get update -q </dev/null >>"$log" 2>&1 || true
    if ! install; then
        tail -n 15 "$log" >&2
        echo "setup: apt-get could not install the packages; is this host online?" >&2
        exit 1
    fi
fi

# What is installed decides what is built: unit tests need cmocka, viv-net libslirp.
for dir in "$here"/../build "$here"/../build-*; do
    [ ! -f "$dir/build.ninja" ] || meson setup --reconfigure "$dir" >/dev/null || true
done
