#!/bin/sh
# Installs what is missing to build barco (install.sh build), to make a root filesystem as well (rootfs), to run its tests (test), or to
# measure it beside others as well (bench), and says so first.
# Does nothing, and takes no time, when everything is there.
set -eu
cd "$(dirname "$0")"

say() { echo "barco: $*" >&2; }

# Go is not installed from here: a distribution's is often too old, and the right way to update it is yours to choose.
wanted=$(sed -n 's/^go //p' go.mod)
have=$(${GO:-go} env GOVERSION 2>/dev/null | sed 's/^go//') || have=
if [ -z "$have" ]; then
	say "Go is missing: barco needs Go $wanted or newer, from https://go.dev/dl/"
	exit 1
fi
if [ "$(printf '%s\n%s\n' "$wanted" "$have" | sort -V | head -n 1)" != "$wanted" ]; then
	say "Go $have is too old: barco needs Go $wanted or newer, from https://go.dev/dl/"
	exit 1
fi

# need COMMAND PACKAGE-apt PACKAGE-dnf PACKAGE-apk: the package is wanted when the command fails.
apt= dnf= apk=
need() {
	if ! sh -c "$1" >/dev/null 2>&1; then
		apt="$apt $2" dnf="$dnf $3" apk="$apk $4"
	fi
}

program='printf "#include <seccomp.h>\nint main(void) { return seccomp_api_get() == 0; }\n" | ${CC:-cc} -x c -static -o /dev/null - -lseccomp'
need 'command -v ${CC:-cc}' 'gcc libc6-dev' 'gcc glibc-devel' 'gcc musl-dev linux-headers'
need 'command -v pkg-config' pkg-config pkgconf-pkg-config pkgconf
need "$program" libseccomp-dev 'libseccomp-devel libseccomp-static glibc-static' 'libseccomp-dev libseccomp-static'
if [ "${1:-build}" != build ]; then
	need 'busybox | grep BusyBox && ! ldd "$(command -v busybox)" | grep -q "=>"' busybox-static busybox busybox-static
fi
if [ "${1:-build}" = test ] || [ "${1:-build}" = bench ]; then
	need 'command -v qemu-system-x86_64' qemu-system-x86 qemu-system-x86-core qemu-system-x86_64
	need 'command -v cpio' cpio cpio cpio
	need 'test -x /usr/bin/python3' python3 python3 python3 # and so on: ordinary programs, which must work in a container
	need 'command -v git' git git git
	need "command -v strace" strace strace strace
	need 'command -v ip' iproute2 iproute iproute2 # and what the book's transcripts use
	need 'nsenter --version | grep util-linux && command -v lsns setpriv script' 'util-linux bsdutils' 'util-linux util-linux-script' 'util-linux util-linux-misc lsns setpriv'
	need 'ps --version | grep procps' procps procps-ng procps-ng
	need 'command -v runc' runc runc runc # barco is compared with these
	need 'command -v crun' crun crun crun
	need 'command -v bwrap' bubblewrap bubblewrap bubblewrap
	need 'command -v node' nodejs nodejs nodejs
	if command -v apt-get >/dev/null; then # arm64.sh runs nowhere else, and some distributions have no other libc, or no musl
		need 'command -v aarch64-linux-gnu-gcc' 'gcc-aarch64-linux-gnu libc6-dev-arm64-cross' - -
		need 'command -v qemu-aarch64-static' qemu-user-static - -
		need 'command -v musl-gcc' musl-tools - -
		need 'command -v debootstrap' debootstrap - -
	fi
fi
if [ "${1:-build}" = bench ]; then
	need 'command -v hyperfine' hyperfine hyperfine hyperfine
	need 'env time true' time time time
fi
[ -n "$apt" ] || exit 0

sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
if command -v apt-get >/dev/null; then
	say "installing$apt with apt-get"
	$sudo apt-get update -qq
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $apt >/dev/null
elif command -v dnf >/dev/null; then
	say "installing$dnf with dnf"
	$sudo dnf install -y -q $dnf
elif command -v apk >/dev/null; then
	say "installing$apk with apk"
	$sudo apk add -q $apk
else
	say "these are missing, and this system has none of apt-get, dnf and apk: a C compiler, pkg-config, libseccomp's headers"
	say "(Debian calls what is missing:$apt)"
	exit 1
fi
