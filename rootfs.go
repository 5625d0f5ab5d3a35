package main

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// What DIR can be made into on its way to /: a tree with its owners shifted, under a layer that takes all writes, read-only, with
// other directories of the host's in it. None of this changes anything on disk.
//
// Chapter: docs/05-mounts-and-pivot-root.md

// A bind is a file or directory of the host's that the container sees in its own tree.
type bind struct {
	Source   bytesText // host path, absolute and free of symbolic links
	Target   bytesText // a path inside
	ReadOnly bool
}

// cloneBinds makes the mounts that --bind asks for, in no tree yet. The parent does it, as what only root may enter has to be opened
// before there is a user namespace; without root the child, who alone may make mounts.
func cloneBinds(config *Config) (mounts []int, err error) {
	for _, b := range config.Binds {
		mount, err := cloneBind(b)
		if err != nil {
			return mounts, in("bind", err)
		}
		mounts = append(mounts, mount)
	}
	return mounts, nil
}

// sendConfig sends the child what it is to do, and the mounts for --bind. Parent.
func (c *container) sendConfig() error {
	if err := c.send(messageConfig, c.config); err != nil || c.config.OneID {
		return err
	}
	binds, err := cloneBinds(c.config)
	defer func() {
		for _, mount := range binds {
			unix.Close(mount)
		}
	}()
	if err != nil {
		return err
	}
	for _, mount := range binds {
		if err := c.send(messageMount, nil, mount); err != nil {
			return err
		}
	}
	return nil
}

// cloneBind makes a bind mount of b's source. Nothing in it is a device or gains privileges: it is the host's. Both.
func cloneBind(b bind) (mount int, err error) {
	if mount, err = cloneTree(string(b.Source), 0); err != nil {
		return -1, err
	}
	attributes := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	if b.ReadOnly {
		attributes |= unix.MOUNT_ATTR_RDONLY
	}
	return mount, setMountAttr(mount, attributes)
}

