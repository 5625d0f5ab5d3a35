package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The mount namespace (mount_namespaces(7)): the container gets a tree of mounts of its own, DIR becomes its root, and the
// host's root is let go of.
//
// barco makes every mount aside first, where it has no place in any tree (fsopen(2), open_tree(2)), and then attaches it to
// a directory that it has open (move_mount(2)). No path is looked up twice, so nothing inside DIR can lead a mount astray by
// a symbolic link: runtimes have been escaped from that way (CVE-2019-19921, CVE-2025-31133).
//
// Chapter: docs/05-mounts-and-pivot-root.md

// mountPoints are the directories in DIR that barco mounts on.
var mountPoints = []string{"proc", "sys", "dev"}

// makeMountPoints makes the directories in DIR that barco mounts on, where they are missing; they stay there, unless remove is
// called because the command never ran. A mount point that is a symbolic link is found out by the child, which does not follow
// it. Parent: the child, without a capability on the host, could not make them in a DIR that is not root's.
func makeMountPoints(config *Config) (remove func(), err error) {
	if config.skips("mounts") || config.Overlay.Max > 0 { // which are made in the overlay
		return func() {}, nil
	}
	root, err := unix.Openat2(unix.AT_FDCWD, string(config.Root), &unix.OpenHow{Flags: unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err := sys(err, "openat2(AT_FDCWD, %q, {O_DIRECTORY|O_CLOEXEC, RESOLVE_NO_SYMLINKS}) = %d", config.Root, root); err != nil {
		return nil, in("mount points", err)
	}
	// Each barco holds a shared lock on its DIR: to remove a directory that another one has mounted on would detach its mount.
	unix.Flock(root, unix.LOCK_SH|unix.LOCK_NB)
	var made []string
	remove = func() {
		for _, name := range made {
			if unix.Flock(root, unix.LOCK_EX|unix.LOCK_NB) == nil {
				unix.Unlinkat(root, name, unix.AT_REMOVEDIR)
			}
		}
	}
	names := mountPoints
	if config.ReadOnly {
		names = append(slices.Clone(names), "tmp")
	}
	for _, name := range names {
		err := makeMountPoint(root, name)
		switch {
		case err == nil:
			made = append(made, name)
		case !errors.Is(err, unix.EEXIST):
			remove()
			return nil, in("mount points", err)
		}
	}
	return remove, nil
}

// makeMountPoint makes the directory name in root, for root's owner.
func makeMountPoint(root int, name string) (err error) {
	if err := sys(unix.Mkdirat(root, name, 0o755), "mkdirat(%d, %q, 0755)", root, name); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			unix.Unlinkat(root, name, unix.AT_REMOVEDIR)
		}
	}()
	var owner unix.Stat_t
	if err := sys(unix.Fstat(root, &owner), "fstat(%d)", root); err != nil {
		return err
	}
	if int(owner.Uid) == unix.Geteuid() {
		return nil
	}
	return sys(unix.Fchownat(root, name, int(owner.Uid), int(owner.Gid), unix.AT_SYMLINK_NOFOLLOW),
		"fchownat(%d, %q, %d, %d, AT_SYMLINK_NOFOLLOW)", root, name, owner.Uid, owner.Gid)
}

// makeMountsPrivate cuts the ties to the host's mounts. A new mount namespace begins as a copy, and on most hosts every mount is shared:
// what the host mounts later appears in the copy too, and without a user namespace of its own, what is mounted in the copy appears on
// the host (mount_namespaces(7), SHARED SUBTREES). Child.
func makeMountsPrivate(*child) error {
	info("making all mounts private...")
	return sys(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), `mount("", "/", "", MS_REC|MS_PRIVATE)`)
}

