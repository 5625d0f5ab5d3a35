#!/bin/sh
# Compiles barco and its tests for arm64, and runs those of the seccomp filter by emulation (QEMU, one program at a time): the
# denylist is by name, and on arm64 most names have other numbers, or none. Needs Debian's packages.
set -eu
cd "$(dirname "$0")"
work=.vm/arm64
mkdir -p "$work/lists/partial"

say() { echo "arm64.sh: $*" >&2; }

command -v apt-get >/dev/null || { say "LEFT OUT: libseccomp for arm64 comes from Debian's packages, and there is no apt-get here"; exit 0; }
if [ ! -e "$work/libseccomp" ]; then
	say "downloading libseccomp for arm64, to unpack it here, not to install it"
	# This machine's apt goes on knowing nothing of arm64: lists and caches of its own.
	apt="apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::lists=$PWD/$work/lists -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root"
	$apt update
	(cd "$work" && $apt download libseccomp-dev && dpkg-deb -x libseccomp-dev_*_arm64.deb libseccomp && rm -r libseccomp-dev_*_arm64.deb lists)
fi
export CGO_ENABLED=1 GOARCH=arm64 CC=aarch64-linux-gnu-gcc
export CGO_CFLAGS="-I$PWD/$work/libseccomp/usr/include" CGO_LDFLAGS="-L$PWD/$work/libseccomp/usr/lib/aarch64-linux-gnu"
export PKG_CONFIG_LIBDIR="$PWD/$work/libseccomp/usr/lib/aarch64-linux-gnu/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$PWD/$work/libseccomp"
static="-linkmode external -extldflags -static"
${GO:-go} build -tags netgo,osusergo -ldflags "$static" -o "$work/barco" .
${GO:-go} test -c -tags netgo,osusergo -ldflags "$static" -o "$work/barco.test" .
qemu-aarch64-static "$work/barco" --version
[ "$(id -u)" = 0 ] && sudo= || sudo=sudo # the tests insist on root
$sudo qemu-aarch64-static "$work/barco.test" -test.v -test.run 'Filter|Denylist|KeptCapabilities' | grep -v '^=== RUN'