// attachBinds attaches them to their targets, which may lie behind symbolic links: those are followed as if DIR were / already
// (openat2(2), RESOLVE_IN_ROOT), so that none leads out of it. Child.
func attachBinds(c *child) error {
	var taken []string
	for i, b := range c.Binds {
		info("binding %s to %s...", b.Source, b.Target)
		target, err := unix.Openat2(c.root, string(b.Target), &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		err = sys(err, "openat2(%d, %q, {O_PATH|O_CLOEXEC, RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS}) = %d", c.root, b.Target, target)
		if err == nil {
			place := c.insidePath(target)
			if !c.Config.bindable(place) || slices.Contains(taken, place) {
				return refuse("--bind: %s leads to %s, which is barco's own, or has a bind already", b.Target, cmp.Or(place, "/"))
			}
			taken = append(taken, place)
			err = attachTo(c.binds[i], target, string(b.Target))
			unix.Close(target)
		}
		var failure *Failure
		switch {
		case errors.Is(err, unix.ENOENT) && errors.As(err, &failure):
			failure.Hint = fmt.Sprintf("%s does not exist inside %s, and --bind does not make its DST: mkdir or touch it", b.Target, c.Root)
		case errors.Is(err, unix.EINVAL) && errors.As(err, &failure):
			failure.Hint = "SRC and DST of a --bind are both directories, or neither is"
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// insidePath returns where in the root an open file is, "" for the root itself. The root is on /proc still, so the kernel's own
// answer comes from the new proc filesystem. Child.
func (c *child) insidePath(fd int) string {
	path := make([]byte, unix.PathMax)
	n, _ := unix.Readlinkat(c.proc, fmt.Sprintf("self/fd/%d", fd), path)
	return strings.TrimPrefix(string(path[:max(0, n)]), "/proc")
}

// bindable says whether a path inside can have a bind: not the root, and nothing in what barco mounts itself.
func (config *Config) bindable(path string) bool {
	top, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return top != "" && !slices.Contains(mountPoints, top) && !(config.ReadOnly && top == "tmp")
}

// sendMapped tells the child that its ids are there, and hands it its seccomp filter. A root that takes powers over the host's
// filesystems to make, and the ids to make it of, goes along. Parent.
func (c *container) sendMapped(filter []byte) error {
	if !c.config.rootFromParent() {
		return c.send(messageMapped, filter)
	}
	root, err := cloneTree(string(c.config.Root), unix.O_DIRECTORY)
	if err == nil && c.config.IDMap {
		err = shiftOwners(root, c.process.Pid)
	}
	if err == nil && c.config.Overlay.Max > 0 {
		root, err = overlayAside(root, c.config)
	}
	if err != nil {
		return in("root", err)
	}
	defer unix.Close(root)
	return c.send(messageMapped, filter, root)
}

// rootFromParent says whether the child gets its root from the parent, and so asks for it before it mounts anything. Without root
// the parent has no powers that the child lacks.
func (config *Config) rootFromParent() bool {
	return (config.IDMap || config.Overlay.Max > 0) && !config.OneID && !config.skips("mounts")
}

// shiftOwners shifts every owner in a mount by the container's id map (mount_setattr(2), MOUNT_ATTR_IDMAP): what root owns on disk,
// root owns inside, and what root writes inside belongs to root on disk. The kernel takes the map from a user namespace, which is
// the container's own. Parent.
func shiftOwners(mount, pid int) error {
	info("shifting owners by the id map...")
	userns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/user", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err := sys(err, `open("/proc/%d/ns/user", O_RDONLY|O_CLOEXEC) = %d`, pid, userns); err != nil {
		return err
	}
	defer unix.Close(userns)
	err = unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Propagation: unix.MS_PRIVATE, Userns_fd: uint64(userns)})
	return sys(err, `mount_setattr(%d, "", AT_EMPTY_PATH|AT_RECURSIVE, {attr_set=MOUNT_ATTR_IDMAP, propagation=MS_PRIVATE, userns_fd=%d})`, mount, userns)
}

// overlayAside makes the overlay where nobody sees it: in a thread that has a mount namespace of its own, and ends. Parent.
func overlayAside(lower int, config *Config) (overlay int, err error) {
	done := make(chan error)
	go func() {
		defer lastWords()
		runtime.LockOSThread() // and never unlocked: the thread ends with this function, and its namespace with it
		err := sys(unix.Unshare(unix.CLONE_NEWNS), "unshare(CLONE_NEWNS)")
		if err == nil {
			err = makeMountsPrivate(nil)
		}
		if err == nil {
			overlay, err = overlayOn(lower, config)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return -1, err
	}
	for _, name := range mountPoints {
		if err := makeMountPoint(overlay, name); err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, err
		}
	}
	return overlay, nil
}

// overlayOn puts a layer in memory over a mount: what is written goes there, and is gone with the container (overlayfs,
// Documentation/filesystems/overlayfs.rst). It takes its layers by path, so they are mounted on /proc and /sys, which are surely there. Both.
func overlayOn(lower int, config *Config) (overlay int, err error) {
	info("putting a layer of %s in memory over it...", formatSize(fmt.Sprint(config.Overlay.Max)))
	layer, err := newMount("tmpfs", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, "mode", "755", "size", fmt.Sprint(config.Overlay.Max))
	if err != nil {
		return -1, err
	}
	if err := attachAt(lower, "/proc"); err != nil {
		return -1, err
	}
	if err := attachAt(layer, "/sys"); err != nil {
		return -1, err
	}
	for _, name := range []string{"upper", "work"} {
		if err := sys(unix.Mkdirat(layer, name, 0o755), "mkdirat(%d, %q, 0755)", layer, name); err != nil {
			return -1, err
		}
	}
	var root unix.Stat_t // of the two roots, the one in memory is seen
	if err := sys(unix.Fstat(lower, &root), "fstat(%d)", lower); err != nil {
		return -1, err
	}
	options := []string{"lowerdir", "/proc", "upperdir", "/sys/upper", "workdir", "/sys/work"}
	if config.OneID {
		options = append(options, "userxattr", "") // what overlayfs notes about files it notes as an ordinary user may
	} else if err := sys(unix.Fchownat(layer, "upper", int(root.Uid), int(root.Gid), 0), `fchownat(%d, "upper", %d, %d, 0)`, layer, root.Uid, root.Gid); err != nil {
		return -1, err
	}
	if err := sys(unix.Fchmodat(layer, "upper", root.Mode&0o7777, 0), `fchmodat(%d, "upper", %#o, 0)`, layer, root.Mode&0o7777); err != nil {
		return -1, err
	}
	return newMount("overlay", 0, options...)
}

// mountTmp gives a container whose tree is read-only a /tmp in memory. Child.
func mountTmp(c *child) error {
	if !c.ReadOnly {
		return nil
	}
	tmp, err := newMount("tmpfs", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, "mode", "1777", "size", "256m")
	if err != nil {
		return err
	}
	return attach(tmp, c.root, "tmp")
}

// mountedBelow returns the filesystems that are mounted below root on the host, from the text of a mountinfo: an overlay shows the
// one that root is on, and not these. The kernel's own are not among them, as the container has its own.
func mountedBelow(root, mountinfo string) (points []string) {
	for _, m := range parseMountinfo(mountinfo) {
		below, ok := strings.CutPrefix(m.point, strings.TrimSuffix(root, "/")+"/")
		first, _, _ := strings.Cut(below, "/")
		if ok && below != "" && !slices.Contains(mountPoints, first) {
			points = append(points, m.point)
		}
	}
	return points
}