// bindRoot makes a mount of DIR, with all that is mounted below it, and opens it: it will be the root. With --idmap or --overlay it is
// made of ids, so they are asked for already now, and it comes with them: see rootfs.go. Child.
func bindRoot(c *child) error {
	info("making %s the container's root...", c.Root)
	if c.rootFromParent() || c.Overlay.Max > 0 {
		if err := askForIDMap(c); err != nil {
			return err
		}
	}
	var err error
	if c.OneID { // now, while /proc and /sys are what they are called
		if c.binds, err = cloneBinds(&c.Config); err != nil {
			return err
		}
	}
	if !c.rootFromParent() {
		if c.root, err = cloneTree(string(c.Root), unix.O_DIRECTORY); err != nil {
			return err
		}
		if c.Overlay.Max > 0 {
			becomeOwner(c)
			if c.root, err = overlayOn(c.root, &c.Config); err != nil {
				return err
			}
		}
	}
	// pivot_root wants a root that is mounted somewhere. A bind mount cannot be made onto / itself, which DIR may well be, so it
	// goes onto /proc: any directory would do that is surely there, and barco was just started from /proc/self/exe. Nobody will
	// see it there, for pivot_root moves it to /.
	if err := attachAt(c.root, "/proc"); err != nil {
		return err
	}
	// A device node in DIR would open the host's device, whoever made it. And where DIR is not the container's own, the host's
	// set-user-ID programs have no effect anyway, as their owner is nobody inside; those with capabilities would (setcap(8)).
	attributes := unix.MOUNT_ATTR_NODEV
	if c.Foreign {
		attributes |= unix.MOUNT_ATTR_NOSUID
	}
	if c.ReadOnly {
		attributes |= unix.MOUNT_ATTR_RDONLY
	}
	return setMountAttr(c.root, attributes)
}

// pivotRoot makes the new root the root of the mount namespace, and detaches the old one (pivot_root(2)). Unlike after
// chroot(2), nothing outside is mounted any more. pivot_root(".", ".") stacks the old root on top of the new one, where
// umount2 finds it: no directory for it is needed. Child.
func pivotRoot(c *child) error {
	info("pivoting into the new root...")
	if err := sys(unix.Fchdir(c.root), "fchdir(%d)", c.root); err != nil {
		return err
	}
	if err := sys(unix.PivotRoot(".", "."), `pivot_root(".", ".")`); err != nil {
		return err
	}
	if err := sys(unix.Unmount(".", unix.MNT_DETACH), `umount2(".", MNT_DETACH)`); err != nil {
		return err
	}
	return sys(unix.Chdir("/"), `chdir("/")`)
}

// harmless are the attributes of a mount in which nobody has programs or devices.
const harmless = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

// newMount makes a new filesystem, mounted nowhere yet (fsopen(2), fsconfig(2), fsmount(2)). Options come in pairs, key and value; a flag's value is empty.
func newMount(fstype string, attributes int, options ...string) (mount int, err error) {
	context, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err := sys(err, "fsopen(%q, FSOPEN_CLOEXEC) = %d", fstype, context); err != nil {
		return -1, err
	}
	defer unix.Close(context)
	options = append([]string{"source", fstype}, options...) // what the first column of mount(8) shows
	for ; len(options) > 0; options = options[2:] {
		if options[1] == "" {
			err = sys(unix.FsconfigSetFlag(context, options[0]), "fsconfig(%d<%s>, FSCONFIG_SET_FLAG, %q)", context, fstype, options[0])
		} else {
			err = sys(unix.FsconfigSetString(context, options[0], options[1]), "fsconfig(%d<%s>, FSCONFIG_SET_STRING, %q, %q)", context, fstype, options[0], options[1])
		}
		if err != nil {
			return -1, err
		}
	}
	if err := sys(unix.FsconfigCreate(context), "fsconfig(%d<%s>, FSCONFIG_CMD_CREATE)", context, fstype); err != nil {
		return -1, err
	}
	mount, err = unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, attributes)
	return mount, sys(err, "fsmount(%d<%s>, FSMOUNT_CLOEXEC, %s) = %d", context, fstype, attrNames(attributes), mount)
}

// cloneTree makes a bind mount of a host path that is free of symbolic links, and still is: whoever owns a directory above could
// have put one there meanwhile.
func cloneTree(path string, flags uint64) (mount int, err error) {
	tree, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err := sys(err, "openat2(AT_FDCWD, %q, {O_PATH|O_CLOEXEC%s, RESOLVE_NO_SYMLINKS}) = %d", path, directory[flags], tree); err != nil {
		return -1, err
	}
	defer unix.Close(tree)
	return cloneMount(tree, "")
}

