package main

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// The container's /dev: a small tmpfs with the few device nodes that every program counts on, and the filesystems that live
// there. A process in a user namespace may not make device nodes (mknod(2), EPERM), so each is a bind mount of the host's.
//
// Chapter: docs/06-proc-sys-dev.md

// A device is a node in /dev, and the numbers by which the kernel knows it (null(4), random(4), tty(4)).
type device struct {
	name         string
	major, minor uint32
}

var devices = []device{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}

// links are the symbolic links that programs expect beside them.
var links = []struct{ name, to string }{
	{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"}, {"ptmx", "pts/ptmx"},
}

// cloneDeviceNodes makes a bind mount of each device node, for mountDev to attach. Child.
func cloneDeviceNodes(c *child) (err error) {
	info("cloning the device nodes of the host...")
	c.devices = map[string]int{}
	for _, d := range devices {
		if c.devices[d.name], err = cloneDevice(d); err != nil {
			return err
		}
	}
	return nil
}

// cloneDevice makes a bind mount of the host's device node, having made sure that it is what its name says: a mask over
// /proc/kcore that is no /dev/null would be none (CVE-2025-31133).
func cloneDevice(d device) (mount int, err error) {
	path := "/dev/" + d.name
	if mount, err = cloneMount(unix.AT_FDCWD, path); err != nil {
		return -1, err
	}
	var stat unix.Stat_t
	if err := sys(unix.Fstat(mount, &stat), "fstat(%d)", mount); err != nil {
		return -1, err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFCHR || stat.Rdev != unix.Mkdev(d.major, d.minor) {
		return -1, refuse("the host's %s is not the character device %d:%d", path, d.major, d.minor)
	}
	return mount, nil
}

// mountDev mounts and fills /dev. Child.
func mountDev(c *child) error {
	info("filling /dev...")
	becomeOwner(c)
	ptsOptions := []string{"mode", "620", "ptmxmode", "666", "gid", strconv.Itoa(ttyGroup)}
	if c.OneID {
		ptsOptions = ptsOptions[:4] // there is no group "tty"
	}
	const noExec = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC
	dev, err := newMount("tmpfs", unix.MOUNT_ATTR_NOSUID, "mode", "755", "size", "64k")
	if err != nil {
		return err
	}
	if err := attachTo(dev, c.dev, "dev"); err != nil {
		return err
	}
	for _, d := range devices {
		place, err := unix.Openat(dev, d.name, unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o666)
		if err := sys(err, "openat(%d, %q, O_CREAT|O_EXCL|O_CLOEXEC, 0666) = %d", dev, d.name, place); err != nil {
			return err
		}
		if err := attachTo(c.devices[d.name], place, d.name); err != nil {
			return err
		}
		unix.Close(place)
	}
	for _, l := range links {
		if err := sys(unix.Symlinkat(l.to, dev, l.name), "symlinkat(%q, %d, %q)", l.to, dev, l.name); err != nil {
			return err
		}
	}
	// devpts(5): a new instance, so that the container sees none of the host's terminals.
	c.pts, err = newMount("devpts", noExec, ptsOptions...)
	if err != nil {
		return err
	}
	if err := attach(c.pts, dev, "pts"); err != nil {
		return err
	}
	shm, err := newMount("tmpfs", noExec|unix.MOUNT_ATTR_NODEV, "mode", "1777", "size", "64m") // shm_overview(7)
	if err != nil {
		return err
	}
	if err := attach(shm, dev, "shm"); err != nil {
		return err
	}
	if c.skips("ipc") {
		return nil
	}
	mqueue, err := newMount("mqueue", noExec|unix.MOUNT_ATTR_NODEV) // mq_overview(7): the queues of the IPC namespace
	if err != nil {
		return err
	}
	return attach(mqueue, dev, "mqueue")
}
