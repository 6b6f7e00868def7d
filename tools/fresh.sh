#!/bin/sh
# Proves the README's commands on a bare Debian 12: a minimal system with nothing but apt and git, made
# by mmdebstrap, a clone of the last commit, ./run to a shell and ./check. Needs root.
#
#     tools/fresh.sh [run|check|all] [FOLDER]     FOLDER is kept; without it a temporary one is removed
#
# The host's apt sources, keys, proxy settings, CA certificates and name servers go into it, so that
# it works wherever the host's own apt does.
set -eu
cd "$(dirname "$0")/.."
what=${1:-all}
case $what in run | check | all) ;; *)
    sed -n '5s/^# //p' "$0"
    exit 2
    ;;
esac
[ "$(id -u)" = 0 ] || {
    echo "fresh: needs root, to make and enter a system of its own" >&2
    exit 1
}
sh tools/setup.sh fresh

keep=${2:-}
root=${keep:-$(mktemp -d /var/tmp/vivarium-fresh.XXXXXX)}
mounted=
cleanup() {
    for dir in $mounted; do
        umount -l "$dir" 2>/dev/null || true
    done
    [ -n "$keep" ] || rm -rf --one-file-system "$root"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

sources=
for file in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
    [ -f "$file" ] && grep -q bookworm "$file" && sources=$file && break
done

if [ ! -x "$root/usr/bin/git" ]; then
    echo "fresh: making a bare Debian 12 in $root" >&2
    mmdebstrap --quiet --variant=minbase --include=git,ca-certificates bookworm "$root" $sources
fi

# What makes apt and TLS work on this host.
for file in /etc/apt/apt.conf.d/*proxy* /etc/apt/apt.conf /etc/resolv.conf /etc/hosts; do
    [ -f "$file" ] && cp -L "$file" "$root$file"
done
apt-config dump 2>/dev/null | grep -iE '^Acquire::(https?|ftp)::(proxy|ca)|^Acquire::Check-' \
    >"$root/etc/apt/apt.conf.d/99host" || true
if [ -n "$sources" ]; then
    rm -f "$root/etc/apt/sources.list" "$root/etc/apt/sources.list.d/"*
    mkdir -p "$root$(dirname "$sources")"
    cp "$sources" "$root$sources"
fi
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"

rm -rf "$root/opt/vivarium"
git clone -q --no-hardlinks . "$root/opt/vivarium"

mount_into() {
    mkdir -p "$root$2"
    if mount $3 "$1" "$root$2" 2>/dev/null; then
        mounted="$root$2 $mounted"
    else
        echo "fresh: remark: no $2 in the bare system" >&2
    fi
}
mount_into proc /proc "-t proc"
mount_into /dev /dev --rbind
mount_into tmpfs /tmp "-t tmpfs"

enter() {
    chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
        http_proxy="${http_proxy:-}" https_proxy="${https_proxy:-}" no_proxy="${no_proxy:-}" \
        sh -c "cd /opt/vivarium && $1"
}

for tool in make gcc meson; do
    if chroot "$root" sh -c "command -v $tool" >/dev/null; then
        [ -n "$keep" ] || { echo "fresh: $tool is already there: not a bare system" >&2; exit 1; }
    fi
done

status=0
if [ "$what" != check ]; then
    echo "fresh: ./run" >&2
    log=$(mktemp)
    # Types once the guest's shell asks for a command; it answers, powers off, and ./run ends with 0.
    type_when_asked() {
        while [ -s "$log" ] || [ ! -e "$log.end" ]; do
            grep -q 'vivarium:' "$log" && echo 'echo fresh-$((40 + 2)); poweroff' && return
            [ ! -e "$log.end" ] || return
            sleep 1
        done
    }
    type_when_asked | (
        run_status=0
        enter ./run >"$log" || run_status=$?
        : >"$log.end"
        exit $run_status
    ) && grep -q fresh-42 "$log" && ok=yes || ok=
    rm -f "$log.end"
    if [ -n "$ok" ]; then
        echo "fresh: ./run booted the default guest to its shell" >&2
    else
        tail -n 30 "$log" >&2
        echo "fresh: ./run FAILED" >&2
        status=1
    fi
    rm -f "$log"
fi
if [ "$what" != run ]; then
    echo "fresh: ./check" >&2
    enter ./check </dev/null || status=1
fi
exit $status