// directory is how a narrated openat2 shows O_DIRECTORY.
var directory = map[uint64]string{unix.O_DIRECTORY: "|O_DIRECTORY"}

// cloneMount makes a bind mount of path below dir, with all that is mounted below it, mounted nowhere yet (open_tree(2)).
func cloneMount(dir int, path string) (mount int, err error) {
	mount, err = unix.OpenTree(dir, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	return mount, sys(err, "open_tree(%v, %q, OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH|AT_RECURSIVE) = %d", at(dir), path, mount)
}

// setMountAttr sets attributes on a mount and on all that is mounted below it (mount_setattr(2)), and makes them private: a clone
// of one of the host's mounts that are shared is shared with it, and what is mounted on the one appears on the other.
func setMountAttr(mount int, attributes int) error {
	err := unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: uint64(attributes), Propagation: unix.MS_PRIVATE})
	return sys(err, `mount_setattr(%d, "", AT_EMPTY_PATH|AT_RECURSIVE, {attr_set=%s, propagation=MS_PRIVATE})`, mount, attrNames(attributes))
}

// attachAt attaches a mount to an absolute path, in a mount namespace that has no part in the host's.
func attachAt(mount int, path string) error {
	return sys(unix.MoveMount(mount, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH),
		`move_mount(%d, "", AT_FDCWD, %q, MOVE_MOUNT_F_EMPTY_PATH)`, mount, path)
}

// attach attaches a mount to the directory name in dir, which is made if it is missing. The mount stays open.
func attach(mount, dir int, name string) error {
	target, err := openOrMake(dir, name)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return attachTo(mount, target, name)
}

// openOrMake opens the directory name below dir where something is to be mounted, and makes it if it is missing.
func openOrMake(dir int, name string) (int, error) {
	target, err := openTarget(dir, name, unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		if err := sys(unix.Mkdirat(dir, name, 0o755), "mkdirat(%d, %q, 0755)", dir, name); err != nil {
			return -1, err
		}
		return openTarget(dir, name, unix.O_DIRECTORY)
	}
	return target, err
}

// attachTo attaches a mount to the open file or directory target; name is for the reader.
func attachTo(mount, target int, name string) error {
	err := unix.MoveMount(mount, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	return sys(err, `move_mount(%d, "", %d<%s>, "", MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH)`, mount, target, name)
}

// openTarget opens the place name below dir where something is to be mounted. It may be neither a symbolic link nor behind
// one, and with O_DIRECTORY as the kind it must be a directory.
func openTarget(dir int, name string, kind uint64) (int, error) {
	target, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC | kind,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	return target, sys(err, "openat2(%d, %q, {O_PATH|O_CLOEXEC%s, RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS}) = %d", dir, name, directory[kind], target)
}

// A mountEntry is a mount as a line of /proc/PID/mountinfo has it (proc_pid_mountinfo(5)).
type mountEntry struct {
	point   string // path, as the reader of the file sees it
	options string // of the mount, and whom it is shared with
	fstype  string
}

// parseMountinfo reads the text of a mountinfo: ... fifth field mount point, options ... " - " filesystem type ...
func parseMountinfo(text string) (mounts []mountEntry) {
	// The kernel writes blanks and backslashes in a path as octal numbers.
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(text) {
		before, after, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		fstype, _, _ := strings.Cut(after, " ")
		if fields := strings.Split(before, " "); len(fields) > 5 {
			mounts = append(mounts, mountEntry{unescape.Replace(fields[4]), strings.Join(fields[5:], " "), fstype})
		}
	}
	return mounts
}

// attrNames spells out mount attributes.
func attrNames(attributes int) string {
	var names []string
	for _, a := range []struct {
		bit  int
		name string
	}{
		{unix.MOUNT_ATTR_RDONLY, "RDONLY"}, {unix.MOUNT_ATTR_NOSUID, "NOSUID"}, {unix.MOUNT_ATTR_NODEV, "NODEV"}, {unix.MOUNT_ATTR_NOEXEC, "NOEXEC"},
	} {
		if attributes&a.bit != 0 {
			names = append(names, "MOUNT_ATTR_"+a.name)
		}
	}
	if names == nil {
		return fmt.Sprint(attributes)
	}
	return strings.Join(names, "|")
}
