package main

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// /proc and /sys (proc(5), sysfs(5)): how a process looks at the kernel, and by writing changes it. The container gets its own,
// in which everything that tells on the host, or reaches it, is covered.
//
// Chapter: docs/06-proc-sys-dev.md

// newKernelFilesystems makes a /proc, a /sys and a /sys/fs/cgroup, which show the kernel to the container: proc(5), sysfs(5),
// cgroup_namespaces(7). New ones, because each shows the namespaces of the process that makes it. Child.
func newKernelFilesystems(c *child) (err error) {
	info("making a new /proc, /sys and /sys/fs/cgroup...")
	if c.proc, err = newOrCloned(c, "pid", "proc", "/proc", harmless); err != nil {
		return err
	}
	if c.sysfs, err = newOrCloned(c, "net", "sysfs", "/sys", harmless|unix.MOUNT_ATTR_RDONLY); err != nil {
		return err
	}
	c.cgroupfs, err = newOrCloned(c, "cgroup", "cgroup2", "/sys/fs/cgroup", harmless|unix.MOUNT_ATTR_RDONLY)
	return err
}

// newOrCloned makes a new mount of a kernel filesystem. When the namespace that it shows was left out with --skip, the kernel
// allows no new one, and the container gets the host's.
func newOrCloned(c *child, layer, fstype, path string, attributes int) (int, error) {
	if !c.skips(layer) || c.skips("userns") {
		return newMount(fstype, attributes)
	}
	mount, err := cloneMount(unix.AT_FDCWD, path)
	if err != nil {
		return -1, err
	}
	return mount, setMountAttr(mount, attributes)
}

// masked are the files and directories that tell too much about the host, or reach its hardware: the list of runc's default
// configuration, and those that Docker added since.
var masked = []string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
	"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
}

// readOnly are the parts of /proc through which the host's kernel is configured, as in runc's default configuration.
var readOnly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

// mountKernelFilesystems attaches them, and hides what should not be seen of them. Child.
func mountKernelFilesystems(c *child) error {
	info("mounting /proc, /sys and /sys/fs/cgroup...")
	if err := attach(c.proc, c.root, "proc"); err != nil {
		return err
	}
	if err := attach(c.sysfs, c.root, "sys"); err != nil {
		return err
	}
	if err := attach(c.cgroupfs, c.sysfs, "fs/cgroup"); err != nil {
		return err
	}
	var err error
	if c.dev, err = openOrMake(c.root, "dev"); err != nil { // mountDev's turn comes later
		return err
	}
	// What the container watches counts against whoever made its user namespace, as well (namespaces(7)): it could use up all
	// that root has. While /proc/sys can be written, half of the usual number is set.
	if !c.skips("userns") && !c.skips("pid") { // else it would be the host's setting
		err := writeExisting(c.proc, "sys/user/max_inotify_instances", "64")
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	for _, path := range readOnly {
		if err := c.cover(path, readOnlyCover); err != nil {
			return err
		}
	}
	for _, path := range masked {
		if err := c.cover(path, mask); err != nil {
			return err
		}
	}
	// How often each processor was too hot tells what others compute.
	for cpu, found := 0, true; found; cpu++ {
		path := fmt.Sprintf("devices/system/cpu/cpu%d/thermal_throttle", cpu)
		if found = unix.Faccessat(c.sysfs, path, unix.F_OK, 0) == nil; found {
			if err := c.cover("/sys/"+path, mask); err != nil {
				return err
			}
		}
	}
	return nil
}

// below returns the open mount that path is in, and path below it.
func (c *child) below(path string) (mount int, name string) {
	if name, ok := strings.CutPrefix(path, "/proc/"); ok {
		return c.proc, name
	}
	return c.sysfs, strings.TrimPrefix(path, "/sys/")
}

// cover mounts over path what makeCover makes for it. What this kernel does not have needs no cover.
func (c *child) cover(path string, makeCover func(target int) (mount int, err error)) error {
	mount, name := c.below(path)
	target, err := openTarget(mount, name, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	cover, err := makeCover(target)
	if err != nil {
		return err
	}
	return attachTo(cover, target, path)
}

// readOnlyCover is the target itself, read-only.
func readOnlyCover(target int) (mount int, err error) {
	if mount, err = cloneMount(target, ""); err != nil {
		return -1, err
	}
	return mount, setMountAttr(mount, unix.MOUNT_ATTR_RDONLY)
}

// mask is nothing: an empty directory over a directory, /dev/null over a file.
func mask(target int) (mount int, err error) {
	var stat unix.Stat_t
	if err := sys(unix.Fstat(target, &stat), "fstat(%d)", target); err != nil {
		return -1, err
	}
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		return newMount("tmpfs", unix.MOUNT_ATTR_RDONLY|harmless, "mode", "555")
	}
	return cloneDevice(device{"null", 1, 3})
}
