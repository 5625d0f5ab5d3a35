#!/bin/sh
# Makes a small root filesystem: busybox-static and the files in /etc that programs look for. `make rootfs DIR=/some/where`
set -eu
dir=${1:-rootfs}
busybox=$(command -v busybox) || { echo "rootfs.sh: busybox is missing: make rootfs installs it" >&2; exit 1; }
case $busybox in /*) ;; *) busybox=/bin/$busybox ;; esac # busybox's own shell knows it without a path
if [ -e "$dir" ] && [ ! -e "$dir/bin/busybox" ]; then
	echo "rootfs.sh: $dir is there, and is none of mine: name another with DIR=" >&2
	exit 1
fi
umask 022
mkdir -p "$dir/bin" "$dir/sbin" "$dir/usr/bin" "$dir/usr/sbin" "$dir/etc" "$dir/root" "$dir/home/user" "$dir/var/log" "$dir/mnt" "$dir/proc" "$dir/sys" "$dir/dev"
mkdir -p -m 1777 "$dir/tmp"
cp "$busybox" "$dir/bin/busybox"
for path in $("$busybox" --list-full); do
	case $path in bin/busybox) ;; *) ln -sf /bin/busybox "$dir/$path" ;; esac
done
cat >"$dir/etc/passwd" <<'EOF'
root:x:0:0:root:/root:/bin/sh
user:x:1000:1000:user:/home/user:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
EOF
cat >"$dir/etc/group" <<'EOF'
root:x:0:
tty:x:5:
user:x:1000:
nogroup:x:65534:
EOF
echo '127.0.0.1 localhost
::1 localhost' >"$dir/etc/hosts"
cp /etc/resolv.conf "$dir/etc/resolv.conf" 2>/dev/null || : >"$dir/etc/resolv.conf" # of use with --skip net
echo 'PS1="\u@\h:\w\\$ "' >"$dir/etc/profile"
echo "made $dir: sudo ./barco -m $dir --idmap -c /bin/sh -a -l"
