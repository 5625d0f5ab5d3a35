#!/bin/sh
# Runs the tests on a machine that has cgroup v2 and nothing else: Debian's cloud kernel in QEMU, by software emulation, with
# busybox and the compiled tests on a tmpfs. Development machines are often hybrid, and cannot enforce what barco writes.
#
#   ./vm.sh [flag of the test binary]...      KERNEL=/path/to/vmlinuz takes another kernel than Debian's, PROGRAMS='runc crun' these along
set -eu
cd "$(dirname "$0")"
work=.vm
mkdir -p "$work"

say() { echo "vm.sh: $*" >&2; }

[ "$(uname -m)" = x86_64 ] || { say "LEFT OUT: the machine that it makes is an x86-64 one, and this is $(uname -m)"; exit 0; }

kernel=${KERNEL:-}
if [ -z "$kernel" ]; then
	kernel=$(ls "$work"/kernel/boot/vmlinuz-* 2>/dev/null | tail -n 1)
fi
if [ -z "$kernel" ]; then
	command -v apt-get >/dev/null || { say "LEFT OUT: no apt-get here to download a kernel with; KERNEL=/path/to/vmlinuz takes another"; exit 0; }
	find_package() { # Debian's name, Ubuntu's name
		apt-cache depends linux-image-cloud-amd64 linux-image-virtual 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1
	}
	package=$(find_package)
	if [ -z "$package" ]; then
		[ "$(id -u)" = 0 ] && apt-get update -qq || sudo apt-get update -qq
		package=$(find_package)
	fi
	[ -n "$package" ] || { say "apt knows neither linux-image-cloud-amd64 nor linux-image-virtual: set KERNEL=/path/to/vmlinuz"; exit 1; }
	say "downloading $package, to unpack it here, not to install it"
	(cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$package" && dpkg-deb -x "$package"_*.deb kernel && rm "$package"_*.deb)
	kernel=$(ls "$work"/kernel/boot/vmlinuz-* | tail -n 1)
fi

# One static binary is all of userland, beside busybox.
${GO:-go} test -c -o "$work/barco.test" -tags netgo,osusergo -ldflags '-linkmode external -extldflags -static' .

root=$work/root
rm -rf "$root"
mkdir -p "$root/bin" "$root/etc" "$root/new"
cp "$(command -v busybox)" "$root/bin/busybox"
cp "$work/barco.test" "$root/bin/barco.test"
cp -r testdata docs rootfs.sh "$root"
for program in ${PROGRAMS:-}; do # and the libraries that they need
	path=$(command -v "$program")
	cp "$path" "$root/bin/$program"
	for library in $(ldd "$path" 2>/dev/null | grep -o '/[^ ]*'); do
		mkdir -p "$root$(dirname "$library")"
		cp "$library" "$root$library"
	done
done
for module in overlay loop; do # in Debian's kernel these are modules; in another they may be built in
	find "$(dirname "$kernel")/../lib/modules" -name "$module.ko" -exec cp {} "$root" \; 2>/dev/null || true
done
echo root:x:0:0:root:/root:/bin/sh >"$root/etc/passwd"
echo root:x:0: >"$root/etc/group"

# The initramfs cannot be pivoted away from, so the tests run on a tmpfs.
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t tmpfs -o size=75% root /new
/bin/busybox cp -a /bin /etc /testdata /docs /rootfs.sh /new
for dir in /usr /lib /lib64; do [ ! -d $dir ] || /bin/busybox cp -a $dir /new; done
for module in overlay loop; do [ ! -e /$module.ko ] || /bin/busybox insmod /$module.ko; done
/bin/busybox mkdir -m 1777 /new/tmp
/bin/busybox mkdir /new/proc /new/sys /new/dev /new/root /new/sbin
/bin/busybox mkdir /proc /sys /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
BARCO_TEST_RUN_AS_BARCO=1 /bin/barco.test -q -m / -c /bin/busybox >/new/root/initramfs 2>&1 # TestInitramfs reads it
echo "status $?" >>/new/root/initramfs
/bin/busybox umount /proc /sys /dev
/bin/busybox cp /run-tests /new/sbin/init
exec /bin/busybox switch_root /new /sbin/init
INIT
cat >"$root/run-tests" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin BARCO_TEST_INITRAMFS=/root/initramfs
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir /dev/pts /dev/shm
mount -t devpts -o ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
truncate -s 512M /disk && mke2fs -F /disk >/dev/null && mount -t ext4 -o loop /disk /tmp && chmod 1777 /tmp # a tmpfs of Linux 6.1 cannot shift owners
cd /root
echo "vm.sh: Linux $(uname -r), cgroup v2 with $(cat /sys/fs/cgroup/cgroup.controllers), up after $(cut -d ' ' -f 1 /proc/uptime) s"
barco.test $(cat /proc/cmdline | sed -n 's/.*tests=//p' | tr , ' ')
echo "vm.sh: status $?"
poweroff -f
INIT
chmod +x "$root/init" "$root/run-tests"
(cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$work/initramfs"

flags=$(echo "${*:--test.v=false}" | tr ' ' ,)
log=$work/log
timeout 1200 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 2048 -nodefaults -no-reboot -display none -serial stdio \
	-kernel "$kernel" -initrd "$work/initramfs" -append "console=ttyS0 quiet loglevel=1 panic=-1 tests=$flags" </dev/null | tee "$log" | tr -d '\r' | sed -n '/vm.sh: Linux/,$p'
tr -d '\r' <"$log" | grep -q '^vm.sh: status 0$'
