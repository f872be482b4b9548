# Sourced by lab/demo and tests/run: what they need of this machine beyond Rust.

PATH=$PATH:$HOME/.cargo/bin:/usr/local/bin:/usr/sbin:/sbin

say() { printf '%s\n' "$*"; }

give_up() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

apt_update() { as_root apt-get update -q || say "apt-get update failed; trying with what is known"; }

# packages PROGRAM:PACKAGES:WHY…  installs the Debian packages whose program is missing.
packages() {
    local entry program rest missing=()
    for entry in "$@"; do
        program=${entry%%:*} rest=${entry#*:}
        command -v "$program" >/dev/null && continue
        say "missing here: $program (${rest#*:})"
        # One entry may name several packages.
        # shellcheck disable=SC2206
        missing+=(${rest%%:*})
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        give_up "this is no Debian; install the equivalents of: ${missing[*]}"
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
        give_up "ask root to run: apt-get install ${missing[*]}"
    say "installing Debian packages: ${missing[*]}"
    apt_update
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${missing[@]}" ||
        give_up "could not install: ${missing[*]}"
}

# apt's own user cannot read where we unpack.
fetch() { apt-get -o APT::Sandbox::User=root download -q "$1"; }

# unpacked PROGRAM:PACKAGE:WHY  puts a program into PATH without installing its package, which would start a service.
unpacked() {
    local program=${1%%:*} rest=${1#*:} folder
    local package=${rest%%:*}
    command -v "$program" >/dev/null && return
    folder=${XDG_CACHE_HOME:-$HOME/.cache}/nhrpd-debian/$package
    if [ ! -e "$folder/usr/bin/$program" ]; then
        say "fetching the Debian package $package (${rest#*:})"
        rm -rf "$folder" && mkdir -p "$folder/fetched" &&
            (
                cd "$folder/fetched" &&
                    { fetch "$package" || { apt_update && fetch "$package"; }; } &&
                    dpkg-deb -x ./*.deb "$folder"
            ) || give_up "could not fetch $package"
        rm -r "$folder/fetched"
    fi
    PATH=$PATH:$folder/usr/bin
}

needs_of_the_lab() {
    command -v cargo >/dev/null || give_up "no cargo; install Rust first: https://rustup.rs"
    packages \
        "cc:gcc libc6-dev:C compiler and linker, for Rust and for aws-lc" \
        "ip:iproute2:makes the lab's links, addresses and routes" \
        "nft:nftables:makes the lab's NAT routers" \
        "ping:iputils-ping:traffic to look at"
    if [ ! -e /dev/net/tun ] && [ "$(id -u)" = 0 ]; then
        say "no /dev/net/tun: making it"
        modprobe tun 2>/dev/null
        mkdir -p /dev/net
        [ -e /dev/net/tun ] || mknod -m 666 /dev/net/tun c 10 200
    fi
    { true <>/dev/net/tun; } 2>/dev/null ||
        give_up "cannot open /dev/net/tun, which the userspace data plane needs; as root: modprobe tun; chmod 666 /dev/net/tun"
}

needs_of_the_machine() {
    packages "qemu-system-x86_64:qemu-system-x86:runs Debian's kernel, for what this machine's own lacks"
}
